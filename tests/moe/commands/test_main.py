"""Tests for the commands: output, files, and one-line errors with exit code 2."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, moe, workdir
from conftest import made_up_rows, write_csv
from signals import interrupt_at

from moe.console import set_verbosity
from moe.evaluation.metrics import SCORE_METRICS
from moe.runs.best import best_model

__all__ = ["moe", "workdir"]


@pytest.fixture
def trained(moe: CommandLine, workdir: Path) -> CommandLine:
    """Command line after `moe run`."""
    if not (workdir / "runs" / "tiny" / "result.json").exists():
        code, _, err = moe("run", "-c", "tiny.yaml")
        assert code == 0, err
    return moe


def test_main_commands_run_one_after_the_other(moe: CommandLine, workdir: Path) -> None:
    options = ("-c", "tiny.yaml", "-o", "four")
    assert moe("train-expert", "--domain", "news", *options)[0] == 0
    assert moe("train-expert", "--domain", "forum", *options)[0] == 0
    code, out, err = moe("merge", *options)
    assert (code, out.strip()) == (0, "four/moe-init")
    assert "four/experts/news, four/experts/forum" in err
    code, out, _ = moe("train-router", *options)
    assert code == 0
    assert out.startswith("best by validation macro-F1: ")
    (graph,) = (workdir / "four").glob("*/graph/model.onnx")
    assert graph.parent.parent == best_model(workdir / "four")
    code, out, _ = moe("infer", "profit rose", "--data-type", "forum", "--run", "four")
    assert code == 0
    assert json.loads(out)["task"] == "forum"
    assert "Resume" not in out


def test_export_writes_the_graph_into_the_folder_of_the_model(trained: CommandLine, workdir: Path) -> None:
    mixture = workdir / "runs" / "tiny" / "moe-init"
    assert not (mixture / "graph").exists()
    assert "moe export FOLDER --to graph" in trained.refused("infer", "a", "--model", str(mixture), "--runtime", "onnx")
    code, out, err = trained("export", "runs/tiny", "--to", "graph", "--json")
    assert code == 0, err
    assert json.loads(out)["files"].keys() == {"graph.json", "tokenizer.json"} | {
        f"{part}.onnx" for part in ("model", "router", "experts", "folded")
    }
    assert trained("infer", "a", "--model", "runs/tiny", "--runtime", "onnx")[0] == 0
    assert "--out-dir" in trained.refused("export", "runs/tiny", "--to", "graph", "--out-dir", "elsewhere")
    assert "--runtime auto, onnx, int8 or torch" in trained.refused(
        "infer", "a", "--model", "runs/tiny", "--runtime", "fast"
    )


def test_run_prints_metrics_routing_and_three_predictions(trained: CommandLine, workdir: Path) -> None:
    summary = json.loads((workdir / "runs" / "tiny" / "summary.json").read_text())
    best = summary["best"]
    models = ["majority", "tfidf", "own expert", "pooled LoRA", "moe-init", "router-warmup", "moe-joint"]
    assert [*models, f"{best}, hard", f"{best}, pinned"] == list(summary["figures"])
    for metrics in (metrics for tasks in summary["figures"].values() for metrics in tasks.values()):
        names = ("accuracy", "macro_f1", *SCORE_METRICS)
        assert metrics.keys() == {f"{name}{suffix}" for name in names for suffix in ("", "_interval")}
        assert metrics["accuracy_interval"][0] <= metrics["accuracy"] <= metrics["accuracy_interval"][1]
    assert len(summary["predictions"]) == 3
    assert summary["routing"]["table"].keys() == {"news", "forum"}
    for model in ("moe-init", "moe-joint"):
        names = {path.name for path in (workdir / "runs" / "tiny" / "evaluation" / model).iterdir()}
        assert names == {"metrics.json", "right.csv", "wrong.csv"}


def test_training_steps_print_json_on_request(trained: CommandLine) -> None:
    def result(*words: str) -> dict[str, Any]:
        code, out, err = trained(*words, "-c", "tiny.yaml", "--json")
        assert code == 0, err
        content: dict[str, Any] = json.loads(out)
        return content

    news, forum = result("train-expert", "--all")["folders"]
    assert (news["folder"], news["kept"], news["steps"]) == ("runs/tiny/experts/news", True, 6)
    assert 0 <= forum["validation"]["macro_f1"] <= 1
    merged = {"folder": "runs/tiny/moe-init", "steps": 0, "validation": {}}
    for words, reused in ((("merge",), True), (("merge", "--overwrite"), False)):
        assert result(*words) == {"folders": [merged | {"kept": reused}], "stale": []}
    router = result("train-router")
    assert [step["folder"] for step in router["folders"][1:]] == ["runs/tiny/router-warmup", "runs/tiny/moe-joint"]
    assert all(step["kept"] for step in router["folders"][1:])
    assert router["verdict"].startswith("best by validation")


def test_finished_step_of_other_settings_is_refused_with_exit_code_2(trained: CommandLine) -> None:
    words = ("train-expert", "--domain", "news", "-c", "tiny.yaml", "--set", "lora.r=2")
    message = trained.refused(*words)
    assert "lora.r: " in message
    assert "then, 2 now" in message
    assert "--overwrite" in message


def test_quiet_prints_the_result_only(trained: CommandLine) -> None:
    normal, quiet = (trained(*flags, "merge", "--overwrite", "-c", "tiny.yaml") for flags in ((), ("--quiet",)))
    assert "merging" in normal[2]
    assert quiet == (0, normal[1], "")
    set_verbosity(quiet=False, verbose=False)


def test_infer_prints_one_json_object_per_line_in_a_pipe(trained: CommandLine) -> None:
    code, out, _ = trained("infer", "profit rose", "bags fell", "-c", "tiny.yaml")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["text"] for row in rows] == ["profit rose", "bags fell"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_infer_retains_the_order_of_unreadable_rows_in_every_format(
    trained: CommandLine, workdir: Path, ending: str
) -> None:
    (workdir / "texts.csv").write_text('id,text\na,profit rose\nb,\nc,"bags fell"\n')
    code, _, err = trained("infer", "-c", "tiny.yaml", "--file", "texts.csv", "--out", f"out/answers.{ending}")
    assert code == 0, err
    from moe.data.formats.readers import read_records

    rows = [record.values for record in read_records(workdir / "out" / f"answers.{ending}", others=None)]
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert [bool(row.get("error")) for row in rows] == [False, True, False]
    assert not list((workdir / "out").glob(".*"))


@pytest.mark.slow
def test_infer_gives_the_same_result_for_a_file_with_several_processes(
    trained: CommandLine, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moe.inference.multiprocess.available_cores", lambda: 2)
    (workdir / "texts.csv").write_text("text\n" + "profit rose\nbags fell\n" * 5)
    words = ("infer", "-c", "tiny.yaml", "--file", "texts.csv", "--batch-tokens", "8")
    single, several = (trained(*words, *workers) for workers in ((), ("--workers", "2")))
    assert single[0] == several[0] == 0, several[2]
    assert single[1] == several[1]


def test_infer_refuses_more_processes_than_cores(trained: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe.inference.multiprocess.available_cores", lambda: 2)
    code, _, err = trained("infer", "profit rose", "-c", "tiny.yaml", "--workers", "3")
    assert code == 2
    assert "at most the 2 cores of this machine; found 3 workers" in err


def test_infer_reads_standard_input(trained: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"profit rose\n\nbags \xff fell\n")
    with (tmp_path / "in").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        code, out, _ = trained("infer", "-c", "tiny.yaml")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert ["error" in row for row in rows] == [False, True, True]


def test_evaluate_accepts_a_file_a_domain_an_expert_and_settings(trained: CommandLine, workdir: Path) -> None:
    code, out, _ = trained("evaluate", "-c", "tiny.yaml", "--domain", "news")
    assert code == 0
    assert json.loads(out)["tasks"].keys() == {"news"}
    code, out, _ = trained("evaluate", "runs/tiny/experts/news", "-c", "tiny.yaml")
    assert json.loads(out)["tasks"].keys() == {"news"}
    code, out, _ = trained("evaluate", "-c", "tiny.yaml", "--data", "data/macro.csv", "--domain", "forum", "--pin")
    report = json.loads(out)
    assert report["rows"] == 90
    assert report["routing_mode"] == "pinned"
    code, out, _ = trained("evaluate", "-c", "tiny.yaml", "--routing", "hard", "--set", "backbone.dtype=bfloat16")
    assert code == 0


def test_report_overlays_the_curves_of_a_second_run(trained: CommandLine, workdir: Path) -> None:
    constant = ("--set", "losses.inner=constant", "--set", "losses.classes=cross_entropy")
    assert trained("train-expert", "--domain", "news", "-c", "tiny.yaml", "-o", "constant", *constant)[0] == 0
    code, out, err = trained("report", "runs/tiny", "--against", "constant", "--out-dir", "overlaid")
    assert code == 0, err
    report = json.loads(out)
    stages = [(row["stage"], row["run"], row["steps"]) for row in report["stages"]]
    only_tiny = [("forum", "tiny", 6), ("pooled", "tiny", 12)]
    only_tiny += [(name, "tiny", 6) for name in ("router-warmup", "moe-joint")]
    assert stages == [("news", "tiny", 6), ("news", "constant", 6), *only_tiny]
    assert all(row["seconds"] > 0 and row["peak_mib"] > 0 for row in report["stages"])
    assert {"news-weights-inner.png", "moe-joint-weights-outer.png", "moe-joint-routing.png"} <= set(report["pictures"])
    for name in (*report["pictures"], "index.html", "report.json"):
        assert (workdir / "overlaid" / name).stat().st_size > 0
    assert report["left_out"], "stages of one run only are listed"
    assert report["page"] == str(Path("overlaid") / "index.html")


def test_report_refuses_a_folder_that_is_no_run(trained: CommandLine) -> None:
    assert "no such folder" in trained.refused("report", "nowhere")
    assert "Use the run's folder" in trained.refused("report", "runs/tiny/moe-joint")
    assert "a folder without logs" in trained.refused("report", "runs/tiny", "--against", "data")


def test_compare_reports_the_metrics_of_two_models_and_their_difference(trained: CommandLine, workdir: Path) -> None:
    options = ("-c", "tiny.yaml", "--json")
    code, out, err = trained("compare", "runs/tiny/moe-joint", "runs/tiny/moe-init", *options)
    assert code == 0, err
    report = json.loads(out)
    assert report["tasks"].keys() == {"news", "forum"}
    assert report["mean"]["rows"] == sum(task["rows"] for task in report["tasks"].values())
    names = ("moe-joint", "moe-init")
    evaluations = [json.loads(trained("evaluate", f"runs/tiny/{name}", *options)[1]) for name in names]
    for side, evaluation in zip("ab", evaluations, strict=True):
        assert report["mean"]["macro_f1"][side] == pytest.approx(evaluation["mean"]["macro_f1"])
    same = json.loads(trained("compare", "runs/tiny/moe-init", "runs/tiny/moe-init", *options)[1])["mean"]
    assert (same["mcnemar_p"], same["accuracy"]["interval"], same["accuracy"]["verdict"]) == (1.0, [0.0, 0.0], "none")


def test_compare_accepts_single_experts_and_refuses_models_without_a_common_task(
    trained: CommandLine, workdir: Path
) -> None:
    news, joint = "runs/tiny/experts/news", "runs/tiny/moe-joint"
    for pair in ((news, joint), (joint, news)):
        assert json.loads(trained("compare", *pair, "-c", "tiny.yaml")[1])["tasks"].keys() == {"news"}
    code, out, err = trained("compare", news, joint, "-c", "tiny.yaml", "--data", "data/macro.csv", "--domain", "news")
    assert code == 0, err
    assert json.loads(out)["mean"]["rows"] == 90
    fault = trained.refused("compare", news, "runs/tiny/experts/forum", "-c", "tiny.yaml")
    assert "two models with a task in common; found runs/tiny/experts/news with news; " in fault
    assert "no such folder" in trained.refused("compare", news, "nowhere", "-c", "tiny.yaml")
    assert "'sport'" in trained.refused("compare", news, joint, "-c", "tiny.yaml", "--domain", "sport")


def test_infer_with_a_single_expert_predicts_its_own_task(trained: CommandLine) -> None:
    code, out, _ = trained("infer", "bags fell", "--model", "runs/tiny/experts/forum")
    assert (code, json.loads(out)["task"]) == (0, "forum")


@pytest.fixture
def calibrated(trained: CommandLine, workdir: Path, tmp_path: Path) -> Path:
    """Copy of the joint mixture, calibrated by hand: forum reaches .9 on half of its rows, news on all."""
    import shutil

    from moe.inference.abstention import RiskCoveragePoint
    from moe.inference.calibration import TaskCalibration, write_calibration

    folder = shutil.copytree(workdir / "runs" / "tiny" / "moe-joint", tmp_path / "calibrated")
    full, half = (
        RiskCoveragePoint(threshold=0.0, rows=100, right=80),
        RiskCoveragePoint(threshold=1.0, rows=50, right=46),
    )
    news = TaskCalibration(temperature=2.0, rows=100, curve=(full.model_copy(update={"right": 95}),))
    write_calibration(folder, {"news": news, "forum": TaskCalibration(temperature=2.0, rows=100, curve=(full, half))})
    return folder


def test_calibrate_writes_temperatures_metrics_and_plots(trained: CommandLine, workdir: Path) -> None:
    code, out, err = trained("calibrate", "runs/tiny/moe-init", "-c", "tiny.yaml")
    assert code == 0, err
    report = json.loads(out)
    assert report["tasks"].keys() == {"news", "forum"}
    assert "18 validation rows, fewer than 30" in report["tasks"]["news"]["remark"]
    assert (
        json.loads((workdir / "runs/tiny/moe-init/calibration.json").read_text())["tasks"]["news"]["temperature"] == 1
    )
    names = {"calibration.json", "reliability.png", "risk_coverage.png"}
    assert names <= {path.name for path in (workdir / "runs/tiny/evaluation/moe-init").iterdir()}
    code, out, _ = trained("calibrate", "runs/tiny/experts/forum", "-c", "tiny.yaml")
    assert (code, json.loads(out)["tasks"].keys()) == (0, {"forum"})
    (workdir / "runs/tiny/experts/forum/calibration.json").unlink()
    assert "no such folder" in trained.refused("calibrate", "nowhere", "-c", "tiny.yaml")


def test_calibration_changes_confidences_but_no_labels(trained: CommandLine, calibrated: Path) -> None:
    uncalibrated, scaled = (
        json.loads(trained("infer", "profit rose", "--json", "--model", str(folder))[1])
        for folder in ("runs/tiny/moe-joint", calibrated)
    )
    assert uncalibrated["label"] == scaled["label"]
    assert uncalibrated["confidence"] > scaled["confidence"]
    assert "abstained" not in scaled
    for folder in ("runs/tiny/moe-joint", str(calibrated)):
        assert trained("evaluate", folder, "-c", "tiny.yaml")[0] == 0
    written = [trained.folder / "runs/tiny/evaluation" / name / "metrics.json" for name in ("moe-joint", "calibrated")]
    first, second = (json.loads(path.read_text())["tasks"] for path in written)
    assert first == second


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_infer_abstains_below_the_threshold_of_the_target_accuracy(
    trained: CommandLine, calibrated: Path, workdir: Path, ending: str
) -> None:
    (workdir / "texts.csv").write_text("text\nprofit rose\n\nbags fell\n")
    words = ("infer", "--model", str(calibrated), "--file", "texts.csv", "--abstain", "0.9")
    for domain, abstained in (("news", False), ("forum", True)):
        code, _, err = trained(*words, "--data-type", domain, "--out", f"out/abstained.{ending}", "--overwrite")
        assert code == 0, err
        from moe.data.formats.readers import read_records

        rows = [
            record.values
            for record in read_records(workdir / "out" / f"abstained.{ending}", others=None)
            if not record.values.get("error")
        ]
        assert len(rows) == 2
        for row in rows:
            assert str(row["abstained"]).lower() == str(abstained).lower()
            assert bool(row["label"]) is not abstained


def test_infer_abstains_in_a_pipe_with_processes_and_in_a_table(
    trained: CommandLine, calibrated: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moe.inference.multiprocess.available_cores", lambda: 2)
    words = ("infer", "bags fell", "--model", str(calibrated), "--data-type", "forum", "--abstain", "0.9")
    single, several = (trained(*words, *workers) for workers in ((), ("--workers", "2")))
    assert single[:2] == several[:2], several[2]
    row = json.loads(single[1])
    assert (row["label"], row["abstained"]) == (None, True)
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "abstained" in trained(*words)[1]


def test_abstain_refuses_an_accuracy_that_cannot_be_reached(trained: CommandLine, calibrated: Path) -> None:
    words = ("infer", "bags fell", "--model", str(calibrated), "--abstain")
    fault = trained.refused(*words, "0.95")
    assert "validation rows of forum reach, not 0.95; found at best 0.920 at 50% coverage" in fault
    assert "Set --abstain to 0.92 or less" in fault
    assert trained(*words, "0.95", "--data-type", "news")[0] == 0
    for accuracy in ("0", "1", "1.5", "-1", "nan"):
        assert "between 0 and 1" in trained.refused(*words, accuracy)
    assert "run moe calibrate" in trained.refused(
        "infer", "bags fell", "--model", "runs/tiny/moe-joint", "--abstain", "0.9", "-c", "tiny.yaml"
    ).replace("Run", "run")
    (calibrated / "calibration.json").write_text("{")
    assert "calibration.json" in trained.refused("infer", "bags fell", "--model", str(calibrated))


def test_check_reports_all_errors_at_once(moe: CommandLine, workdir: Path) -> None:
    assert moe("check", "tiny.yaml")[1].startswith("tiny.yaml: valid; experts news, forum")
    sets = ("--set", "lora.rank=4", "--set", "stages.joint.lr=-1", "--set", "sead=1")
    code, _, err = moe("check", "tiny.yaml", *sets)
    assert code == 2
    assert "lora.rank: unknown key" in err
    assert "stages.joint.lr: Input should be greater than 0, found -1" in err
    assert "sead: unknown key, did you mean seed?" in err
    assert "no file at" in moe.refused("check", "tiny.yaml", "--set", "domains.news.file=none.csv")
    assert "the backbone has 2 layers" in moe.refused("check", "tiny.yaml", "--set", "backbone.trunk_depth=2")


def test_inspect_counts_the_rows_of_a_file(moe: CommandLine) -> None:
    code, out, _ = moe("data", "inspect", "data/news.csv")
    assert code == 0
    assert json.loads(out)["rows"] == 90


def test_inspect_validates_a_file_against_a_task_of_a_domain(moe: CommandLine) -> None:
    files = ({"file": "news.csv", "labels": labels} for labels in (["negative", "neutral", "positive"], ["up", "down"]))
    tasks = "domains.news.tasks=" + json.dumps(dict(zip(("tone", "move"), files, strict=True)))
    unset = ("domains.news.file=null", "domains.news.labels=[]")
    sets = [word for override in (*unset, tasks) for word in ("--set", override)]
    words = ("data", "inspect", "data/news.csv", "-c", "tiny.yaml", "--domain", "news", *sets)
    assert json.loads(moe(*words)[1])["rejected"]["rows"] == 0
    assert json.loads(moe(*words, "--task", "move")[1])["rejected"]["rows"] == 90
    assert "one of news's tasks tone, move" in moe.refused(*words, "--task", "mood")


def test_scores_that_are_no_polarities_are_refused_until_their_column_is_ignored(
    moe: CommandLine, workdir: Path
) -> None:
    rows = [row | {"score": 0.8 + n % 7 / 50} for n, row in enumerate(made_up_rows("news", 90))]
    write_csv(workdir / "data" / "pipe.csv", rows)
    (line, *_) = json.loads(moe("data", "inspect", "data/pipe.csv")[1])["warnings"]
    assert "`columns: {score: null}`" in line
    file = ("tiny.yaml", "--set", "domains.news.file=pipe.csv")
    assert "`columns: {score: null}`" in moe.refused("check", *file)
    assert "`columns: {score: null}`" in moe.refused("train-expert", "--domain", "news", "--config", *file)
    assert moe("check", *file, "--set", "domains.news.columns.score=null")[0] == 0


def test_sample_writes_one_file_per_domain(moe: CommandLine, workdir: Path) -> None:
    code, out, _ = moe("sample", "--out-dir", "made-up", "--rows", "60")
    assert code == 0
    assert {Path(line).stem for line in out.splitlines()} >= {"news", "forum", "macro", "micro", "quant"}


def test_wrong_names_are_refused_with_a_suggestion(trained: CommandLine, workdir: Path) -> None:
    assert "no such file" in trained.refused("train-expert", "--all", "-c", "missing.yaml")
    assert "one of the domains news, forum" in trained.refused("train-expert", "-c", "tiny.yaml", "--domain", "sport")
    assert "--domain NAME, --all" in trained.refused("train-expert", "-c", "tiny.yaml")
    assert "did you mean joint?" in trained.refused("merge", "-c", "tiny.yaml", "--set", "stages.joined.lr=1")
    assert "--set key=value" in trained.refused("merge", "-c", "tiny.yaml", "--set", "seed")
    assert "no such folder" in trained.refused("infer", "x", "--model", "nowhere")
    assert "one of the domains" in trained.refused("infer", "x", "-c", "tiny.yaml", "--data-type", "sport")
    assert "one of the tasks" in trained.refused("infer", "x", "-c", "tiny.yaml", "--task", "sport")
    assert "auto, soft, pruned or hard" in trained.refused("infer", "x", "-c", "tiny.yaml", "--routing", "odd")
    assert "nothing there" in trained.refused("infer", "-c", "tiny.yaml", "--file", "none.csv")
    assert "texts or --file" in trained.refused("infer", "x", "-c", "tiny.yaml", "--file", "texts.csv")
    assert "ending" in trained.refused("infer", "x", "-c", "tiny.yaml", "--out", "a.xlsx")


def test_infer_refuses_an_empty_text_before_loading_a_model(moe: CommandLine) -> None:
    assert "an empty text" in moe.refused("infer", " ", "-c", "tiny.yaml")


def test_binary_files_and_files_without_a_text_column_are_refused(trained: CommandLine, workdir: Path) -> None:
    (workdir / "binary.csv").write_bytes(os.urandom(4000))
    (workdir / "untexted.csv").write_text("body,label\nprofit rose,positive\n")
    for words in (("infer", "-c", "tiny.yaml", "--file", "binary.csv"), ("data", "inspect", "binary.csv")):
        assert "binary.csv" in trained.refused(*words)
    assert "body" in trained.refused("infer", "-c", "tiny.yaml", "--file", "untexted.csv")
    assert "body" in trained.refused("evaluate", "-c", "tiny.yaml", "--data", "untexted.csv", "--domain", "news")


def test_unmapped_labels_stop_training_and_leave_no_folder(moe: CommandLine, workdir: Path) -> None:
    rows = [row | {"label": "up"} for row in made_up_rows("news")]
    write_csv(workdir / "data" / "strange.csv", rows)
    options = ("-c", "tiny.yaml", "-o", "strange", "--domain", "news", "--set", "domains.news.file=strange.csv")
    fault = moe.refused("train-expert", *options)
    assert "'up'" in fault
    assert "label_map" in fault
    assert not (workdir / "strange" / "experts").exists()


def test_damaged_model_folder_is_refused_with_the_name_of_the_file(
    trained: CommandLine, workdir: Path, tmp_path: Path
) -> None:
    import shutil

    source = workdir / "runs" / "tiny" / "moe-joint"
    for name, change in {
        "router.safetensors": lambda path: path.unlink(),
        "heads.safetensors": lambda path: path.write_bytes(path.read_bytes()[:-8]),
        "mixture.json": lambda path: path.write_text("{"),
        "manifest.json": lambda path: path.unlink(),
        "experts/news/adapter_model.safetensors": lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
    }.items():
        broken = shutil.copytree(source, tmp_path / name.replace("/", "-"))
        change(broken / name)
        assert name.split("/")[-1] in trained.refused("infer", "x", "--model", str(broken))


def test_model_of_a_newer_format_is_refused(trained: CommandLine, workdir: Path, tmp_path: Path) -> None:
    import shutil

    from experts.atomic_io import write_manifest

    newer = shutil.copytree(workdir / "runs" / "tiny" / "moe-joint", tmp_path / "newer")
    content = json.loads((newer / "mixture.json").read_text())
    (newer / "mixture.json").write_text(json.dumps(content | {"format": 99}))
    write_manifest(newer)
    assert "format" in trained.refused("infer", "x", "--model", str(newer))


def test_folder_that_cannot_be_written_is_refused(moe: CommandLine, workdir: Path) -> None:
    (workdir / "in-the-way").write_text("a file")
    assert "in-the-way" in moe.refused("sample", "--out-dir", "in-the-way/deeper", "--rows", "60")
    assert "in-the-way" in moe.refused("train-expert", "--domain", "news", "-c", "tiny.yaml", "-o", "in-the-way/run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_sets_the_exit_code_and_prints_the_command_that_resumes(
    number: signal.Signals, moe: CommandLine, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"stopped{number}"
    words = ("train-expert", "--domain", "news", "-c", "tiny.yaml", "-o", out, "--overwrite")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, number)
        code, _, err = moe(*words)
    assert code == 128 + number
    assert f"moe {' '.join(words)} --resume" in err
    assert moe(*words, "--resume")[0] == 0
    assert (workdir / out / "experts" / "news" / "adapter_model.safetensors").is_file()

"""Tests for running sweeps: results, shared data, resuming, searches."""

import csv
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml
from conftest import NOUNS, made_up_rows, tiny_settings, write_csv
from result_samples import label_metrics

from experts.errors import Fault
from experts.json_io import json_object
from moe.errors import Interrupted
from moe.results.base import read_result
from moe.results.metrics import ScoreMetrics
from moe.sweep.grid import read_plan
from moe.sweep.results import SweepSummary, TrialFigures
from moe.sweep.run import run_sweep
from moe.sweep.search import JOURNAL
from moe.sweep.trials import average_metrics, selection_score
from moe.training.trainer import _StageTrainer

METRICS = {"accuracy", "macro_f1", "weighted_precision", "weighted_recall", "weighted_f1", "mse", "mae", "rmse", "r2"}
EXPERTS = "run: tiny.yaml\nuntil: expert\ndomains: [news]\n"


def prepare_folder(folder: Path, backbone: Path) -> Path:
    """Write data and a run config into a folder."""
    for domain in NOUNS:
        write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_settings(backbone, folder / "data")))
    return folder


@pytest.fixture
def workdir(tiny_folder: Path, tmp_path: Path) -> Path:
    """Folder with data and a run config."""
    return prepare_folder(tmp_path, tiny_folder)


@pytest.fixture(scope="module")
def swept(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished sweep of two ranks and two seeds, which tests only read."""
    workdir = prepare_folder(tmp_path_factory.mktemp("sweep"), tiny_folder)
    run_sweep(write_sweep(workdir, EXPERTS + "over: {lora.r: [2, 4]}\nseeds: [1, 2]"), workdir / "out")
    return workdir / "out"


def write_sweep(workdir: Path, text: str) -> Path:
    """Write a sweep file."""
    (workdir / "sweep.yaml").write_text(text, encoding="utf-8")
    return workdir / "sweep.yaml"


def result_rows(out: Path) -> list[dict]:
    """Rows of `results.jsonl`."""
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_each_trial_and_seed_has_a_row_with_metrics_parameters_and_cost(swept: Path) -> None:
    rows = result_rows(swept)
    assert [(row["settings"]["lora.r"], row["seed"]) for row in rows] == [(2, 1), (2, 2), (4, 1), (4, 2)]
    for row in rows:
        assert set(row["validation"]) == set(row["test"]) == METRICS | {"tasks"}
        assert row["seconds"] > 0
        assert row["peak_mib"] > 1
    heads = 2 * rows[0]["parameters"] - rows[2]["parameters"]
    assert 0 < heads < rows[0]["parameters"] < rows[2]["parameters"]
    assert rows[0]["validation"] != rows[1]["validation"], "seeds give different results"


def test_table_has_one_row_per_trial_with_mean_and_sd(swept: Path) -> None:
    with (swept / "sweep.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    scores = [row["test"]["macro_f1"] for row in result_rows(swept) if row["settings"]["lora.r"] == 2]
    assert [row["lora.r"] for row in table] == ["2", "4"]
    assert float(table[0]["test.macro_f1.mean"]) == pytest.approx(sum(scores) / 2)
    assert float(table[0]["test.macro_f1.sd"]) == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)


def test_best_trial_is_selected_by_validation(swept: Path) -> None:
    content = read_result(swept / "sweep.json", SweepSummary)
    assert content is not None
    means = {row.point: row.validation["macro_f1"].mean for row in content.points}
    assert content.best == max(means, key=lambda key: means[key])


def test_chart_is_drawn_and_trials_share_their_prepared_rows(swept: Path) -> None:
    assert (swept / "lora.r.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(swept.glob("rows/*/data/news/*/prepared.json"))) == 1
    assert not list(swept.rglob("points/*/*/data"))
    assert not list(swept.rglob("points/*/*/cache"))


@pytest.mark.slow
def test_second_call_trains_nothing_and_new_values_and_seeds_add_trials(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_sweep(write_sweep(workdir, EXPERTS + "over: {lora.r: [2]}\nseeds: [1]"), workdir / "out")
    trained: list[str] = []
    train = _StageTrainer.train
    monkeypatch.setattr(
        _StageTrainer, "train", lambda self, **kw: trained.append(self.args.output_dir) or train(self, **kw)
    )
    assert run_sweep(workdir / "sweep.yaml", workdir / "out") == first
    assert not trained
    run_sweep(write_sweep(workdir, EXPERTS + "over: {lora.r: [4, 2]}\nseeds: [1, 2]"), workdir / "out")
    assert len(trained) == 3
    assert len(result_rows(workdir / "out")) == 4
    run_sweep(workdir / "sweep.yaml", workdir / "out", ["lora.dropout=0.2"])
    assert len(trained) == 7, "another override makes other trials"


def test_interrupted_sweep_resumes_without_repeating_steps(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps = write_sweep(workdir, EXPERTS + "over: {lora.r: [2, 4]}"), []
    training_step = _StageTrainer.training_step

    def interrupted_step(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(_StageTrainer, "training_step", interrupted_step)
        with pytest.raises(Interrupted):
            run_sweep(path, workdir / "out")
        assert len(result_rows(workdir / "out")) == 1
        spent = [json.loads(path.read_text())["seconds"] for path in sorted((workdir / "out").rglob("spent.json"))]
        run_sweep(path, workdir / "out")
    assert len(steps) == 12, "no step is repeated"
    assert len(result_rows(workdir / "out")) == 2
    assert all(row["seconds"] >= min(spent) for row in result_rows(workdir / "out"))


def test_until_router_evaluates_the_best_mixture_and_until_merge_the_merged(workdir: Path) -> None:
    text = "run: tiny.yaml\nover: {gate.kind: [soft]}\nuntil: "
    trained = run_sweep(write_sweep(workdir, text + "router"), workdir / "router")
    merged = run_sweep(write_sweep(workdir, text + "merge"), workdir / "merge")
    assert result_rows(workdir / "router")[0]["test"]["tasks"].keys() == {"news", "forum"}
    assert trained.points[0].parameters == merged.points[0].parameters
    assert len(list((workdir / "router").glob("points/*/*/moe-joint"))) == 1
    assert not list((workdir / "merge").glob("points/*/*/router-warmup"))
    assert trained.charts == [], "it has no numeric setting"


def test_until_shared_trains_the_shared_expert_only(workdir: Path) -> None:
    text = "run: tiny.yaml\nuntil: shared\nover: {shared.r: [2, 3]}"
    run_sweep(write_sweep(workdir, text), workdir / "out")
    assert result_rows(workdir / "out")[0]["test"]["tasks"].keys() == {"news", "forum"}
    assert {path.name for path in (workdir / "out").glob("points/*/*/experts/*")} == {"shared"}


def test_shared_expert_is_trained_before_the_others(workdir: Path) -> None:
    text = EXPERTS + "over: {shared.r: [2]}"
    run_sweep(write_sweep(workdir, text), workdir / "out")
    assert {path.name for path in (workdir / "out").glob("points/*/*/experts/*")} == {"shared", "news"}


def test_failed_trial_is_reported_and_the_others_continue(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training_step = _StageTrainer.training_step

    def failing_step(self, *args, **kwargs):
        if self.settings.lr == 1.0:
            raise Fault("a finite loss", "nan", "lower the stage's lr")
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(_StageTrainer, "training_step", failing_step)
    content = run_sweep(write_sweep(workdir, EXPERTS + "over: {stages.expert.lr: [1.0, 0.01]}"), workdir / "out")
    assert len(content.points) == 1
    assert "a finite loss" in next(iter(content.failed.values()))
    with pytest.raises(Fault, match="a finite loss"):
        run_sweep(write_sweep(workdir, EXPERTS + "over: {stages.expert.lr: [1.0]}"), workdir / "none")


SEARCH = EXPERTS + (
    "over: {gate.kind: [soft, hard], lora.alpha: [8]}\n"
    "search: {trials: TRIALS, ranges: {lora.r: {low: 2, high: 8, log: true, int: true},"
    " stages.expert.lr: {low: 1e-4, high: 1e-2, log: true}}}"
)


def test_search_samples_within_its_ranges_and_resumes_with_more_trials(workdir: Path) -> None:
    run_sweep(write_sweep(workdir, SEARCH.replace("TRIALS", "2")), workdir / "out")
    first = result_rows(workdir / "out")
    assert len(first) == 2
    for row in first:
        assert 2 <= row["settings"]["lora.r"] <= 8
        assert isinstance(row["settings"]["lora.r"], int)
        assert 1e-4 <= row["settings"]["stages.expert.lr"] <= 1e-2
        assert row["settings"]["gate.kind"] in ("soft", "hard")
        assert row["settings"]["lora.alpha"] == 8
    content = run_sweep(write_sweep(workdir, SEARCH.replace("TRIALS", "3")), workdir / "out")
    assert result_rows(workdir / "out")[:2] == first
    assert len(result_rows(workdir / "out")) == 3
    assert [Path(chart).name for chart in content.charts] == ["lora.r.png", "stages.expert.lr.png"]


def test_search_resumes_the_interrupted_trial(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep(workdir, SEARCH.replace("TRIALS", "1"))
    training_step = _StageTrainer.training_step

    def interrupted_step(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(_StageTrainer, "training_step", interrupted_step)
        with pytest.raises(Interrupted):
            run_sweep(path, workdir / "out")
    run_sweep(path, workdir / "out")
    assert len(result_rows(workdir / "out")) == len(list((workdir / "out" / "points").iterdir())) == 1
    assert (workdir / "out" / JOURNAL).is_file()


def test_search_without_optuna_names_the_extra_to_install(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(Fault, match=r"pip install 'finmoe\[sweep\]'"):
        run_sweep(write_sweep(workdir, SEARCH.replace("TRIALS", "1")), workdir / "out")


def test_error_of_any_trial_stops_the_sweep_before_it_writes(workdir: Path) -> None:
    with pytest.raises(Fault, match=r"lora.r"):
        run_sweep(write_sweep(workdir, EXPERTS + "over: {lora.r: [4, 0]}"), workdir / "out")
    assert not (workdir / "out").exists()


def test_sweep_is_named_after_its_file(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workdir)
    content = run_sweep(write_sweep(workdir, EXPERTS + "over: {lora.r: [2]}"))
    assert content.folder == "runs/sweeps/sweep"
    assert read_plan(workdir / "sweep.yaml").name == "sweep"


def test_selection_score_is_macro_f1_or_negative_mse_without_labels() -> None:
    labels = label_metrics(["a"], [[1, 0]], macro_f1=0.5)
    errors = ScoreMetrics(mse=0.4, mae=0.3, rmse=0.6)
    both = average_metrics({"a": labels}, {"a": ScoreMetrics(mse=0.2, mae=0.1, rmse=0.4), "b": errors})
    assert selection_score(both) == 0.5
    assert both.mse == pytest.approx(0.3)
    assert both.tasks["b"] == TrialFigures(mse=0.4, mae=0.3, rmse=0.6)
    assert json_object(both.tasks["b"]) == {"mse": 0.4, "mae": 0.3, "rmse": 0.6}, "labels are left out"
    assert selection_score(average_metrics({}, {"b": errors})) == -0.4

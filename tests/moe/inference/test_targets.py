"""Predictions for targets: from the command line, files, Python, shards, explanations, the service and a graph."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import CommandLine
from conftest import made_up_rows, save_backbone, tiny_run, tiny_tokenizer, write_csv
from mixtures import save_random_mixture
from serving import service_client
from tokenizers import Tokenizer

from experts.domain import LabelSpace
from experts.errors import Fault
from experts.json_io import to_json
from moe import MixtureClassifier, pipeline
from moe.data.text_checks import MAX_TARGETS
from moe.explain.explain import explain
from moe.explain.terminal import explanation_view
from moe.export.inference_spec import SPEC_FILE, build_export_spec
from moe.export.onnx import _write_tokenizer
from moe.export.selection import load_export_source
from moe.inference.bulk.engine import run_bulk
from moe.inference.bulk.shards import BulkJob
from moe.inference.load import LoadOptions, load, load_torch
from moe.inference.spec import InferenceSpec
from moe.inference.stream import predict_each, predict_rows, predict_texts
from moe.inference.text_io import TextSource
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import load_backbone
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace

TEXT = "profit rose as the bank fell"
Folders = dict[bool, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folders of a mixture with a task about entities (True), and of one without (False)."""
    folder = tmp_path_factory.mktemp("targets")
    for domain in ("news", "forum"):
        write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    run = tiny_run(save_backbone(folder / "bert"), folder / "data")
    work = Workspace(run, folder / "run")
    return {
        targets: save_random_mixture(folder / f"mixture-{targets}", load_backbone(run.backbone), work, targets=targets)
        for targets in (True, False)
    }


@pytest.fixture(scope="module")
def predictor(folders: Folders) -> TorchPredictor:
    return load_torch(resolve(folders[True]))


@pytest.fixture
def moe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capsys)


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_predictions_depend_on_the_target_and_come_from_the_task_with_one(predictor: TorchPredictor) -> None:
    rows = list(
        predict_rows([{"text": TEXT, "target": name} for name in ("profit", "bank")] + [{"text": TEXT}], predictor)
    )
    assert [row["task"] for row in rows[:2]] == ["entities"] * 2
    assert rows[2]["task"] != "entities"
    assert "target" not in rows[2]
    assert [row["target"] for row in rows[:2]] == ["profit", "bank"]
    assert rows[0]["probabilities"] != rows[1]["probabilities"]
    assert not any("target_missing" in row or "target_truncated" in row for row in rows)


def test_texts_without_a_target_are_predicted_as_before(folders: Folders, predictor: TorchPredictor) -> None:
    mixed = predict_texts([TEXT, TEXT, "bank"], predictor, targets=["bank", None, None])
    plain = predict_texts([TEXT, "bank"], predictor)
    for first, second in zip(mixed[1:], plain, strict=True):
        assert first.task == second.task
        np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-6)


def test_target_is_answered_by_the_routed_domain_or_the_first_with_such_a_task(predictor: TorchPredictor) -> None:
    pinned = predict_each(
        [TEXT] * 4, predictor, ["forum", "forum", "news", "news"], [None] * 4, ["bank", None, "bank", None]
    )
    assert [prediction.task for prediction in pinned] == ["entities", "forum", "entities", "news"]


def test_target_that_the_text_lacks_or_that_is_too_long_is_a_warning(predictor: TorchPredictor) -> None:
    long = "profit " * 30
    rows = list(predict_rows([{"text": TEXT, "target": name} for name in ("PROFIT", "moon", long)], predictor))
    assert [row.get("target_missing") for row in rows] == [None, True, True]
    assert [row.get("target_truncated") for row in rows] == [None, None, True]
    assert all("label" in row for row in rows)


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("routing", ["soft", "hard"])
def test_target_is_read_in_every_mode(folders: Folders, windows: bool, routing: Any) -> None:
    predictor = load(resolve(folders[True]), LoadOptions(routing=routing, windows=windows))
    text = "profit rose again today " * 12
    first, second = predict_texts([text, text], predictor, targets=["profit", "bank"])
    assert first.probabilities.tolist() != second.probabilities.tolist()
    assert first.truncated is not windows


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("", None),
        (None, None),
        (float("nan"), None),
        (7, "target is not a string: int"),
        (["bank"], "target is not a string: list"),
    ],
)
def test_row_with_a_blank_target_is_about_the_text_and_with_another_type_an_error(
    predictor: TorchPredictor, target: object, error: str | None
) -> None:
    (row,) = predict_rows([{"text": TEXT, "target": target}], predictor)
    assert row.get("error") == error
    assert ("label" in row) is (error is None)
    assert json.loads(json.dumps(row, allow_nan=False)).get("task") != "entities"


def test_row_needs_a_target_if_the_task_has_one(predictor: TorchPredictor) -> None:
    first, second = predict_rows(
        [{"text": TEXT, "target": " "}, {"text": TEXT, "target": "bank"}], predictor, task="entities"
    )
    assert first["error"] == "missing target"
    assert second["task"] == "entities"


def test_target_column_is_ignored_by_models_and_tasks_without_one(folders: Folders, predictor: TorchPredictor) -> None:
    other = load(resolve(folders[False]))
    (plain,) = predict_rows([{"text": TEXT}], other)
    assert list(predict_rows([{"text": TEXT, "target": 12}], other)) == [plain]
    (row,) = predict_rows([{"text": TEXT, "target": 12}], predictor, task="news")
    assert "target" not in row


def test_check_names_what_does_not_fit_in_one_sentence(folders: Folders, predictor: TorchPredictor) -> None:
    with pytest.raises(Fault, match="a model with a task for targets"):
        load(resolve(folders[False])).check(None, None, target=True)
    with pytest.raises(Fault, match="one of the tasks with a target, entities"):
        predictor.check("news", None, target=True)
    with pytest.raises(Fault, match="a target for task entities"):
        predictor.check("entities", None, target=False)
    predictor.check("entities", None, target=True)
    predictor.check(None, None, target=None)


def test_infer_predicts_every_text_for_every_target(moe: CommandLine, folders: Folders) -> None:
    code, out, err = moe("infer", "-m", str(folders[True]), "--target", "bank", "--target", "moon", TEXT, "bank rose")
    rows = lines(out)
    assert code == 0, err
    assert [(row["text"], row["target"]) for row in rows] == [
        (text, target) for text in (TEXT, "bank rose") for target in ("bank", "moon")
    ]
    assert [row.get("target_missing", False) for row in rows] == [False, True, False, True]


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        return write_csv(path, rows)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_infer_reads_the_target_column_of_a_file(
    moe: CommandLine, folders: Folders, tmp_path: Path, suffix: str
) -> None:
    targets = ["bank", "moon", None if suffix != ".csv" else ""]
    rows = [{"text": TEXT, "target": target, "entity": "profit"} for target in targets]
    path = write_table(tmp_path / f"rows{suffix}", rows)
    out = tmp_path / f"out{suffix}"
    code, _, err = moe("infer", "-m", str(folders[True]), "--file", str(path), "--out", str(out))
    assert code == 0, err
    if suffix == ".csv":
        written = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    else:
        written = pq.read_table(out).to_pylist() if suffix == ".parquet" else lines(out.read_text())
    assert [row["target"] or None for row in written] == ["bank", "moon", None]
    assert [row["task"] == "entities" for row in written] == [True, True, False]
    code, stdout, _ = moe("infer", "-m", str(folders[True]), "--file", str(path), "--target-column", "entity")
    assert [row["entity"] for row in lines(stdout)] == ["profit"] * 3, "`target` is a column of the file"
    code, stdout, _ = moe("infer", "-m", str(folders[True]), "--file", str(path), "--target", "the")
    assert [row["predicted_target"] for row in lines(stdout)] == ["the"] * 3


def test_infer_reads_a_file_with_a_column_of_that_name_as_before(
    moe: CommandLine, folders: Folders, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "rows.csv", [{"text": TEXT, "target": "12.5"}])
    _, with_column, _ = moe("infer", "-m", str(folders[False]), "--file", str(path))
    (row,) = lines(with_column)
    assert "target" not in row
    assert row["label"]


def test_infer_refuses_targets_in_one_sentence(moe: CommandLine, folders: Folders, tmp_path: Path) -> None:
    model = ("infer", "-m", str(folders[True]))
    assert "targets with letters" in moe.refused(*model, "--target", " ", TEXT)
    many = [word for i in range(MAX_TARGETS + 1) for word in ("--target", f"company {i}")]
    assert "at most 300 targets" in moe.refused(*model, *many, TEXT)
    assert "a model with a task for targets" in moe.refused(
        "infer", "-m", str(folders[False]), "--target", "bank", TEXT
    )
    assert "one of the tasks with a target" in moe.refused(*model, "--task", "news", "--target", "bank", TEXT)
    assert "a target for task entities" in moe.refused(*model, "--task", "entities", TEXT)
    assert "without --file" in moe.refused(*model, "--target-column", "entity", TEXT)
    path = write_csv(tmp_path / "rows.csv", [{"text": TEXT}])
    assert "entity" in moe.refused(*model, "--target-column", "entity", "--file", str(path))
    assert "with --target" in moe.refused(*model, "--target-column", "text", "--target", "bank", "--file", str(path))
    both = write_csv(tmp_path / "both.csv", [{"text": TEXT, "entity": "bank"}])
    plain = ("infer", "-m", str(folders[False]), "--file", str(both))
    assert "a model with a task for targets" in moe.refused(*plain, "--target-column", "entity")


def test_infer_takes_300_targets(moe: CommandLine, folders: Folders) -> None:
    many = [word for i in range(MAX_TARGETS) for word in ("--target", f"company {i}")]
    code, out, err = moe("infer", "-m", str(folders[True]), *many, "bank rose")
    assert code == 0, err
    assert len(lines(out)) == MAX_TARGETS


def test_source_counts_and_pairs_texts_read_from_a_file(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", [{"text": TEXT, "target": "bank"}])
    source = TextSource(file=path)
    assert source.columns.target == "target"
    assert source.has_target is None
    assert TextSource(file=path, text_column="target").columns.target is None
    assert TextSource((TEXT,)).has_target is False


def test_classifier_takes_a_target_for_each_text(folders: Folders) -> None:
    model = MixtureClassifier.load(folders[True])
    answers = model.answers([TEXT, TEXT, "bank"], targets=["profit", "moon", float("nan")])
    assert [answer["task"] == "entities" for answer in answers] == [True, True, False]
    assert answers[1]["target_missing"] is True
    assert model.predict([TEXT, "bank"], targets=["profit", None]) == [answers[0]["label"], answers[2]["label"]]
    probabilities = model.predict_proba([TEXT] * 2, targets=["profit", "bank"])
    assert probabilities.sum(1) == pytest.approx(1)
    assert probabilities[0].tolist() != probabilities[1].tolist()
    assert model.predict([], targets=[]) == []


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        ("bank", "single str"),
        (["bank"], "2 targets"),
        (["bank", ""], "position 1"),
        (["bank", 3], "position 1"),
        (5, "single int"),
    ],
)
def test_classifier_refuses_targets_that_do_not_fit(folders: Folders, targets: Any, match: str) -> None:
    with pytest.raises(Fault, match=match):
        MixtureClassifier.load(folders[True]).predict([TEXT, TEXT], targets=targets)


def test_classifier_without_such_a_task_refuses_targets(folders: Folders) -> None:
    model = MixtureClassifier.load(folders[False])
    with pytest.raises(Fault, match="a model with a task for targets"):
        model.predict([TEXT], targets=["bank"])
    assert model.predict([TEXT], targets=[None]) == model.predict([TEXT])


def test_pipeline_takes_targets_for_a_text_a_list_and_a_stream(folders: Folders) -> None:
    classify = pipeline(folders[True])
    (single,) = classify(TEXT, targets="bank")
    assert single["task"] == "entities"
    assert classify([TEXT, TEXT], targets=["bank", None])[0] == single
    streamed = list(classify((text for text in [TEXT] * 3), targets=iter(["bank"] * 3)))
    assert streamed == [single] * 3


def test_shards_have_a_target_column_if_the_model_reads_targets(folders: Folders, tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "a.csv", [{"text": TEXT, "target": target} for target in ("bank", "moon", "")])
    write_csv(tmp_path / "in" / "b.csv", [{"text": TEXT}])
    for targets, folder in folders.items():
        job = BulkJob(str(tmp_path / "in"), str(tmp_path / f"out{targets}"), resolve(folder), rows_per_shard=2)
        assert run_bulk(job, "local").rows == 4
        rows = [row for path in sorted(Path(job.out).glob("part-*")) for row in pq.read_table(path).to_pylist()]
        assert [row["error"] for row in rows] == [None] * 4
        if targets:
            assert [row["target"] for row in rows] == ["bank", "moon", None, None]
            assert [row["target_missing"] for row in rows] == [None, True, None, None]
            assert [row["task"] == "entities" for row in rows] == [True, True, False, False]
        else:
            assert not {"target", "target_missing"} & rows[0].keys()


def test_explanation_attributes_the_words_of_the_text_and_not_the_target(predictor: TorchPredictor) -> None:
    first, second = (explain(predictor, TEXT, steps=64, target=target) for target in ("bank", "moon"))
    assert first.answer["task"] == "entities"
    assert [word.word for word in first.why.words] == TEXT.split()
    assert abs(first.why.delta) < 0.02
    assert first.why.value != second.why.value
    assert to_json(second)["target"] == "moon"
    assert "target" not in to_json(explain(predictor, TEXT, steps=1))
    (prediction,) = predict_texts([TEXT], predictor, targets=["bank"])
    assert first.answer["probabilities"] == pytest.approx(
        dict(zip(prediction.labels, prediction.probabilities.tolist(), strict=True)), abs=1e-5
    )
    explanation_view(second)
    with pytest.raises(Fault, match="targets with letters"):
        explain(predictor, TEXT, target=" ")


def test_explain_command_explains_each_text_for_each_target(moe: CommandLine, folders: Folders, tmp_path: Path) -> None:
    model = str(folders[True])
    code, out, err = moe("explain", model, TEXT, "--target", "bank", "--target", "moon", "--steps", "4", "--json")
    assert code == 0, err
    assert [row["target"] for row in lines(out)] == ["bank", "moon"]
    path = write_csv(tmp_path / "rows.csv", [{"text": TEXT}])
    assert "texts for --target" in moe.refused("explain", model, "--file", str(path), "--target", "bank")


def test_service_answers_each_text_for_each_target(folders: Folders) -> None:
    with service_client(folders[True], max_texts=8) as client:
        body = client.post("/v1/predict", json={"texts": [TEXT, "bank rose"], "targets": ["bank", "profit"]}).json()
        assert [(row["text"], row["target"]) for row in body["answers"]] == [
            (text, target) for text in (TEXT, "bank rose") for target in ("bank", "profit")
        ]
        assert [row.get("target_missing", False) for row in body["answers"]] == [False, False, False, True]
        plain = client.post("/v1/predict", json={"texts": TEXT}).json()["answers"][0]
        assert "target" not in plain
        assert client.get("/v1/model").json()["targets"] == ["entities"]
        explained = client.post("/v1/explain", json={"text": TEXT, "target": "bank", "steps": 2}).json()
        assert explained["target"] == "bank"
        assert explained["answer"]["task"] == "entities"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"targets": [" "]}, 422),
        ({"targets": ["x"] * (MAX_TARGETS + 1)}, 422),
        ({"targets": ["x"] * MAX_TARGETS}, 200),
        ({"targets": "bank"}, 422),
        ({"targets": [None]}, 422),
        ({"texts": ["bank"] * 8, "targets": ["x"] * 100}, 422),
        ({"task": "news", "targets": ["bank"]}, 409),
        ({"task": "entities"}, 409),
    ],
)
def test_service_refuses_targets_that_do_not_fit(folders: Folders, fields: dict[str, Any], status: int) -> None:
    with service_client(folders[True], max_texts=8) as client:
        response = client.post("/v1/predict", json={"texts": "bank"} | fields)
        assert response.status_code == status, response.text


def test_service_of_a_model_without_such_a_task_refuses_targets(folders: Folders) -> None:
    with service_client(folders[False]) as client:
        response = client.post("/v1/predict", json={"texts": "bank", "targets": ["bank"]})
        assert response.status_code == 409
        assert "a task for targets" in response.text
        assert client.get("/v1/model").json()["targets"] == []


def test_exported_spec_names_target_tasks_and_its_tokenizer_keeps_the_target(folders: Folders, tmp_path: Path) -> None:
    source = load_export_source(folders[True], ())
    spec = build_export_spec(source)
    assert {name: task.target for name, task in spec.tasks.items()} == {"news": False, "entities": True, "forum": False}
    assert [(domain.task, domain.target_task) for domain in spec.domains] == [
        ("news", "entities"),
        ("forum", "entities"),
    ]
    older = json.loads(spec.model_dump_json())
    for task in older["tasks"].values():
        del task["target"]
    for domain in older["domains"]:
        del domain["target_task"]
    assert not InferenceSpec.model_validate(older).target_tasks, f"an older {SPEC_FILE} is not read"
    _write_tokenizer(tmp_path / "tokenizer.json", source)
    encoded = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("profit rose again " * 20, "the bank")
    assert len(encoded.ids) == source.max_length
    assert tiny_tokenizer().decode(encoded.ids).endswith("[SEP] the bank [SEP]")


def test_label_space_and_spec_choose_the_same_default_tasks(predictor: TorchPredictor) -> None:
    space: LabelSpace = predictor.model.labels
    choose: tuple[Callable[..., str | None], ...] = (space.default_task, predictor.spec.default_task)
    for domain in (None, "news", "forum"):
        for target in (False, True):
            first, second = (default(domain, target) for default in choose)
            assert first == second

"""Claims about columns of an input file: predictions never replace them, and carry a prefix where names clash."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Make, write_csv
from mixtures import random_mixture

from experts.errors import Fault
from moe.data.formats.readers import read_records
from moe.data.formats.writers import open_writer
from moe.inference.bulk.shards import BulkJob, predict_shard, stage_shards
from moe.inference.infer_command import input_columns
from moe.inference.stream import add_prediction, predict_rows
from moe.inference.text_io import ADDED, PREDICTED, InputColumns, OutputTarget, TextSource, free_name
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import load_backbone
from moe.runs.model_ref import ModelRef

GOLD = [
    {"id": "a", "text": "profit rose", "label": "gold1", "task": "mine", "line": "7", "price": "3"},
    {"id": "b", "text": "bags fell", "label": "gold2", "task": "mine", "line": "8", "price": "4"},
]


@pytest.fixture
def predictor(make_work: Make) -> TorchPredictor:
    work = make_work()
    return TorchPredictor(random_mixture(load_backbone(work.run.backbone), work), "{text}", 16)


def infer(predictor: TorchPredictor, source: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    """Predict a file as `moe infer --file SOURCE --out OUT` does, and read the output as JSON lines."""
    texts, target = TextSource(file=source, **options), OutputTarget(out)
    texts.check()
    target.check([source])
    columns = input_columns(texts)
    target.write(columns.restore(predict_rows(texts.rows(columns), predictor)))
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_predictions_of_a_labelled_file_keep_its_columns(
    predictor: TorchPredictor, tmp_path: Path, ending: str
) -> None:
    source = tmp_path / f"gold.{ending}"
    with open_writer(source) as writer:
        for row in GOLD:
            writer.write(row)
    rows = infer(predictor, source, tmp_path / "out.jsonl")
    assert [(row["label"], row["task"], row["line"]) for row in rows] == [
        (row["label"], row["task"], row["line"]) for row in GOLD
    ]
    assert {row["predicted_label"] for row in rows} <= {"negative", "neutral", "positive"}
    assert {row["predicted_task"] for row in rows} <= {"news", "forum"}
    assert all("probabilities" in row and "confidence" in row and "price" not in row for row in rows)
    assert [row["predicted_line"] for row in rows] == [record.line for record in read_records(source)]


def test_output_without_clashes_is_unchanged(predictor: TorchPredictor, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "posts.csv", [{"id": "a", "text": "bank", "price": "3"}])
    (row,) = infer(predictor, source, tmp_path / "out.jsonl")
    (plain,) = predict_rows([{"id": "a", "line": 2, "text": "bank"}], predictor)
    assert row == plain


def test_columns_that_are_named_are_kept_with_times_in_iso_format(predictor: TorchPredictor, tmp_path: Path) -> None:
    source, time = tmp_path / "posts.parquet", datetime(2024, 3, 6, 21, tzinfo=UTC)
    rows = [{"text": "bank", "ticker": "A", "time": time, "price": 3.0}, {"text": "", "ticker": None, "time": time}]
    pq.write_table(pa.Table.from_pylist(rows), source)
    written = infer(predictor, source, tmp_path / "out.jsonl", keep=("Ticker", "time"))
    assert [(row["ticker"], row["time"]) for row in written] == [("A", time.isoformat()), (None, time.isoformat())]
    assert "price" not in written[0]
    with pytest.raises(Fault, match=r"a column 'when' in posts\.parquet"):
        infer(predictor, source, tmp_path / "out2.jsonl", keep=("when",))
    with pytest.raises(Fault, match="--keep without --file"):
        TextSource(texts=("bank",), keep=("time",)).check()


def test_error_row_keeps_the_columns_of_the_file(predictor: TorchPredictor, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "posts.csv", [{"text": "", "error": "mine", "label": "gold"}])
    (row,) = infer(predictor, source, tmp_path / "out.jsonl")
    assert (row["error"], row["label"]) == ("mine", "gold")
    assert "text" in row["predicted_error"]


def test_text_of_another_column_does_not_take_the_name_of_the_files_text(
    predictor: TorchPredictor, tmp_path: Path
) -> None:
    source = write_csv(tmp_path / "posts.csv", [{"text": "a title", "body": "profit rose"}])
    (row,) = infer(predictor, source, tmp_path / "out.jsonl", text_column="body")
    assert row["body"] == "profit rose"
    assert "text" not in row


def test_flattened_columns_of_csv_do_not_clash() -> None:
    columns = InputColumns.of(["text", "probabilities.positive"], [*PREDICTED, *ADDED], {"text": "text"})
    assert columns.carried == ("probabilities.positive",)
    assert columns.renamed == {"probabilities": "predicted_probabilities"}


def test_prefix_is_repeated_until_the_name_is_free() -> None:
    assert free_name("label", ["label", "predicted_label"]) == "predicted_predicted_label"
    assert free_name("label", ["text"]) == "label"


def test_every_column_of_a_prediction_is_known(predictor: TorchPredictor) -> None:
    (row,) = predict_rows([{"text": "bank"}], predictor)
    assert row.keys() - {"text"} <= set(PREDICTED)
    optional = {"abstained", "label_set", "target_missing", "target_truncated", "windows", "unfamiliar"}
    assert set(PREDICTED) - row.keys() == optional


def test_prediction_of_a_callers_row_does_not_replace_its_columns(predictor: TorchPredictor) -> None:
    (row,) = predict_rows([{"text": "bank", "label": "mine"}], predictor)
    assert row["label"] == "mine"
    assert row["predicted_label"] in ("negative", "neutral", "positive")
    assert add_prediction({"text": "x", "target": None}, {"target": "y"})["target"] == "y"


def test_shards_keep_the_columns_of_the_files(predictor: TorchPredictor, tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "a.csv", GOLD)
    write_csv(tmp_path / "in" / "b.csv", [{"text": "bank", "label": "third"}])
    job = BulkJob(str(tmp_path / "in"), str(tmp_path / "out"), ModelRef(tmp_path, "mixture"))
    stage_shards(job)
    assert predict_shard(job, predictor, 0).rows == 3
    rows = pq.read_table(tmp_path / "out" / job.shard_name(0)).to_pylist()
    assert [(row["label"], row["task"], row["predicted_line"]) for row in rows] == [
        ("gold1", "mine", 2),
        ("gold2", "mine", 3),
        ("third", None, 2),
    ]
    assert all(row["predicted_label"] in ("negative", "neutral", "positive") for row in rows)

"""File inspection counts and shows everything in a file, invalid rows included."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from experts.errors import Fault
from experts.json_io import json_object, to_json
from moe.data.profile import DuplicateCounts, inspect_file
from moe.data.schema import TaskSettings
from moe.report.data_file import inspection_view

CONTENT = """id,text,label,score,lang
a,Oil falls on supply fears,down,-1,en
b,"OIL falls, on supply fears",down,-0.5,en
c,Oil falls on supply fears,down,0.99,en
c,Oil falls on supply fears,down,0.99,en
d,公司净利润大涨,[up],1,zh
e,,up,,
f,text,up,3,
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_text(CONTENT)
    return path


def test_inspect_counts_everything_without_a_task(file: Path) -> None:
    report = inspect_file(file)
    assert report.rows == 4
    assert report.labels == {"down": 4, "up": 2, "[up]": 1}
    assert report.languages == {"en": 3, "zh": 1}
    assert report.chinese_rows == 1
    assert (report.scores.counts[0], report.scores.counts[-1], report.scores.rows) == (1, 2, 4)
    assert report.duplicates == DuplicateCounts(id_and_content=1, text=1)
    assert report.near_duplicates.rows == 2
    assert report.characters.quantiles["100%"] == 26
    assert sum(report.words.counts) == 4
    assert report.rejected.reasons == {"missing text": 1, "score outside [-1, 1]": 1}
    assert [reject.line for reject in report.rejected.first] == [7, 8]
    assert json.loads(json.dumps(report, default=json_object)) == to_json(report)


def test_inspect_with_a_task_counts_classes_and_rejects_unknown_labels(file: Path) -> None:
    report = inspect_file(file, TaskSettings(labels=("negative", "positive"), label_map={"down": "negative"}))
    assert report.classes == {"negative": 3}
    assert report.rejected.reasons["unknown label"] == 1


def test_inspect_counts_only_rows_that_pass_only(file: Path) -> None:
    assert inspect_file(file, TaskSettings(only={"lang": ("zh",)})).labels == {"[up]": 1}


def test_inspect_counts_origins_and_shows_augmented_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a b"}\n{"text": "c d", "origin": "synonym"}\n{"text": "e f", "origin": ""}\n')
    report = inspect_file(path)
    assert report.origins == {"original": 2, "synonym": 1}
    out = io.StringIO()
    Console(file=out, width=100).print(inspection_view(report))
    assert "origins" in out.getvalue()


def test_inspection_view_shows_bars_and_rejects(file: Path) -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(inspection_view(inspect_file(file)))
    output = out.getvalue()
    assert "█" in output
    assert "[up]" in output
    assert "origins" not in output
    assert "line 8: score outside [-1, 1] (3): text" in output


def test_inspection_view_of_a_file_without_valid_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n,up\n")
    out = io.StringIO()
    Console(file=out, width=300).print(inspection_view(inspect_file(path)))
    assert "0 rows, 1 rejected" in out.getvalue()


def test_inspect_refuses_a_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(bytes(range(256)) * 9)
    with pytest.raises(Fault, match="NUL or undecodable"):
        inspect_file(path)


def test_inspect_counts_targets_and_those_that_their_text_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,text,entity\na,Apple gains,Apple\na,Apple gains,Microsoft\nb,Banks fall,banks\nc,No entity,\n")
    report = inspect_file(path, TaskSettings.model_validate({"columns": {"target": "entity"}}))
    targets = report.targets
    assert (targets.rows, targets.texts, targets.not_in_text) == (3, 2, 1)
    assert targets.most_common == {"Apple": 1, "Microsoft": 1, "banks": 1}
    assert report.rejected.reasons == {"missing target": 1}
    stream = io.StringIO()
    Console(file=stream, width=120).print(inspection_view(report))
    assert "3 rows about 2 texts, 1 targets that their text does not contain" in stream.getvalue()
    assert inspect_file(path).targets.rows == 0


def test_inspect_reports_columns_that_hold_something_else_or_have_another_name(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text("Text,Label,Score\n" + "".join(f"post {n},{'up' if n % 2 else 'down'},0.9\n" for n in range(30)))
    report = inspect_file(path)
    assert (report.rows, report.labels) == (30, {"down": 15, "up": 15})
    assert "`columns: {score: null}`" in report.warnings[0]
    path.write_text("text,Sentiment\ngold rises,positive\n")
    (line,) = inspect_file(path).warnings
    assert line.endswith("did you mean Sentiment? Name it with `columns: {label: Sentiment}`")

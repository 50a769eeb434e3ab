"""Claims about reports of prepared tasks: what is written is read, and other content is refused with its path."""

from pathlib import Path

import pytest

from experts.atomic_io import write_json
from experts.errors import Fault
from experts.json_io import to_json
from moe.data.task_reports import PREPARED, AugmentedReport, SplitSize, TaskReport, read_task_report

REPORT = TaskReport(task="news", rows=9, splits={"train": SplitSize(9, {"up": 4, "(none)": 5})})


@pytest.mark.parametrize(
    "report",
    [
        REPORT,
        TaskReport(other_tasks={"train": 2}),
        TaskReport(augmented=AugmentedReport(sha256="ab", rows=1, origins={}, left_out={})),
    ],
)
def test_task_report_is_read_as_it_was_written(report: TaskReport, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "news" / "news"
    write_json(folder / PREPARED, {"report": report})
    assert read_task_report(folder) == report


def test_task_report_has_no_key_for_removals_and_variants_that_cannot_be() -> None:
    assert list(to_json(REPORT))[-1] == "splits"
    assert to_json(REPORT)["splits"] == {"train": {"rows": 9, "labels": {"up": 4, "(none)": 5}}}


@pytest.mark.parametrize("content", [[], {}, {"report": {"rows": "many"}}, {"report": {"splits": {"tset": {}}}}])
def test_task_report_of_other_content_is_refused_with_its_path(content: object, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "news" / "news"
    write_json(folder / PREPARED, content)
    with pytest.raises(Fault, match=r"the report of a prepared task at .*prepared\.json"):
        read_task_report(folder)

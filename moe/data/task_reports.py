"""Reports of prepared tasks on disk: how many rows each split has, and how many were removed."""

from pathlib import Path
from typing import Any

from experts.atomic_io import read_json, sha256_of

PREPARED, ACROSS_TASKS = "prepared.json", "across_tasks.json"
"""Report of a task, in its folder; and reports of all tasks without rows that another task holds out."""


def read_task_report(folder: Path) -> dict[str, Any]:
    """Read the report of a task, without the rows that `moe.runs.across_tasks` removed.

    Args:
        folder: of the prepared task, `data/DOMAIN/TASK`.

    Raises:
        Fault: if a file cannot be read.
    """
    content, across = read_json(folder / PREPARED), folder.parents[1] / ACROSS_TASKS
    report: dict[str, Any] = content.get("report", {}) if isinstance(content, dict) else {}
    name = f"{folder.parent.name}/{folder.name}"
    try:
        reduced = read_json(across) if across.is_file() else {}
        current = reduced["key"]["prepared"][name] == sha256_of(folder / PREPARED)
        return dict(reduced["reports"][name]) if current else report
    except (LookupError, TypeError, ValueError):
        return report

"""An exam as people see it: a table of tasks, and a chart of models beside each other.

The figures are `moe.qa.evaluate`'s.
"""

from collections.abc import Mapping
from typing import Any

from moe.console.tables import Table

COLUMNS = ("accuracy", "95 %", "macro-F1", "weighted F1", "MCC", "entity F1", "missing")


def exam_view(content: Mapping[str, Any]) -> Table:
    """One row a task; accuracy is exact match where answers are free."""
    who = "the backbone alone" if content["bare"] else content["model"]
    table = Table(title=f"{content['questions']} questions to {who}, choices by {content['by']}", title_justify="left")
    table.add_column("task")
    table.add_column("questions", justify="right")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for task, one in content["tasks"].items():
        low, high = one["accuracy_interval"]
        keys = ("macro_f1", "weighted_f1", "mcc", "entity_f1")
        figures = [f"{one[key]:.3f}" if key in one else "–" for key in keys]
        row = [f"{one['accuracy']:.3f}", f"{low:.3f} to {high:.3f}", *figures, f"{one['missing']:.1%}"]
        table.add_row(task, str(one["rows"]), *row)
    return table

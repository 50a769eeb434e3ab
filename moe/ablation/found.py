"""What was found of a row: its figures, what was said of every text, and its difference from the full mixture.

Who asks is `moe.ablation.run` and `moe.ablation.language_model`.
"""

from typing import Any

from moe.ablation.variants import FULL
from moe.bootstrap import Answers, Interval, differences

Said = dict[str, Answers]
Found = tuple[dict[str, Any], Said]


def beside(row: dict[str, Any], said: Said, full: dict[str, Any], said_full: Said) -> dict[str, Any]:
    """A row with its difference from the full mixture, paired by text; macro-F1 over tasks that have classes."""
    if row["name"] == FULL or not said:
        return row
    accuracy = _difference(said, said_full, list(said_full))["accuracy"]
    classed = [task for task, one in said_full.items() if one.classes > 1]
    f1 = _difference(said, said_full, classed)["macro_f1"] if classed else accuracy
    found = {"accuracy": accuracy, "macro_f1": f1}
    ends = {f"{name}_interval": one.ends for name, one in found.items()}
    return row | {"difference": {name: one.value for name, one in found.items()} | ends}


def _difference(said: Said, said_full: Said, tasks: list[str]) -> dict[str, Interval]:
    return differences([said[task] for task in tasks], [said_full[task] for task in tasks])

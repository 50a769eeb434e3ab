"""The validation metrics by which weights are kept and mixtures compared: macro-F1 of labels, perplexity of text.

How they are measured is `moe.evaluation.evaluate`'s and `moe.evaluation.perplexity`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SelectionMetric:
    """The validation metric by which weights are kept, and mixtures compared.

    Args:
        name: its key.
        title: its name.
        higher: whether more of it is better.
        digits: behind the point, for people.
    """

    name: str
    title: str
    higher: bool
    digits: int

    def score(self, metrics: Mapping[str, float]) -> float:
        """More is better, whatever the metric."""
        return metrics[self.name] if self.higher else -metrics[self.name]

    def format_value(self, metrics: Mapping[str, float]) -> str:
        """Its value, as people read it."""
        return format(metrics.get(self.name, 0.0), self.format_spec)

    @property
    def format_spec(self) -> str:
        """How it is written."""
        return f".{self.digits}f"

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Its name and value."""
        return f"{self.title} {self.format_value(metrics)}"


MACRO_F1, PERPLEXITY = SelectionMetric("macro_f1", "macro-F1", True, 3), SelectionMetric("perplexity", "perplexity", False, 2)
SELECTION_METRICS = (MACRO_F1, PERPLEXITY)


def selection_metric_of(rows: Sequence[Mapping[str, Any]]) -> SelectionMetric:
    """By what stages were judged, of rows that have a figure or None for each goal; macro-F1 where none has any."""
    return next((goal for goal in reversed(SELECTION_METRICS) if any(row[goal.name] is not None for row in rows)), MACRO_F1)

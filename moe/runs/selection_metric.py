"""The validation metric that selects weights and compares mixtures: macro-F1 of labels, or perplexity of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe.results.training import StageRow


@dataclass(frozen=True)
class SelectionMetric:
    """A validation metric that selects the best weights.

    Args:
        name: key of the metric in an evaluation.
        title: name for people.
        higher: whether a higher value is better.
        digits: number of decimals to print.
    """

    name: str
    title: str
    higher: bool
    digits: int

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return a value of which higher is better: the metric, negated if lower is better."""
        return metrics[self.name] if self.higher else -metrics[self.name]

    def format_value(self, metrics: Mapping[str, float]) -> str:
        """Format the metric's value."""
        return format(metrics.get(self.name, 0.0), self.format_spec)

    @property
    def format_spec(self) -> str:
        """Format specification of the metric's value."""
        return f".{self.digits}f"

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Format the metric's name and value."""
        return f"{self.title} {self.format_value(metrics)}"


MACRO_F1 = SelectionMetric("macro_f1", "macro-F1", higher=True, digits=3)
PERPLEXITY = SelectionMetric("perplexity", "perplexity", higher=False, digits=2)
SELECTION_METRICS = (MACRO_F1, PERPLEXITY)


def selection_metric_of(rows: Sequence[StageRow]) -> SelectionMetric:
    """Return the metric that selected the weights of stages.

    Macro-F1 if no row has a value.
    """
    return PERPLEXITY if any(row.perplexity is not None for row in rows) else MACRO_F1

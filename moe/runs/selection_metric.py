"""The validation metric that selects weights and compares mixtures.

Macro-F1 of labels, the concordance (CCC) of tasks with a score alone, the mean over tasks of both, or the perplexity of
text. Like macro-F1, CCC is 0 for a constant prediction and 1 for a perfect one; unlike a correlation it also falls if
the scores have the right order but another mean or spread.
"""

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
CCC = SelectionMetric("ccc", "CCC", higher=True, digits=3)
MEAN_OF_TASKS = SelectionMetric("mean_of_tasks", "mean of macro-F1 and CCC", higher=True, digits=3)
SELECTION_METRICS = (MEAN_OF_TASKS, CCC, MACRO_F1, PERPLEXITY)
"""In the order in which one selects: an evaluation has those that are part of another one, too."""


def metric_of_rows(labelled: bool, scored: bool) -> SelectionMetric:
    """Return the metric that selects weights by validation rows.

    Args:
        labelled: whether rows have labels.
        scored: whether rows belong to a task with a score alone.
    """
    if not scored:
        return MACRO_F1
    return MEAN_OF_TASKS if labelled else CCC


def metric_of_stage(row: StageRow) -> SelectionMetric | None:
    """Return the metric that selected the weights of a stage; None without a value."""
    return next((metric for metric in SELECTION_METRICS if getattr(row, metric.name) is not None), None)


def selection_title(rows: Sequence[StageRow]) -> str:
    """Name the metrics that selected the weights of stages; macro-F1 if no row has a value."""
    metrics = [metric for row in rows if (metric := metric_of_stage(row)) is not None]
    return " or ".join(dict.fromkeys(metric.title for metric in metrics)) or MACRO_F1.title


def selection_value(row: StageRow) -> tuple[float | None, str]:
    """Return the value of the metric that selected the weights of a stage, and its format specification."""
    metric = metric_of_stage(row) or MACRO_F1
    return getattr(row, metric.name), metric.format_spec

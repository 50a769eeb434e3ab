"""Results of training and of a finished run: trained folders, the best mixture, and the comparison of all models."""

from typing import Any

from pydantic import Field

from moe.results.base import Bounds, OrEmpty, Result
from moe.results.evaluation import RoutingReport
from moe.results.metrics import MeanMetrics, TaskFigures

FiguresByModel = dict[str, dict[str, TaskFigures]]
"""Metrics by model and task."""


class TrainedFolder(Result):
    """A trained expert or mixture.

    Args:
        folder: its path.
        reused: whether it was finished earlier (`kept` in JSON).
        steps: number of optimizer steps.
        validation: metrics of its best weights on validation rows, by name.
        routing: what routing `auto` is; set for a mixture that has decided it.
    """

    folder: str
    reused: bool = Field(alias="kept")
    steps: int
    validation: dict[str, float]
    routing: str | None = None


class TrainingSummary(Result):
    """What a training command has trained, as `--json` prints it; a command sets the fields that it knows.

    Args:
        folders: of the trained models.
        verdict: the best mixture and the validation metric of all three, in a sentence.
        stale: names of finished steps that depend on something made again since.
        warnings: of the run.
    """

    folders: list[TrainedFolder]
    verdict: str = ""
    stale: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class BestMixture(Result):
    """The mixture that a run selects, the content of `result.json`.

    Args:
        best: its folder's name.
        verdict: the same in a sentence, with the validation metric of all mixtures.
        validation: metrics of each mixture on validation rows, by their names.
    """

    best: str | None = None
    verdict: str | None = None
    validation: dict[str, dict[str, float]] = Field(default_factory=dict)


class Difference(Result):
    """Macro-F1, or CCC, of the best mixture minus that of another model on the same rows.

    Args:
        difference: in [−1, 1].
        interval: 95 % interval, paired by row.
    """

    difference: float
    interval: Bounds


class ModelDifference(Result):
    """Differences of the best mixture from another model, over the tasks that both have.

    Args:
        mean: over the tasks.
        tasks: by task.
    """

    mean: Difference
    tasks: dict[str, Difference] = Field(default_factory=dict)


class RunSummary(Result):
    """The models of a run compared on its test rows, the content of `summary.json`; earlier releases wrote less.

    Args:
        figures: by model and task.
        means: over tasks with labels, by model; None for a model without any.
        best: name of the best mixture by validation.
        differences: of the best mixture's macro-F1 from each other model, over tasks with labels.
        score_differences: the same of the CCC, over tasks with a score alone.
        conclusions: the differences in words, a sentence for each.
        routing: of the best mixture.
        predictions: of a few texts by the best mixture, each as a row of `moe infer`.
        verdict: the best mixture and the validation metric of all, in a sentence.
        folder: of the run.
        warnings: of the run.
    """

    figures: FiguresByModel = Field(default_factory=dict)
    means: dict[str, OrEmpty[MeanMetrics]] = Field(default_factory=dict)
    best: str | None = None
    differences: dict[str, ModelDifference] = Field(default_factory=dict)
    score_differences: dict[str, ModelDifference] = Field(default_factory=dict)
    conclusions: list[str] = Field(default_factory=list)
    routing: RoutingReport | None = None
    predictions: list[dict[str, Any]] = Field(default_factory=list)
    verdict: str = ""
    folder: str = ""
    warnings: list[str] = Field(default_factory=list)

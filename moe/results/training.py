"""Rows of `moe report` about the training and the evaluations of runs, and the content of `report.json`."""

from moe.results.base import Number, OrEmpty, Result
from moe.results.evaluation import Levels, RoutingReport
from moe.results.metrics import MeanMetrics
from moe.results.run import FiguresByModel, ModelDifference


class StageRow(Result):
    """A stage of a run; None where its log has no value.

    Args:
        run: label of the run.
        stage: name of the stage.
        finished: whether its output was written.
        steps: number of optimizer steps.
        epochs: number of times that the training rows were read.
        kept_step: step of the selected evaluation.
        macro_f1: of the selected evaluation, 0 to 1.
        accuracy: of the selected evaluation, 0 to 1.
        perplexity: of the selected evaluation of a language model.
        ccc: of the selected evaluation, of tasks with a score alone, −1 to 1.
        mean_of_tasks: of the selected evaluation, of macro-F1 and CCC, if there are tasks of both kinds.
        seconds: time of the steps only.
        wall_seconds: time of the loop, with evaluations and checkpoints.
        seconds_per_step: median time of a step.
        peak_mib: peak memory in MiB.
        memory_of: whether that is the memory of the `stage`, or of the `process` so far.
        device: that trained it, `cpu` or `cuda`.
    """

    run: str
    stage: str
    finished: bool
    steps: int
    epochs: Number | None
    kept_step: Number | None
    macro_f1: Number | None
    accuracy: Number | None
    perplexity: Number | None
    ccc: Number | None = None
    mean_of_tasks: Number | None = None
    seconds: Number | None
    wall_seconds: Number | None
    seconds_per_step: Number | None
    peak_mib: Number | None
    memory_of: str | None
    device: str | None


class LossRow(Result):
    """A loss of a stage.

    Args:
        run: label of the run.
        stage: name of the stage.
        loss: name of the loss.
        first: mean over the first tenth of the steps that have it.
        last: mean over the last tenth.
    """

    run: str
    stage: str
    loss: str
    first: float
    last: float


class EvaluationRow(Result):
    """The last evaluation of a model of a run on test rows.

    Args:
        run: label of the run.
        model: name of the model.
        rows: number of rows.
        routing_mode: `soft`, `hard` or `pinned`.
        accuracy: mean over tasks, 0 to 1; None without labels.
        macro_f1: mean over tasks, 0 to 1; None without labels.
        right_domain: share of rows routed to their own domain, 0 to 1.
    """

    run: str
    model: str
    rows: int
    routing_mode: str
    accuracy: float | None
    macro_f1: float | None
    right_domain: float


class TrainingReport(Result):
    """The training part of a report, of one run or of two.

    Args:
        run: folder of the run.
        against: folder of the other run, or None.
        seed: by run.
        best: the first run's best mixture, or None.
        verdict: the same in a sentence, or None.
        conclusions: on the best mixture against other models, a sentence for each.
        stages: a row per stage and run.
        losses: a row per stage, loss and run.
        weights: mean weight of each loss in each epoch, by stage of the first run.
        evaluations: of the first run's stages, each as metrics by name.
        validation: metrics by run, model and task, their mean last.
        test: metrics by run, model and task.
        test_means: means over tasks by run and model; None for a model without labels.
        differences: of the first run's best mixture's macro-F1 from each other model.
        score_differences: the same of the CCC, over tasks with a score alone.
        levels: of the first run's tasks.
        routing: of the first run's best mixture, or None.
        measured: a row per evaluated model and run.
        left_out: a sentence for each part that is missing.
    """

    run: str
    against: str | None
    seed: dict[str, int | None]
    best: str | None
    verdict: str | None
    conclusions: list[str]
    stages: list[StageRow]
    losses: list[LossRow]
    weights: dict[str, dict[str, list[float]]]
    evaluations: dict[str, list[dict[str, Number]]]
    validation: dict[str, FiguresByModel]
    test: dict[str, FiguresByModel]
    test_means: dict[str, dict[str, OrEmpty[MeanMetrics]]]
    differences: dict[str, ModelDifference]
    score_differences: dict[str, ModelDifference]
    levels: Levels
    routing: RoutingReport | None
    measured: list[EvaluationRow]
    left_out: list[str]


class RunReport(TrainingReport):
    """A report, the content of `report.json`.

    Args:
        model: folder name of the evaluated mixture, or None.
        never_predicted: the classes that no test row is predicted as, in a sentence; empty without any.
        made_of: versions and hashes by name.
        pictures: file names of the figures.
        page: path of the HTML page.
        card: path of the model card.
    """

    model: str | None
    never_predicted: str
    made_of: dict[str, str]
    pictures: list[str]
    page: str
    card: str

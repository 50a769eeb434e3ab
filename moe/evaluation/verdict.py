"""The best mixture of a run against TF-IDF, its own experts and one pooled LoRA: paired differences, and in words."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from moe.bootstrap import Interval, bootstrap_differences, mean_difference
from moe.evaluation.metrics import resampled_concordance
from moe.evaluation.results import ModelResult, TaskResult
from moe.report.conclusions import REFERENCES
from moe.results.run import Difference, ModelDifference

Answers = TypeVar("Answers")


def compare_results(best: ModelResult, others: Mapping[str, ModelResult]) -> dict[str, ModelDifference]:
    """Macro-F1 of the best mixture minus that of other models, over the tasks with labels, paired by row.

    Args:
        best: results of the best mixture.
        others: results of all models; those that are compared are `REFERENCES`.

    Returns:
        by the other's name.
    """
    differences = {}
    for name, pairs in _pairs(best, others, lambda result: result.predictions):
        tasks = {task: bootstrap_differences([a], [b])["macro_f1"] for task, (a, b) in pairs.items()}
        mean = bootstrap_differences([a for a, _ in pairs.values()], [b for _, b in pairs.values()])["macro_f1"]
        differences[name] = _difference(mean, tasks)
    return differences


def compare_scores(best: ModelResult, others: Mapping[str, ModelResult]) -> dict[str, ModelDifference]:
    """The same of the concordance (CCC), over the tasks whose rows have scores alone."""
    differences = {}
    for name, pairs in _pairs(best, others, lambda result: result.answers):
        parts = {
            task: resampled_concordance(ours.true, ours.predicted, theirs.predicted)
            for task, (ours, theirs) in pairs.items()
        }
        tasks = {task: mean_difference([part]) for task, part in parts.items()}
        differences[name] = _difference(mean_difference(list(parts.values())), tasks)
    return differences


def _pairs(
    best: ModelResult, others: Mapping[str, ModelResult], answers_of: Callable[[TaskResult], Answers | None]
) -> Iterator[tuple[str, dict[str, tuple[Answers, Answers]]]]:
    """Yield each reference with the answers of both models by task, if they have a task in common."""
    for name in REFERENCES:
        pairs = {}
        for task, ours in best.items():
            theirs = others.get(name, {}).get(task)
            sides = [None if result is None else answers_of(result) for result in (ours, theirs)]
            if theirs is not None and sides[0] is not None and sides[1] is not None:
                assert ours.row_ids == theirs.row_ids, "differences are paired by row"
                pairs[task] = sides[0], sides[1]
        if pairs:
            yield name, pairs


def _difference(mean: Interval, tasks: Mapping[str, Interval]) -> ModelDifference:
    def of(interval: Interval) -> Difference:
        return Difference(difference=interval.value, interval=(interval.low, interval.high))

    return ModelDifference(mean=of(mean), tasks={task: of(its) for task, its in tasks.items()})


def conclusions(
    best: str, differences: Mapping[str, ModelDifference], scores: Mapping[str, ModelDifference] | None = None
) -> list[str]:
    """One sentence for each model and metric that the best mixture is compared with.

    Args:
        best: name of the best mixture.
        differences: as `compare_results` returns them.
        scores: as `compare_scores` returns them.
    """
    return [
        f"{best}: {_sentence(REFERENCES[name], difference, metric)}"
        for metric, by_name in (("macro-F1", differences), ("CCC", scores or {}))
        for name, difference in by_name.items()
    ]


def _sentence(other: str, difference: ModelDifference, metric: str) -> str:
    mean, tasks = difference.mean, difference.tasks
    value, (low, high) = 100 * mean.difference, (100 * bound for bound in mean.interval)
    if low <= 0 <= high:
        text = (
            f"no difference from {other} is shown: {value:+z.1f} points of {metric} (95 %: {low:+z.1f} to {high:+z.1f})"
        )
    elif value > 0:
        text = f"better than {other} by {value:.1f} points of {metric} (95 %: {low:.1f} to {high:.1f})"
    else:
        text = f"worse than {other} by {-value:.1f} points of {metric} (95 %: {-high:.1f} to {-low:.1f})"
    return text + (_by_task(tasks) if len(tasks) > 1 else "")


def _by_task(tasks: Mapping[str, Difference]) -> str:
    """The tasks whose own interval excludes 0, if there are any."""
    better = _list_tasks((task, its) for task, its in tasks.items() if its.interval[0] > 0)
    worse = _list_tasks((task, its) for task, its in tasks.items() if its.interval[1] < 0)
    parts = [f"better on {better}" if better else "", f"worse on {worse}" if worse else ""]
    return f"; by task, {', '.join(filter(None, parts))}" if better or worse else ""


def _list_tasks(tasks: Iterable[tuple[str, Difference]]) -> str:
    return ", ".join(f"{task} ({100 * its.difference:+z.1f})" for task, its in tasks)

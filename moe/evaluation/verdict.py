"""The best mixture of a run against TF-IDF, its own experts and one pooled LoRA: paired differences, and in words."""

from collections.abc import Iterable, Mapping

from moe.bootstrap import Interval, bootstrap_differences
from moe.evaluation.results import ModelResult
from moe.report.conclusions import REFERENCES
from moe.results.run import Difference, ModelDifference


def compare_results(best: ModelResult, others: Mapping[str, ModelResult]) -> dict[str, ModelDifference]:
    """Macro-F1 of the best mixture minus that of other models, paired by row.

    Args:
        best: results of the best mixture.
        others: results of all models; those that are compared are `REFERENCES`.

    Returns:
        by the other's name.
    """
    differences = {}
    for name in REFERENCES:
        pairs = {
            task: (ours.predictions, theirs.predictions)
            for task, ours in best.items()
            if (theirs := others.get(name, {}).get(task)) and ours.predictions and theirs.predictions
        }
        if not pairs:
            continue
        assert all(best[task].ids == others[name][task].ids for task in pairs), "differences are paired by row"
        tasks = {task: bootstrap_differences([a], [b])["macro_f1"] for task, (a, b) in pairs.items()}
        mean = bootstrap_differences([a for a, _ in pairs.values()], [b for _, b in pairs.values()])["macro_f1"]
        differences[name] = ModelDifference(
            mean=_difference(mean), tasks={task: _difference(its) for task, its in tasks.items()}
        )
    return differences


def _difference(interval: Interval) -> Difference:
    return Difference(difference=interval.value, interval=(interval.low, interval.high))


def conclusions(best: str, differences: Mapping[str, ModelDifference]) -> list[str]:
    """One sentence for each model that the best mixture is compared with.

    Args:
        best: name of the best mixture.
        differences: as `compare_results` returns them.
    """
    return [f"{best}: {_sentence(REFERENCES[name], difference)}" for name, difference in differences.items()]


def _sentence(other: str, difference: ModelDifference) -> str:
    mean, tasks = difference.mean, difference.tasks
    value, (low, high) = 100 * mean.difference, (100 * bound for bound in mean.interval)
    if low <= 0 <= high:
        text = (
            f"no difference from {other} is shown: {value:+z.1f} points of macro-F1 (95 %: {low:+z.1f} to {high:+z.1f})"
        )
    elif value > 0:
        text = f"better than {other} by {value:.1f} points of macro-F1 (95 %: {low:.1f} to {high:.1f})"
    else:
        text = f"worse than {other} by {-value:.1f} points of macro-F1 (95 %: {-high:.1f} to {-low:.1f})"
    return text + (_by_task(tasks) if len(tasks) > 1 else "")


def _by_task(tasks: Mapping[str, Difference]) -> str:
    """The tasks whose own interval excludes 0, if there are any."""
    better = _list_tasks((task, its) for task, its in tasks.items() if its.interval[0] > 0)
    worse = _list_tasks((task, its) for task, its in tasks.items() if its.interval[1] < 0)
    parts = [f"better on {better}" if better else "", f"worse on {worse}" if worse else ""]
    return f"; by task, {', '.join(filter(None, parts))}" if better or worse else ""


def _list_tasks(tasks: Iterable[tuple[str, Difference]]) -> str:
    return ", ".join(f"{task} ({100 * its.difference:+z.1f})" for task, its in tasks)

"""Selection of a run's best mixture on its validation rows, by a rule that their noise does not fool."""

from collections.abc import Mapping
from pathlib import Path

from moe import distributed
from moe.bootstrap import Interval, bootstrap_differences, mean_difference, resampled_difference
from moe.checkpoints.mixture import read_mixture
from moe.config.stages import JOINT, MERGED, WARMUP
from moe.evaluation.evaluate import evaluate_rows, predictions_by_task, scored_tasks, validation_metrics
from moe.evaluation.metrics import SCORE_DRAWS, resampled_concordance
from moe.evaluation.rows import PredictedRow
from moe.inference.torch_predictor import TorchPredictor
from moe.runs.best import write_result
from moe.runs.layout import MIXTURES
from moe.runs.selection_metric import MACRO_F1, PERPLEXITY, SELECTION_METRICS, SelectionMetric
from moe.runs.workspace import Workspace
from moe.training.language.lm_dataset import LMCorpora


def select_best_mixture(work: Workspace) -> str:
    """Compare moe-init, router-warmup and moe-joint by validation, and write `result.json`.

    The metric is macro-F1, of tasks with a score alone CCC, averaged over tasks. moe-init is evaluated for comparison
    only: its router is untrained, so it is never selected. Of the other two the warm start is selected, unless the
    joint mixture is better and the 95 % interval of their difference, paired by row, excludes 0.
    One standard error (Breiman et al., 1984) does not suffice here: the joint stage keeps the best of several
    evaluations on the same rows, which exceeds that by chance too often. Perplexities are compared as they are.

    Returns:
        a sentence that states the best mixture and the validation metric of all three.
    """
    return distributed.broadcast_from_main(lambda: _select_best_mixture(work))


def _select_best_mixture(work: Workspace) -> str:
    if work.run.language is not None:
        scores = {name: _perplexity(work, work.out / name) for name in MIXTURES}
        best = max((WARMUP.folder, JOINT.folder), key=lambda name: PERPLEXITY.score(scores[name]))
        verdict = state_verdict(scores, best, PERPLEXITY)
    else:
        scores, predicted = {}, {}
        for name in MIXTURES:
            scores[name], predicted[name] = _predict_validation(work, work.out / name)
        gain = joint_gain(work, predicted)
        best = JOINT.folder if gain.low > 0 else WARMUP.folder
        metric = next(metric for metric in SELECTION_METRICS if metric.name in scores[best])
        verdict = state_verdict(scores, best, metric, gain)
    write_result(work.out, scores, best, verdict)
    return verdict


def _perplexity(work: Workspace, folder: Path) -> dict[str, float]:
    model, card = read_mixture(folder)
    return card.metrics or LMCorpora(work, model).routed_data().evaluate()


def _predict_validation(work: Workspace, folder: Path) -> tuple[dict[str, float], list[PredictedRow]]:
    """Validation metrics of a mixture, and its predictions."""
    model, card = read_mixture(folder)
    rows = work.rows("validation", [domain.name for domain in model.domains])
    predictor = TorchPredictor(model, card.template, card.backbone_settings.resolved_length)
    evaluated = evaluate_rows(predictor, rows)
    scored = model.labels.score_tasks
    answered = [row for row in evaluated if row.true is not None or row.row["task"] in scored]
    return validation_metrics(evaluated, model), answered


def joint_gain(work: Workspace, predicted: Mapping[str, list[PredictedRow]]) -> Interval:
    """The selection metric of the joint mixture minus the warm start's, paired by row, with its 95 % interval."""
    space = work.run.label_space()
    joint, warm = (predicted[stage.folder] for stage in (JOINT, WARMUP))
    ours, theirs = (predictions_by_task([row for row in rows if row.true is not None], space) for rows in (joint, warm))
    joint_scores, warm_scores = (scored_tasks(rows, space) for rows in (joint, warm))
    if not joint_scores:
        if not ours:
            return Interval(0.0, 0.0, 0.0)
        return bootstrap_differences(list(ours.values()), list(theirs.values()))[MACRO_F1.name]
    parts = [resampled_difference(ours[task], theirs[task], MACRO_F1.name) for task in ours]
    parts += [
        resampled_concordance(its.true, its.predicted, warm_scores[task].predicted)
        for task, its in joint_scores.items()
    ]
    return mean_difference([(value, draws[:SCORE_DRAWS]) for value, draws in parts])


def state_verdict(
    scores: Mapping[str, Mapping[str, float]], best: str, metric: SelectionMetric, gain: Interval | None = None
) -> str:
    """State the best mixture and the metric of all three.

    Args:
        gain: of the joint mixture over the warm start, with its interval; None for perplexities.
    """
    figures = ", ".join(f"{name} {metric.format_value(score)}" for name, score in scores.items())
    warm, joint = (metric.score(scores[stage.folder]) for stage in (WARMUP, JOINT))
    remarks = ""
    if joint < warm:
        remarks = "; the joint phase made it worse than the warm start"
    elif joint == warm:
        remarks = "; the joint phase brought nothing"
    elif gain is not None and best == WARMUP.folder:
        remarks = (
            f"; the joint phase's gain of {100 * gain.value:.1f} points may be chance "
            f"(95 %: {100 * gain.low:+.1f} to {100 * gain.high:+.1f}), so the warm start is kept"
        )
    idle = metric.score(scores[best]) < metric.score(scores[MERGED])
    remarks += "; merged alone, with a router that knows nothing, it was better" if idle else ""
    return f"best by validation {metric.title}: {best} ({figures}){remarks}"

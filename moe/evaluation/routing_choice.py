"""Which routing a mixture uses by default: the cheapest one that is as good as soft routing on validation rows."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from moe.checkpoints.mixture_card import RoutingDecision, RoutingFigures
from moe.evaluation.evaluate import evaluate_rows, logits_by_task, validation_metrics
from moe.evaluation.metrics import calibration_metrics, pair_calibration_metrics
from moe.evaluation.rows import PredictedRow
from moe.inference.torch_predictor import TorchPredictor
from moe.model.mixture import Mixture
from moe.model.mode import Routing

TOLERANCE = 0.001
"""How much worse than soft routing a cheaper one may be: in macro-F1 (.1 point), CCC, log loss, calibration error."""
CHEAPEST_FIRST: tuple[Routing, ...] = ("hard", "pruned", "soft")
MIN_SAVING = 0.8
"""Share of what hard routing skips that pruned routing has to skip: texts that keep several experts cost no less."""


def decide_routing(model: Mixture, rows: Dataset, template: str, max_length: int) -> RoutingDecision | None:
    """Compare the routings on validation rows, each row with the labels of its own task.

    Args:
        model: is set to evaluation mode.
        rows: labelled rows, as prepared.
        template: the prompt template that the model was trained with.
        max_length: tokens at which a text is truncated.

    Returns:
        the decision; None for a model whose texts all have the same experts, or without a labelled row.
    """
    gate = model.gate
    if gate is None or model.active_expert is not None or gate.settings.unit == "token" or gate.num_experts == 1:
        return None
    figures: dict[Routing, RoutingFigures] = {}
    count = 0
    for routing in ("soft", "pruned", "hard") if gate.settings.prune else ("soft", "hard"):
        predictor = TorchPredictor(model, template, max_length, routing)
        evaluated = evaluate_rows(predictor, rows)
        count = sum(row.true is not None for row in evaluated)
        if not count:
            return None
        figures[routing] = _figures(evaluated, predictor)
    saves = "pruned" in figures and figures["pruned"].skipped >= MIN_SAVING * figures["hard"].skipped
    cheaper = [name for name in CHEAPEST_FIRST if name != "pruned" or saves]
    choice = next(name for name in cheaper if _is_as_good(figures[name], figures["soft"]))
    return RoutingDecision(choice=choice, prune=gate.settings.prune, rows=count, figures=figures)


def _figures(rows: Sequence[PredictedRow], predictor: TorchPredictor) -> RoutingFigures:
    model, losses, errors = predictor.model, [], []
    for task in logits_by_task(rows, model.labels).values():
        probabilities = task.probabilities(1.0)  # (N, K)
        calibration = (
            pair_calibration_metrics(probabilities, task.truth)
            if task.own_kind.is_set
            else calibration_metrics(probabilities, task.true)
        )
        losses.append(calibration.log_loss)
        errors.append(calibration.ece)
    metrics = validation_metrics(rows, model)
    return RoutingFigures(
        macro_f1=metrics["macro_f1"],
        ccc=metrics.get("ccc"),
        log_loss=float(np.mean(losses)),
        ece=float(np.mean(errors)),
        skipped=predictor.routing_count.skipped_share,
    )


def _is_as_good(routing: RoutingFigures, soft: RoutingFigures) -> bool:
    return (
        routing.macro_f1 >= soft.macro_f1 - TOLERANCE
        and (routing.ccc is None or soft.ccc is None or routing.ccc >= soft.ccc - TOLERANCE)
        and routing.log_loss <= soft.log_loss + TOLERANCE
        and routing.ece <= soft.ece + TOLERANCE
    )

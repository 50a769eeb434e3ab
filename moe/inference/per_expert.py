"""Predictions of each expert on its own, to compare with those of the mixture."""

from collections.abc import Iterator, Sequence

from moe.console import progress_bar
from moe.inference.predictor import Prediction
from moe.inference.rows import ExpertColumns
from moe.inference.torch_predictor import TorchPredictor


def predict_per_expert(
    predictor: TorchPredictor, texts: Sequence[str], tasks: Sequence[str], targets: Sequence[str | None] | None = None
) -> dict[str, list[Prediction]]:
    """Predict texts (B) with each routed expert on its own, with their targets, if any, and tasks (B).

    One backbone pass per expert; a shared expert stays active. The heads are the mixture's, or the expert's own if
    heads are per expert; the calibration is the mixture's.

    Returns:
        the predictions by expert; empty for a single expert, which has no gates.
    """
    model = predictor.model
    if predictor.mode.active_expert is not None:
        return {}
    predictions = {}
    for name in model.bank.routed_experts:
        with model.single_expert(name) as mode:
            scores = predictor.with_mode(mode).score(texts, targets=targets)
        predictions[name] = predictor.to_predictions(scores, tasks)
    return predictions


def per_expert_columns(
    predictor: TorchPredictor,
    texts: Sequence[str],
    tasks: Sequence[str],
    targets: Sequence[str | None] | None = None,
    quiet: bool = True,
) -> Iterator[ExpertColumns]:
    """For each text the label and the confidence of each expert on its own."""
    with progress_bar("single experts", len(texts), "text", quiet) as meter:
        for start in range(0, len(texts), predictor.chunk_size):
            chunk = slice(start, start + predictor.chunk_size)
            predictions = predict_per_expert(predictor, texts[chunk], tasks[chunk], targets and targets[chunk])
            for index in range(len(texts[chunk])):
                by_expert = {name: expert_predictions[index] for name, expert_predictions in predictions.items()}
                yield {
                    "alone": {name: prediction.label for name, prediction in by_expert.items()},
                    "probability": {name: round(prediction.confidence, 6) for name, prediction in by_expert.items()},
                }
            meter.advance(len(texts[chunk]))

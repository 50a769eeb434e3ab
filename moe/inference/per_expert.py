"""What each expert alone would have said of texts, beside what the mixture says.

Answers are `moe.inference.predictor`'s; who shows them is `moe.explain.explain` and `moe.evaluation.evaluate`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moe.console import bar
from moe.inference.predictor import Prediction, Predictor


def predict_per_expert(predictor: Predictor, texts: Sequence[str], tasks: Sequence[str]) -> dict[str, list[Prediction]]:
    """By routed expert its answers to texts (B) as these tasks (B), gates held to it; a pass of the backbone each.

    A shared expert stays on. Heads are the mixture's, or the expert's own where they are kept per expert; calibration
    is the mixture's. A lone expert, which has no gates, gives nothing.
    """
    model = predictor.model
    if model.active_expert is not None:
        return {}
    found = {}
    for name in model.bank.routed_experts:
        with model.single_expert(name):
            found[name] = predictor.to_predictions(predictor.score(texts), tasks)
    return found


def per_expert_columns(
    predictor: Predictor, texts: Sequence[str], tasks: Sequence[str], quiet: bool = True
) -> Iterator[Mapping[str, Any]]:
    """For each text what the experts alone say: `alone`, their labels, and `probability`, by expert."""
    with bar("each expert alone", len(texts), "text", quiet) as meter:
        for at in range(0, len(texts), predictor.chunk_size):
            here = slice(at, at + predictor.chunk_size)
            found = predict_per_expert(predictor, texts[here], tasks[here])
            for place in range(len(texts[here])):
                said = {name: answers[place] for name, answers in found.items()}
                yield {
                    "alone": {name: one.label for name, one in said.items()},
                    "probability": {name: round(one.confidence, 6) for name, one in said.items()},
                }
            meter.advance(len(texts[here]))

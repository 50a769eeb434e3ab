"""Equality: the same mixture on the CPU in fp32 and on the GPU in fp32, bfloat16 and NF4, for every kind of routing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import Bench, Precision, load_in, token_batches

from moe.model.mode import SOFT

LIMITS = {"fp32": (1e-3, 0.99), "bf16": (0.15, 0.9), "nf4": (1.0, 0.0)}
"""By precision: largest difference of a probability, and least share of equal labels and equal experts. NF4 rounds the
weights to 16 values, so its differences are reported and not limited."""


@dataclass(frozen=True)
class Answers:
    """What a mixture predicts for a batch.

    Args:
        probabilities: (N, K), of a head's labels for each text, or of the next token.
        experts: (N, E) bool, the experts with a weight.
    """

    probabilities: np.ndarray
    experts: np.ndarray


def measure_routing(bench: Bench, routing: str) -> Iterator[dict[str, Any]]:
    """Compare a classifier's probabilities, for one kind of routing: `soft`, `hard`, `team` or `token`.

    `hard` sends each text of the soft mixture to its most probable expert; `token` is a language model, whose
    probabilities are those of the next token.

    Yields:
        one comparison with the CPU in fp32 for each precision.
    """
    kind = "team" if routing == "team" else "soft"
    folder = bench.save_language_model() if routing == "token" else bench.save_classifier(kind)
    expected = predict(folder, bench.reference, bench, routing)
    for precision in bench.precisions:
        comparison: dict[str, Any] = {"routing": routing, "precision": precision.name}
        if precision.missing:
            yield comparison | {"skipped": precision.missing}
        else:
            yield comparison | compare(expected, predict(folder, precision, bench, routing), precision)


def compare(expected: list[Answers], measured: list[Answers], precision: Precision) -> dict[str, Any]:
    """Return the largest difference of a probability, the share of equal labels, and whether both are in the limits.

    Rounding may change which of two almost equal experts a text goes to. So differences are those of texts, or tokens,
    with the same experts, whose share is a figure of its own.
    """
    pairs = list(zip(expected, measured, strict=True))
    same = [(a.experts == b.experts).all(-1) for a, b in pairs]  # (N,) each
    differences = [np.abs(a.probabilities - b.probabilities).max(-1) for a, b in pairs]  # (N,) each
    difference = max(float(values[rows].max(initial=0)) for values, rows in zip(differences, same, strict=True))
    equal = [a.probabilities.argmax(-1) == b.probabilities.argmax(-1) for a, b in pairs]  # (N,) each
    shares = {"equal_labels": float(np.concatenate(equal).mean()), "equal_experts": float(np.concatenate(same).mean())}
    largest, least = LIMITS[precision.name.split()[-1]]
    return {"difference": difference, **shares, "passed": difference <= largest and min(shares.values()) >= least}


@torch.no_grad()
def predict(folder: Path, precision: Precision, bench: Bench, routing: str) -> list[Answers]:
    """Return the predictions of texts by batch and head, or of next tokens by batch."""
    model, answers = load_in(folder, precision), []
    for batch in token_batches(model, bench.texts[:64] if routing == "token" else bench.texts):
        output, real = model(**batch, mode=SOFT.as_hard(routing == "hard")), batch["attention_mask"].bool()
        if routing == "token":
            assert model.loaded_backbone.lm_head is not None
            logits, gates = [model.loaded_backbone.lm_head.logits(output.pooled[real])], output.gates[real]
        else:
            logits, gates = list(output.logits.values()), output.gates
        experts = (gates > 0).cpu().numpy()  # (N, E)
        answers += [Answers(values.float().softmax(-1).cpu().numpy(), experts) for values in logits]
    return answers

"""Synthetic logits whose temperature is known."""

import numpy as np
from scipy.special import softmax

from moe.evaluation.calibration.temperature import TaskLogits


def overconfident(rows: int, factor: float = 2.5, seed: int = 0) -> TaskLogits:
    """Labels drawn from the probabilities of logits that are then scaled: the temperature to recover is the factor."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, 3)) * 2.0
    true = np.array([random.choice(3, p=row) for row in softmax(logits, axis=1)])
    return TaskLogits(logits * factor, true)

"""The temperature of a task: fitted on validation rows, and applied only if held-out rows support it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from scipy.optimize import minimize_scalar

from experts.domain import CLASSES, Kind, Labels
from moe.inference.abstention import MIN_ROWS
from moe.inference.predictor import Prediction
from moe.kinds.base import TaskKind
from moe.kinds.registry import task_kind

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
PRIOR_WIDTH = 0.5
"""Standard deviation of log T before any row is seen; smaller keeps T closer to 1. `benchmarks/calibration.py`."""
FOLDS = 10
"""Number of folds of the cross-validation."""


@dataclass(frozen=True)
class TaskLogits:
    """A model's logits for the labelled rows of one task.

    Args:
        logits: (N, K), of one label per row up to a constant per row.
        true: (N,), code of each row's answer (`moe.kinds.base.TaskKind`): of one label per row its index.
        kind: kind of the task.
        labels: names of its labels (K,), if thresholds are reported.
        limits: of a multi-label task, logit from which each label is predicted (K,); None for 0.
    """

    logits: np.ndarray
    true: np.ndarray
    kind: Kind = CLASSES
    labels: Labels = ()
    limits: np.ndarray | None = None

    @property
    def own_kind(self) -> TaskKind:
        """The kind of the task."""
        return task_kind(self.kind)

    @property
    def truth(self) -> np.ndarray:
        """(N, K) bool, which labels each row has."""
        return self.own_kind.members(self.true, self.logits.shape[1])

    @classmethod
    def from_predictions(cls, predictions: Sequence[Prediction], true: Sequence[str]) -> "TaskLogits":
        """Logits of the probabilities of one task's rows (N), N ≥ 1, whose answers are `true`."""
        probabilities = np.stack([prediction.probabilities for prediction in predictions])  # (N, K)
        kind, labels = task_kind(predictions[0].kind), predictions[0].labels
        codes = np.array([kind.encode(map(labels.index, kind.split(answer))) for answer in true])  # (N,)
        return cls(kind.logits(probabilities), codes, kind.name, labels)

    @property
    def correct(self) -> np.ndarray:
        """(N,), whether each prediction is correct, of sets exactly; no temperature changes it."""
        predicted = self.own_kind.chosen(self.probabilities(1.0), self.thresholds(1.0))  # (N, K)
        correct: np.ndarray = (predicted == self.truth).all(1)
        return correct

    def thresholds(self, temperature: float) -> np.ndarray | None:
        """Probability at a temperature from which each label is predicted (K,); None for the default of the kind."""
        return None if self.limits is None else self.own_kind.probabilities(self.limits / temperature)

    def probabilities(self, temperature: float) -> np.ndarray:
        """Probabilities (N, K) at a temperature."""
        return self.own_kind.probabilities(self.logits / temperature)

    def confidence(self, temperature: float) -> np.ndarray:
        """Confidence of each row's prediction (N,) at a temperature."""
        return self.own_kind.confidence(self.probabilities(temperature), self.thresholds(temperature))

    def reliability(self, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and whether they came true: of predictions (N,), of sets of all pairs with a label (N · K,)."""
        if self.own_kind.is_set:
            return self.probabilities(temperature).ravel(), self.truth.ravel()
        return self.confidence(temperature), self.correct

    def cooled(self, temperature: float) -> "TaskLogits":
        """The logits divided by a temperature."""
        limits = None if self.limits is None else self.limits / temperature
        return replace(self, logits=self.logits / temperature, limits=limits)

    def losses(self, temperature: float) -> np.ndarray:
        """Log loss of each row (N,) at a temperature, in nats."""
        return self.own_kind.log_losses(self.logits / temperature, self.true)

    def __getitem__(self, rows: np.ndarray) -> "TaskLogits":
        """The rows of a mask or of indices."""
        return replace(self, logits=self.logits[rows], true=self.true[rows])


def fit_temperature(task: TaskLogits, prior_width: float = PRIOR_WIDTH) -> float:
    """The most probable temperature T, within 1/20 to 20, of softmax(logits / T), of sets sigmoid(logits / T).

    It minimizes the log loss of all rows (Guo et al., 2017) plus (log T)² / 2 / prior_width²: a normal prior on log T,
    which shrinks T towards 1 by a share that falls with the number of rows.

    Args:
        prior_width: standard deviation of the prior; `inf` leaves the log loss alone. The log loss is convex in 1/T,
            so it has a single minimum, or none if every prediction is correct.
    """

    def cost(log_temperature: float) -> float:
        return float(task.losses(np.exp(log_temperature)).sum() + (log_temperature / prior_width) ** 2 / 2)

    bounds = np.log([MIN_TEMPERATURE, MAX_TEMPERATURE])
    return float(np.exp(minimize_scalar(cost, bounds=bounds, method="bounded").x))


@dataclass(frozen=True)
class HeldOutGain:
    """What temperatures of other rows gain on a task's rows.

    Args:
        mean: mean reduction of the log loss, in nats; below 0 if it rises.
        error: standard error of the mean.
    """

    mean: float
    error: float

    @property
    def supported(self) -> bool:
        """Whether the gain exceeds its standard error."""
        return self.mean > self.error


def held_out_gain(task: TaskLogits, prior_width: float = PRIOR_WIDTH) -> HeldOutGain:
    """Cross-validate `fit_temperature`: each row's loss at T = 1 minus its loss at the T of the other folds' rows.

    Args:
        task: at least `FOLDS` rows.
    """
    folds = np.random.default_rng(0).permutation(len(task.true)) % FOLDS  # (N,)
    gains = task.losses(1.0)  # (N,)
    for fold in range(FOLDS):
        held_out = folds == fold
        gains[held_out] -= task[held_out].losses(fit_temperature(task[~held_out], prior_width))
    return HeldOutGain(float(gains.mean()), float(gains.std(ddof=1)) / sqrt(len(gains)))


def choose_temperature(task: TaskLogits) -> tuple[float, str | None]:
    """The temperature that a task's rows support, and if it stays 1, the reason."""
    rows = len(task.true)
    if rows < MIN_ROWS:
        return 1.0, f"{rows} validation rows, fewer than {MIN_ROWS}: T stays 1, no thresholds"
    if task.correct.all():
        return 1.0, "every validation row is predicted correctly, so T cannot be fitted and stays 1"
    temperature, gain = fit_temperature(task), held_out_gain(task)
    if gain.supported:
        return temperature, None
    return 1.0, (
        f"T stays 1: on held-out folds of the {rows:,} validation rows, T = {temperature:.2f} "
        f"{'lowers' if gain.mean > 0 else 'raises'} the log loss by {abs(gain.mean):.4f}, "
        f"with a standard error of {gain.error:.4f}"
    )

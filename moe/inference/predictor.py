"""Predictor: raw scores of texts, and the predictions made from them.

A runtime computes the scores (`TorchPredictor` with PyTorch); everything after the scores is here and needs no torch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from experts.domain import CLASSES, Kind, Labels
from experts.errors import Fault
from moe.inference.batches import chunk_size_for
from moe.inference.calibration import Calibration, check_calibrated
from moe.inference.finite import NonFiniteScores, raise_first
from moe.inference.spec import InferenceSpec
from moe.inference.windows import RoutingCount, Scores
from moe.kinds.registry import task_kind
from moe.model.mode import Routing, RoutingChoice


@dataclass(frozen=True)
class Prediction:
    """Prediction for one text.

    Args:
        task: the task that the labels belong to.
        labels: its K labels; none for a task with a score alone.
        probabilities: (K,); of a multi-label task, one of each label by itself.
        polarity: -1 to 1, the score of a task with a score alone; None if the model has no polarity head and the labels
            have no sign.
        routing_weights: (E,), soft routing weights.
        entropy: normalized entropy of the routing weights, 0 to 1.
        truncated: whether a part of the text was not read.
        abstained: whether the confidence is below the threshold; None without abstention. `label` is the most
            probable label in any case.
        label_set: the conformal set of labels, the most probable first; None if no sets were requested.
        target: the entity of the text that the prediction is about, or None.
        target_missing: whether the text does not contain the target.
        target_truncated: whether the target was too long and was cut.
        windows: number of windows in which the text was read.
        unfamiliar: whether the text is far from every domain's training texts, so that a shared expert answered alone.
        logits: (K,), before calibration; None if they were not kept.
        tokens: number of tokens that were read; None if they were not counted.
        kind: kind of the task.
        thresholds: of a multi-label task, probability from which each label is predicted (K,); None for 0.5.
    """

    task: str
    labels: Labels
    probabilities: np.ndarray
    polarity: float | None
    routing_weights: np.ndarray
    entropy: float
    truncated: bool
    abstained: bool | None = None
    label_set: tuple[str, ...] | None = None
    target: str | None = None
    target_missing: bool = False
    target_truncated: bool = False
    windows: int = 1
    unfamiliar: bool = False
    logits: np.ndarray | None = None
    tokens: int | None = None
    kind: Kind = CLASSES
    thresholds: np.ndarray | None = None

    @property
    def chosen(self) -> tuple[int, ...]:
        """Indices of the predicted labels: of the most probable one, or of a multi-label task any number."""
        return tuple(np.flatnonzero(task_kind(self.kind).chosen(self.probabilities, self.thresholds)).tolist())

    @property
    def has_labels(self) -> bool:
        """Whether the task has labels; otherwise `polarity` is its score."""
        return task_kind(self.kind).has_labels

    @property
    def label(self) -> str:
        """The most probable label; of a multi-label task all predicted labels with `;` between them; empty without."""
        return task_kind(self.kind).join([self.labels[i] for i in self.chosen])

    @property
    def most_probable(self) -> int:
        """Index of the most probable label."""
        return int(self.probabilities.argmax())

    @property
    def confidence(self) -> float:
        """Probability of the most probable label; of a multi-label task the product of those of all its decisions.

        It is 1 for a task with a score alone, which decides nothing; what reports confidences reports none for it.
        """
        return float(task_kind(self.kind).confidence(self.probabilities, self.thresholds))


class Predictor(ABC):
    """Scores texts and turns the scores into predictions.

    Args:
        spec: the model's tasks, domains and experts.
        batch_tokens: tokens in a batch, padding included.
        routing: `soft` mixes the experts, `pruned` those with a weight of at least the router's setting `prune`, `hard`
            sends each text to its most probable expert; `auto` is the one that was chosen when the model was saved.
        windows: average a long text over all its windows, instead of at most as many as in training.
        calibration: its temperatures divide the logits; None leaves the logits unchanged.
        abstain: target accuracy; predictions below the confidence that it needs abstain. Needs a calibration.
        label_sets: give each prediction its conformal set of labels. Needs a calibration.
    """

    def __init__(
        self,
        spec: InferenceSpec,
        batch_tokens: int,
        routing: RoutingChoice = "soft",
        windows: bool = False,
        calibration: Calibration | None = None,
        abstain: float | None = None,
        label_sets: bool = False,
    ) -> None:
        assert calibration or (abstain is None and not label_sets), "abstention and label sets need a calibration"
        self.spec, self.batch_tokens = spec, batch_tokens
        self.routing, self.windows = self.resolve_routing(routing), windows
        self.calibration, self.abstain, self.label_sets = calibration, abstain, label_sets

    @abstractmethod
    def score(
        self,
        texts: Sequence[str],
        pin: Sequence[str | None] | None = None,
        targets: Sequence[str | None] | None = None,
    ) -> Scores:
        """Score texts (B) in batches of similar length.

        Args:
            pin: for each text a domain, to whose experts it is restricted; None lets the router decide.
            targets: for each text the entity whose sentiment is predicted, or None; by default no text has one.

        Returns:
            the scores, in the order of the texts.

        Raises:
            Fault: if memory runs out.
        """

    @property
    def hard(self) -> bool:
        """Whether each text is sent to its most probable expert."""
        return self.routing == "hard"

    def resolve_routing(self, choice: RoutingChoice) -> Routing:
        """Return how texts are routed for a choice."""
        return self.spec.routing if choice == "auto" else choice

    def with_options(self, routing: RoutingChoice, abstain: float | None = None, label_sets: bool = False) -> Self:
        """A predictor that shares this one's model but has another routing or target accuracy, or label sets.

        Raises:
            Fault: if `abstain` or `label_sets` is set and the model is not calibrated.
        """
        check_calibrated(self.calibration, abstain, label_sets)
        other = copy(self)
        other.routing, other.abstain, other.label_sets = self.resolve_routing(routing), abstain, label_sets
        return other

    @property
    def chunk_size(self) -> int:
        """Number of texts scored at a time; within a chunk, texts of similar length, and experts, share a batch."""
        return chunk_size_for(self.batch_tokens, by_experts=self.routing != "soft")

    @property
    def max_length(self) -> int:
        """Tokens at which a text is truncated."""
        return self.spec.max_length

    def window_weights(self, lengths: Sequence[int]) -> np.ndarray:
        """Weights of windows of these lengths in the mean of a text (W,): their tokens, if training used windows."""
        return np.asarray(lengths, dtype=float) if self.spec.windows > 1 else np.ones(len(lengths))

    @property
    def marks_unfamiliar(self) -> bool:
        """Whether texts far from the training texts of every domain are marked."""
        return False

    @property
    def routing_count(self) -> RoutingCount:
        """The experts that were computed so far."""
        return RoutingCount(self.routing)

    @property
    def window_limit(self) -> int | None:
        """Most windows in which a text is read; None for all."""
        return None if self.windows else self.spec.windows

    @property
    def template(self) -> str:
        """The prompt template that the model was trained with."""
        return self.spec.template

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the routed experts, in the order of the routing weights (E)."""
        return self.spec.experts

    def routed_tasks(self, scores: Scores, targets: Sequence[str | None] | None = None) -> list[str]:
        """For each text the first task of its most probable domain; for a single expert, of the expert's own domain.

        Args:
            targets: of the texts, if any; a text with one is answered by a task with a target, the others by a task
                without.
        """
        trained = [domain.trained for domain in self.spec.domains]
        mask = self.spec.domain_expert_mask[trained]  # (G', E), trained domains only
        tasks, target_tasks = (self._default_tasks(target) for target in (False, True))
        targeted = [False] * len(scores.routing_weights) if targets is None else [bool(target) for target in targets]
        with np.errstate(invalid="ignore"):  # weights that are not finite are refused by `to_predictions`
            domains = (scores.routing_weights @ mask.T).argmax(1)  # (B,)
        return [(target_tasks if target else tasks)[i] for i, target in zip(domains, targeted, strict=True)]

    def _default_tasks(self, target: bool = False) -> list[str]:
        """The task of each trained domain that answers a text with or without a target; any if there is no such one."""
        fallback = next(iter(self.spec.tasks))
        return [self.spec.default_task(domain.name, target) or fallback for domain in self.spec.trained_domains]

    def check(self, task: str | None, domain: str | None, target: bool | None = False) -> None:
        """Check the task and domain of a request, that its target accuracy can be reached, and that it has label sets.

        Args:
            target: whether the texts have a target; None if some may have one.

        Raises:
            Fault: if the model does not know the task or domain, has no task for texts with a target or none for texts
                without, no threshold reaches the target accuracy, the task has no label sets, or thresholds or label
                sets were fitted on texts that were routed otherwise.
        """
        self.spec.check_request(task, domain, target)
        if self.calibration is not None and (self.abstain is not None or self.label_sets) and len(self.experts) > 1:
            self.calibration.require_routing(self.routing)
        for kind in (target,) if target is not None else (False, True):
            for name in self._answering_tasks(task, domain, kind):
                self._check_score_task(name, named=task is not None)
                self._abstains(name, confidence=1.0)
                self._select_labels(name, np.ones(len(self.spec.tasks[name].labels)))

    def _check_score_task(self, task: str, named: bool) -> None:
        """Check that a task with a score alone can be answered; only if it was named, that no label is decided."""
        if task not in self.spec.score_tasks:
            return
        if self.spec.polarity is None:
            remedy = "choose another task, or a mixture"
            raise Fault(f"a model with a polarity head for task {task}", "one trained without scores", remedy)
        if named and self.abstain is not None:
            self.spec.require_labels(task, "abstention")
        if named and self.label_sets:
            self.spec.require_labels(task, "label sets")

    def _answering_tasks(self, task: str | None, domain: str | None, target: bool) -> list[str]:
        """The tasks that may answer a request."""
        if task is not None or domain is None:
            return [task] if task is not None else self._default_tasks(target)
        default = self.spec.default_task(domain, target)
        return [default] if default is not None else []

    def to_predictions(self, scores: Scores, tasks: Sequence[str]) -> list[Prediction]:
        """Turn scores of texts (B) into predictions for these tasks (B).

        Raises:
            NonFiniteScores: if a score is NaN or infinite.
        """
        return raise_first(self.to_predictions_or_faults(scores, tasks))

    def to_predictions_or_faults(self, scores: Scores, tasks: Sequence[str]) -> list[Prediction | NonFiniteScores]:
        """Turn scores of texts (B) into predictions, and those that are NaN or infinite into faults."""
        with np.errstate(invalid="ignore"):
            entropy = normalized_entropy(scores.routing_weights)  # (B,)
        return [self._to_prediction(scores, row, task, float(entropy[row])) for row, task in enumerate(tasks)]

    def _to_prediction(self, scores: Scores, row: int, task: str, entropy: float) -> Prediction | NonFiniteScores:
        spec = self.spec.tasks[task]
        logits = np.zeros(0)  # (K,)
        if spec.head is not None:
            logits = scores.logits[spec.head][row][list(spec.columns)].astype(np.float64)  # (K,)
        outputs = {"logits": logits, "routing weights": scores.routing_weights[row]}
        outputs |= {} if scores.polarity is None else {"polarity": scores.polarity[row]}
        outputs |= {} if scores.states is None else {"states": scores.states[row]}
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                return NonFiniteScores(name)
        probabilities = task_kind(spec.kind).probabilities(logits / self.temperature(task))  # (K,)
        prediction = Prediction(
            task=task,
            labels=spec.labels,
            probabilities=probabilities,
            polarity=spec.polarity(probabilities) if scores.polarity is None else float(scores.polarity[row]),
            routing_weights=scores.routing_weights[row],
            entropy=entropy,
            truncated=bool(scores.truncated[row]),
            label_set=self._select_labels(task, probabilities),
            windows=1 if scores.windows is None else int(scores.windows[row]),
            unfamiliar=scores.unfamiliar is not None and bool(scores.unfamiliar[row]),
            logits=logits,
            tokens=None if scores.tokens is None else int(scores.tokens[row]),
            kind=spec.kind,
            thresholds=self.thresholds(task),
        )
        if self.abstain is None:
            return prediction
        return replace(prediction, abstained=self._abstains(task, prediction.confidence))

    def temperature(self, task: str) -> float:
        """Divisor of a task's logits; 1 for a model that is not calibrated."""
        return self.calibration.temperature(task) if self.calibration else 1.0

    def thresholds(self, task: str) -> np.ndarray | None:
        """Probability from which each label of a multi-label task is predicted (K,); None for the default, 0.5."""
        fitted = self.calibration.thresholds(task) if self.calibration else None
        return None if fitted is None else np.array([fitted[label] for label in self.spec.tasks[task].labels])

    def _abstains(self, task: str, confidence: float) -> bool | None:
        """Whether a confidence is below the task's threshold; None without abstention, and for a score alone."""
        if self.calibration is None or self.abstain is None or task in self.spec.score_tasks:
            return None
        return confidence < self.calibration.threshold(task, self.abstain)

    def _select_labels(self, task: str, probabilities: np.ndarray) -> tuple[str, ...] | None:
        """The conformal set of a text with these probabilities (K,); None without label sets, and for a score alone."""
        if self.calibration is None or not self.label_sets or task in self.spec.score_tasks:
            return None
        spec = self.spec.tasks[task]
        if task_kind(spec.kind).is_set:
            remedy = "choose another task, or predict without label sets"
            raise Fault("a task with one label per text for label sets", f"{task}, which is multi-label", remedy)
        return self.calibration.require_sets(task).select(spec.labels, probabilities.tolist())


def normalized_entropy(weights: np.ndarray) -> np.ndarray:
    """Return the entropy (B,) of each text's routing weights (B, E), scaled to 0 … 1; 0 if E ≤ 1."""
    experts = weights.shape[-1]
    if experts <= 1:
        return np.zeros(len(weights), dtype=weights.dtype)
    entropy: np.ndarray = -(weights * np.log(np.maximum(weights, 1e-12))).sum(-1) / math.log(experts)  # (B,)
    return entropy.clip(0.0, 1.0)

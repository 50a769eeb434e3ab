"""Predictor: raw scores of texts from a mixture, and the predictions made from them."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from experts.domain import Labels
from experts.errors import Fault, suggest
from moe.data.collator import encode_windows
from moe.data.sampler import batch_by_tokens
from moe.inference.calibration import Calibration
from moe.model.backbone import token_budget
from moe.model.mixture import Mixture, allowed_experts
from moe.profiling import oom_guard
from router.routing_stats import text_entropy

Routing = Literal["soft", "hard"]
POLARITY_LABELS = (("negative", "positive"), ("bearish", "bullish"), ("利空", "利好"))


@dataclass(frozen=True)
class Scores:
    """Model outputs for texts, before a task is selected.

    Args:
        logits: (B, K) by head.
        polarity: (B,), -1 to 1; None for a model without a polarity head.
        routing_weights: (B, E), soft routing weights.
        truncated: (B,), whether the text was longer than `max_length`.
        states: (B, D), pooled hidden states, if requested.
    """

    logits: dict[str, np.ndarray]
    polarity: np.ndarray | None
    routing_weights: np.ndarray
    truncated: np.ndarray
    states: np.ndarray | None = None


@dataclass(frozen=True)
class Prediction:
    """Prediction for one text.

    Args:
        task: the task that the labels belong to.
        labels: its K labels.
        probabilities: (K,).
        polarity: -1 to 1; None if the model has no polarity head and the labels have no sign.
        routing_weights: (E,), soft routing weights.
        entropy: normalized entropy of the routing weights, 0 to 1.
        truncated: whether the text was longer than `max_length`.
        abstained: whether the confidence is below the threshold; None without abstention. `label` is the most
            probable label in any case.
    """

    task: str
    labels: Labels
    probabilities: np.ndarray
    polarity: float | None
    routing_weights: np.ndarray
    entropy: float
    truncated: bool
    abstained: bool | None = None

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.labels[int(self.probabilities.argmax())]

    @property
    def confidence(self) -> float:
        """Probability of the most probable label."""
        return float(self.probabilities.max())


class Predictor:
    """Scores texts with a mixture and turns the scores into predictions.

    Args:
        model: is set to evaluation mode.
        template: the prompt template that the model was trained with.
        max_length: tokens at which a text is truncated.
        routing: `soft` mixes the experts, `hard` sends each text to its most probable expert.
        windows: average a long text over windows instead of truncating it.
        batch_tokens: tokens in a batch, padding included; by default chosen for the device and precision.
        calibration: its temperatures divide the logits; None leaves the logits unchanged.
        abstain: target accuracy; predictions below the confidence that it needs abstain. Needs a calibration.
        states: also return the pooled hidden states in `Scores`.
    """

    def __init__(
        self,
        model: Mixture,
        template: str,
        max_length: int,
        routing: Routing = "soft",
        windows: bool = False,
        batch_tokens: int | None = None,
        calibration: Calibration | None = None,
        abstain: float | None = None,
        states: bool = False,
    ) -> None:
        assert calibration or abstain is None, "abstention needs a calibration"
        self.model, self.template, self.max_length = model, template, max_length
        self.hard, self.windows = routing == "hard", windows
        self.tokenizer = model.loaded_backbone.tokenizer
        self.calibration, self.abstain, self.states = calibration, abstain, states
        self.batch_tokens = batch_tokens or token_budget(model.backbone.device, model.backbone.dtype)

    def with_options(self, routing: Routing, abstain: float | None = None) -> "Predictor":
        """A predictor that shares this one's model but has another routing or target accuracy.

        Raises:
            Fault: if `abstain` is set and the model is not calibrated.
        """
        if abstain is not None and self.calibration is None:
            raise Fault("a calibrated model to abstain with", "no calibration", "run moe calibrate, or remove abstain")
        other = copy(self)
        other.hard, other.abstain = routing == "hard", abstain
        return other

    @property
    def chunk_size(self) -> int:
        """Number of texts scored at a time; within a chunk, texts of similar length share a batch."""
        return chunk_size_for(self.batch_tokens)

    @torch.inference_mode()
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
        with oom_guard("lower --batch-tokens or backbone.max_length"):
            return self._score(texts, pin, targets)

    def _score(
        self, texts: Sequence[str], pin: Sequence[str | None] | None, targets: Sequence[str | None] | None
    ) -> Scores:
        self.model.eval()
        ids, text_index = self._tokenize(texts, targets)
        counts = np.bincount(text_index, minlength=len(texts))  # (B,), windows of each text
        if not self.windows:
            first = np.unique(text_index, return_index=True)[1]  # (B,)
            ids, text_index = [ids[i] for i in first], text_index[first]
        allowed = self.pinned_experts([pin[i] for i in text_index]) if pin else None  # (W, E)
        batches = batch_by_tokens([len(window) for window in ids], self.batch_tokens)
        if self.hard and self.model.gate is not None and self.model.active_expert is None:
            batches, outputs = self._forward_hard(ids, batches, allowed)
        else:
            outputs = [self._forward(*self.pad(ids, batch), allowed=_select(allowed, batch)) for batch in batches]
        order = np.argsort(np.concatenate(batches))  # (W,), undoes the batching
        windows = {name: np.concatenate([output[name] for output in outputs])[order] for name in outputs[0]}
        return self._to_scores(windows, text_index, counts)

    def _tokenize(
        self, texts: Sequence[str], targets: Sequence[str | None] | None = None
    ) -> tuple[list[list[int]], np.ndarray]:
        """Token ids of each window (W), and the index of the text that it belongs to (W,)."""
        return encode_windows(texts, self.tokenizer, self.template, self.max_length, targets, overflow=True)

    def _forward_hard(
        self, ids: Sequence[list[int]], batches: Sequence[np.ndarray], allowed: Tensor | None
    ) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
        """Hard routing: the trunk for all windows, then the other layers expert by expert, in new full batches."""
        lengths = np.array([len(window) for window in ids])  # (W,)
        states: dict[int, Tensor] = {}
        expert = np.zeros(len(ids), dtype=int)  # (W,)
        weights = np.zeros((len(ids), len(self.model.bank.routed_experts)), dtype=np.float32)  # (W, E)
        for batch in batches:
            trunk, routing = self.model.encode_trunk(*self.pad(ids, batch), allowed=_select(allowed, batch), hard=True)
            assert routing is not None
            states |= {int(i): row[: lengths[i]] for i, row in zip(batch, trunk, strict=True)}
            expert[batch] = routing.gates.argmax(1).cpu().numpy()
            weights[batch] = routing.probs.cpu().numpy()
        new_batches, outputs = [], []
        for index in np.unique(expert):
            with self.model.single_expert(self.model.bank.routed_experts[index]):
                assigned = np.flatnonzero(expert == index)
                for part in batch_by_tokens(lengths[assigned], self.batch_tokens):
                    batch = assigned[part]
                    trunk = pad_sequence([states.pop(int(i)) for i in batch], batch_first=True)  # (W, T, D)
                    output = self._forward(*self.pad(ids, batch), trunk=trunk)
                    outputs.append(output | {"routing_weights": weights[batch]})
                    new_batches.append(batch)
        return new_batches, outputs

    def pad(self, ids: Sequence[list[int]], batch: np.ndarray) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of the windows `batch`, (W, T) each, on the model's device."""
        device = self.model.domain_expert_mask.device
        rows = [torch.tensor(ids[i]) for i in batch]
        padded = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)  # (W, T)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)  # (W, T)
        return padded.to(device), mask.to(device)

    def _forward(
        self, ids: Tensor, mask: Tensor, allowed: Tensor | None = None, trunk: Tensor | None = None
    ) -> dict[str, np.ndarray]:
        """One batch of windows (W): logits as `head/NAME`, `polarity`, `routing_weights`, `states`."""
        out = self.model(ids, mask, allowed=allowed, hard=self.hard, trunk=trunk)
        gates = out.routing.probs if out.routing else self.model.bank.route.gates
        assert gates is not None
        values = {f"head/{name}": logits for name, logits in out.logits.items()}
        values["routing_weights"] = gates[..., : len(self.model.bank.routed_experts)].expand(len(ids), -1)  # (W, E)
        if out.polarity is not None:
            values["polarity"] = out.polarity
        if self.states:
            values["states"] = out.pooled
        return {name: value.float().cpu().numpy() for name, value in values.items()}

    def pinned_experts(self, domains: Sequence[str | None]) -> Tensor:
        """Mask (W, E) of each domain's experts; all experts where the domain is None or has none."""
        device = self.model.domain_expert_mask.device
        index = torch.tensor([self.model.domain_index(name) for name in domains], device=device)  # (W,)
        allowed = allowed_experts(self.model.domain_expert_mask, index)  # (W, E)
        return allowed | ~allowed.any(1, keepdim=True)  # (W, E)

    def _to_scores(self, windows: dict[str, np.ndarray], text_index: np.ndarray, counts: np.ndarray) -> Scores:
        def average(rows: np.ndarray) -> np.ndarray:
            if not self.windows:
                return rows
            total = np.zeros((len(counts), *rows.shape[1:]), dtype=np.float64)
            np.add.at(total, text_index, rows)
            mean: np.ndarray = total / counts.reshape(-1, *[1] * (rows.ndim - 1))
            return mean

        texts = {name: average(rows) for name, rows in windows.items()}
        return Scores(
            logits={name.removeprefix("head/"): rows for name, rows in texts.items() if name.startswith("head/")},
            polarity=texts["polarity"].clip(-1.0, 1.0) if "polarity" in texts else None,
            routing_weights=texts["routing_weights"],
            truncated=counts > 1 if not self.windows else np.zeros(len(counts), dtype=bool),
            states=texts.get("states"),
        )

    def routed_tasks(self, scores: Scores, targets: Sequence[str | None] | None = None) -> list[str]:
        """For each text the first task of its most probable domain; for a single expert, of the expert's own domain.

        Args:
            targets: of the texts, if any; a text with one is answered by a task with a target, if there is one.
        """
        trained = self.model.trained_domains
        mask = self.model.domain_expert_mask.cpu().numpy()  # (G, E)
        mask = mask[[domain in trained for domain in self.model.domains]]  # (G', E), trained domains only
        tasks, target_tasks = (self._default_tasks(target) for target in (False, True))
        targeted = [False] * len(scores.routing_weights) if targets is None else [bool(target) for target in targets]
        domains = (scores.routing_weights @ mask.T).argmax(1)  # (B,)
        return [(target_tasks if target else tasks)[i] for i, target in zip(domains, targeted, strict=True)]

    def _default_tasks(self, target: bool = False) -> list[str]:
        """The first task of each trained domain, with or without a target; any task if there is no such one."""
        space, fallback = self.model.labels, next(iter(self.model.labels.tasks))
        return [space.default_task(domain.name, target) or fallback for domain in self.model.trained_domains]

    def check(self, task: str | None, domain: str | None) -> None:
        """Check the task and domain of a request, and that the target accuracy can be reached on the task.

        Raises:
            Fault: if the model does not know the task or domain, or no threshold reaches the target accuracy.
        """
        check_task(self.model, task, domain)
        tasks = [task] if task else self.model.labels.tasks_of(domain)[:1] if domain else self._default_tasks()
        for name in tasks:
            self._abstains(name, confidence=1.0)

    def to_predictions(self, scores: Scores, tasks: Sequence[str]) -> list[Prediction]:
        """Turn scores of texts (B) into predictions for these tasks (B)."""
        entropy = text_entropy(torch.from_numpy(scores.routing_weights)).clamp(0.0, 1.0)  # (B,)
        return [self._to_prediction(scores, row, task, float(entropy[row])) for row, task in enumerate(tasks)]

    def _to_prediction(self, scores: Scores, row: int, task: str, entropy: float) -> Prediction:
        space = self.model.labels
        head = space.head_by_task[task]
        mask = np.array(space.mask(task))  # (K,)
        labels = tuple(label for label, in_task in zip(space.heads[head], mask, strict=True) if in_task)
        logits = scores.logits[head][row][mask].astype(np.float64) / self.temperature(task)  # (K,)
        probabilities = np.exp(logits - logits.max())  # (K,)
        probabilities /= probabilities.sum()
        return Prediction(
            task=task,
            labels=labels,
            probabilities=probabilities,
            polarity=polarity_of(labels, probabilities) if scores.polarity is None else float(scores.polarity[row]),
            routing_weights=scores.routing_weights[row],
            entropy=entropy,
            truncated=bool(scores.truncated[row]),
            abstained=self._abstains(task, float(probabilities.max())),
        )

    def temperature(self, task: str) -> float:
        """Divisor of a task's logits; 1 for a model that is not calibrated."""
        return self.calibration.temperature(task) if self.calibration else 1.0

    def _abstains(self, task: str, confidence: float) -> bool | None:
        """Whether a confidence is below the task's threshold; None without abstention."""
        if self.calibration is None or self.abstain is None:
            return None
        return confidence < self.calibration.threshold(task, self.abstain)


def chunk_size_for(batch_tokens: int) -> int:
    """Number of texts sorted by length together, for a token budget of a batch; it bounds how far a stream is read."""
    return max(1, batch_tokens // 2)


def _select(allowed: Tensor | None, batch: np.ndarray) -> Tensor | None:
    return None if allowed is None else allowed[torch.as_tensor(batch, device=allowed.device)]  # (W, E)


def polarity_of(labels: Sequence[str], probabilities: np.ndarray) -> float | None:
    """p(positive) − p(negative), for labels that have a sign; else None."""
    for low, high in POLARITY_LABELS:
        if low in labels and high in labels:
            return float(probabilities[labels.index(high)] - probabilities[labels.index(low)])
    return None


def check_task(model: Mixture, task: str | None, domain: str | None) -> None:
    """Check that a model knows a task and a domain.

    Raises:
        Fault: if it does not; it lists the known ones.
    """
    domains = [known.name for known in model.domains]
    if domain is not None and domain not in domains:
        raise Fault(f"one of the domains {', '.join(domains)}", repr(domain), suggest(domain, domains))
    tasks = model.labels.tasks_of(domain) if domain else tuple(model.labels.tasks)
    if task is not None and task not in tasks:
        raise Fault(f"one of the tasks {', '.join(tasks)}", repr(task), suggest(task, tasks))

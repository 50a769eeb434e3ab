"""Texts through a mixture: raw scores, and the answer that a user reads. Evaluation and inference both stand on it.

Files, tables and metrics are `moe.inference.stream`'s and `moe.evaluation.evaluate`'s.
"""

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
from moe.data.collator import replace_surrogates
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
    """What the model says of texts, before a task is chosen.

    Args:
        logits: (B, K) by head.
        polarity: (B,), or None without a polarity head.
        shares: (B, E), soft routing shares.
        truncated: (B,), whether a text was longer than the backbone reads.
        states: (B, D), pooled, where they are asked for.
    """

    logits: dict[str, np.ndarray]
    polarity: np.ndarray | None
    routing_weights: np.ndarray
    truncated: np.ndarray
    states: np.ndarray | None = None


@dataclass(frozen=True)
class Prediction:
    """One text's answer: its task's probabilities, polarity in [-1, 1] (None where labels have no sign), shares.

    `abstained` is None where nobody asked to abstain; where it is true, `label` is still the best guess.
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
        """Its probability."""
        return float(self.probabilities.max())


class Predictor:
    """Scores and answers from one mixture.

    Args:
        model: put into evaluation mode.
        template: the one that it was trained with.
        max_length: tokens a text is cut to.
        routing: `soft` blends, `hard` gives each text to its most probable expert.
        windows: average a long text over windows instead of cutting it.
        tokens: how many a batch may hold, padding included; by default what suits device and precision.
        calibration: its temperatures divide the logits; None leaves them as they are.
        abstain: the accuracy below which answers are abstained from; needs a calibration.
        states: scores hold the pooled states too.
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
        assert calibration or abstain is None, "thresholds are a calibration's"
        self.model, self.template, self.max_length = model, template, max_length
        self.hard, self.windows = routing == "hard", windows
        self.tokenizer = model.loaded_backbone.tokenizer
        self.calibration, self.abstain, self.states = calibration, abstain, states
        self.batch_tokens = batch_tokens or token_budget(model.backbone.device, model.backbone.dtype)

    def with_options(self, routing: Routing, abstain: float | None = None) -> "Predictor":
        """The same loaded model, asked for another routing or accuracy; both may be used in turn.

        Raises:
            Fault: when it has to abstain and is not calibrated.
        """
        if abstain is not None and self.calibration is None:
            raise Fault("a calibrated model, to abstain", "none", "run moe calibrate, or ask without abstaining")
        other = copy(self)
        other.hard, other.abstain = routing == "hard", abstain
        return other

    @property
    def chunk_size(self) -> int:
        """How many texts are looked at together, so that those of like length share a batch."""
        return chunk_size_for(self.batch_tokens)

    @torch.inference_mode()
    def score(self, texts: Sequence[str], pin: Sequence[str | None] | None = None) -> Scores:
        """Score texts (B) in batches of like length; the scores come in the texts' order.

        Args:
            pin: a domain a text, whose experts alone answer; None leaves that text to the router.

        Raises:
            Fault: when memory runs out.
        """
        with oom_guard("lower --batch-tokens or backbone.max_length"):
            return self._scored(texts, pin)

    def _scored(self, texts: Sequence[str], pin: Sequence[str | None] | None) -> Scores:
        self.model.eval()
        ids, owner = self._tokens(texts)
        counts = np.bincount(owner, minlength=len(texts))  # (B,)
        if not self.windows:
            first = np.unique(owner, return_index=True)[1]  # (B,)
            ids, owner = [ids[i] for i in first], owner[first]
        allowed = self.pinned_experts([pin[i] for i in owner]) if pin else None  # (W, E)
        batches = batch_by_tokens([len(one) for one in ids], self.batch_tokens)
        if self.hard and self.model.gate is not None and self.model.active_expert is None:
            batches, raw = self._in_two_phases(ids, batches, allowed)
        else:
            raw = [self._raw(*self.pad(ids, batch), allowed=_rows(allowed, batch)) for batch in batches]
        back = np.argsort(np.concatenate(batches))  # (W,)
        whole = {name: np.concatenate([one[name] for one in raw])[back] for name in raw[0]}
        return self._scores(whole, owner, counts)

    def _tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Ids of each window (W), and the text that it belongs to (W,)."""
        filled = [self.template.replace("{text}", replace_surrogates(text)) for text in texts]
        out = self.tokenizer(
            filled,
            truncation=True,
            max_length=self.max_length,
            return_overflowing_tokens=True,
            return_attention_mask=False,
        )
        return out["input_ids"], np.asarray(out["overflow_to_sample_mapping"])

    def _in_two_phases(
        self, ids: Sequence[list[int]], batches: Sequence[np.ndarray], allowed: Tensor | None
    ) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
        """Hard routing: the trunk for all, then the other layers expert by expert, in batches that are full again."""
        lengths = np.array([len(one) for one in ids])  # (W,)
        states: dict[int, Tensor] = {}
        expert = np.zeros(len(ids), dtype=int)  # (W,)
        dense = np.zeros((len(ids), len(self.model.bank.routed_experts)), dtype=np.float32)  # (W, E)
        for batch in batches:
            trunk, routed = self.model.encode_trunk(*self.pad(ids, batch), allowed=_rows(allowed, batch), hard=True)
            assert routed is not None
            states |= {int(i): row[: lengths[i]] for i, row in zip(batch, trunk, strict=True)}
            expert[batch] = routed.gates.argmax(1).cpu().numpy()
            dense[batch] = routed.probs.cpu().numpy()
        done, raw = [], []
        for one in np.unique(expert):
            with self.model.single_expert(self.model.bank.routed_experts[one]):
                mine = np.flatnonzero(expert == one)
                for part in batch_by_tokens(lengths[mine], self.batch_tokens):
                    batch = mine[part]
                    trunk = pad_sequence([states.pop(int(i)) for i in batch], batch_first=True)  # (W, T, D)
                    raw.append(self._raw(*self.pad(ids, batch), trunk=trunk) | {"shares": dense[batch]})
                    done.append(batch)
        return done, raw

    def pad(self, ids: Sequence[list[int]], batch: np.ndarray) -> tuple[Tensor, Tensor]:
        """Ids and mask of some windows, (W, T) each, on the model's device."""
        device = self.model.domain_expert_mask.device
        chosen = [torch.tensor(ids[i]) for i in batch]
        padded = pad_sequence(chosen, batch_first=True, padding_value=self.tokenizer.pad_token_id)  # (W, T)
        mask = pad_sequence([torch.ones_like(one) for one in chosen], batch_first=True)  # (W, T)
        return padded.to(device), mask.to(device)

    def _raw(
        self, ids: Tensor, mask: Tensor, allowed: Tensor | None = None, trunk: Tensor | None = None
    ) -> dict[str, np.ndarray]:
        """One batch of windows (W): logits by `head/NAME`, `polarity`, `shares`, `states`."""
        out = self.model(ids, mask, allowed=allowed, hard=self.hard, trunk=trunk)
        gates = out.routing.probs if out.routing else self.model.bank.route.gates
        assert gates is not None
        found = {f"head/{name}": logits for name, logits in out.logits.items()}
        found["shares"] = gates[..., : len(self.model.bank.routed_experts)].expand(len(ids), -1)  # (W, E)
        if out.polarity is not None:
            found["polarity"] = out.polarity
        if self.states:
            found["states"] = out.pooled
        return {name: values.float().cpu().numpy() for name, values in found.items()}

    def pinned_experts(self, domains: Sequence[str | None]) -> Tensor:
        """(W, E) bool: the experts of each one's domain; all of them where it is None or has none."""
        index = torch.tensor([self.model.domain_index(name) for name in domains], device=self.model.domain_expert_mask.device)
        allowed = allowed_experts(self.model.domain_expert_mask, index)  # (W, E)
        return allowed | ~allowed.any(1, keepdim=True)  # (W, E)

    def _scores(self, whole: dict[str, np.ndarray], owner: np.ndarray, counts: np.ndarray) -> Scores:
        def gather(rows: np.ndarray) -> np.ndarray:
            if not self.windows:
                return rows
            total = np.zeros((len(counts), *rows.shape[1:]), dtype=np.float64)
            np.add.at(total, owner, rows)
            return total / counts.reshape(-1, *[1] * (rows.ndim - 1))

        joined = {name: gather(rows) for name, rows in whole.items()}
        return Scores(
            {name.removeprefix("head/"): rows for name, rows in joined.items() if name.startswith("head/")},
            joined["polarity"].clip(-1.0, 1.0) if "polarity" in joined else None,
            joined["shares"],
            counts > 1 if not self.windows else np.zeros(len(counts), dtype=bool),
            joined.get("states"),
        )

    def routed_tasks(self, scores: Scores) -> list[str]:
        """The task of each text's most probable domain: its first one, if it has several; a lone expert's own."""
        own = self.model.trained_domains
        owners = self.model.domain_expert_mask.cpu().numpy()[[one in own for one in self.model.domains]]  # (domains, E)
        first = self._first_tasks()
        return [first[i] for i in (scores.routing_weights @ owners.T).argmax(1)]

    def _first_tasks(self) -> list[str]:
        """The task that answers for each of its own domains."""
        usual = next(iter(self.model.labels.tasks))
        return [next(iter(self.model.labels.tasks_of(one.name)), usual) for one in self.model.trained_domains]

    def check(self, task: str | None, domain: str | None) -> None:
        """Refuse a task or domain that the model does not know, or an accuracy that it does not reach there.

        Raises:
            Fault: naming the known ones, or the best that is reached.
        """
        check_task(self.model, task, domain)
        asked = [task] if task else self.model.labels.tasks_of(domain)[:1] if domain else self._first_tasks()
        for one in asked:
            self._abstains(one, 1.0)

    def to_predictions(self, scores: Scores, tasks: Sequence[str]) -> list[Prediction]:
        """Read the scores as answers to these tasks (B)."""
        entropy = text_entropy(torch.from_numpy(scores.routing_weights)).clamp(0.0, 1.0)  # (B,)
        return [self._answer(scores, row, task, float(entropy[row])) for row, task in enumerate(tasks)]

    def _answer(self, scores: Scores, row: int, task: str, entropy: float) -> Prediction:
        space = self.model.labels
        mask = np.array(space.mask(task))  # (K,)
        labels = tuple(label for label, own in zip(space.heads[space.head_by_task[task]], mask, strict=True) if own)
        logits = scores.logits[space.head_by_task[task]][row][mask].astype(np.float64) / self.temperature(task)  # (K,)
        probabilities = np.exp(logits - logits.max())  # (K,)
        probabilities /= probabilities.sum()
        polarity = polarity_of(labels, probabilities) if scores.polarity is None else float(scores.polarity[row])
        said = (task, labels, probabilities, polarity, scores.routing_weights[row], entropy, bool(scores.truncated[row]))
        return Prediction(*said, self._abstains(task, float(probabilities.max())))

    def temperature(self, task: str) -> float:
        """What a task's logits are divided by."""
        return self.calibration.temperature(task) if self.calibration else 1.0

    def _abstains(self, task: str, confidence: float) -> bool | None:
        """Whether an answer to a task is less sure than it has to be; None where nobody asked."""
        if self.calibration is None or self.abstain is None:
            return None
        return confidence < self.calibration.threshold(task, self.abstain)


def chunk_size_for(tokens: int) -> int:
    """Texts that are sorted by length together, for a budget of tokens a batch; bounds what a stream holds."""
    return max(1, tokens // 2)


def _rows(allowed: Tensor | None, batch: np.ndarray) -> Tensor | None:
    return None if allowed is None else allowed[torch.as_tensor(batch, device=allowed.device)]  # (W, E)


def polarity_of(labels: Sequence[str], probabilities: np.ndarray) -> float | None:
    """p(positive) − p(negative), where the labels have a sign."""
    for low, high in POLARITY_LABELS:
        if low in labels and high in labels:
            return float(probabilities[labels.index(high)] - probabilities[labels.index(low)])
    return None


def check_task(model: Mixture, task: str | None, domain: str | None) -> None:
    """Refuse a task or domain that the model does not know.

    Raises:
        Fault: naming the known ones.
    """
    domains = [one.name for one in model.domains]
    if domain is not None and domain not in domains:
        raise Fault(f"one of the domains {', '.join(domains)}", repr(domain), suggest(domain, domains))
    tasks = model.labels.tasks_of(domain) if domain else tuple(model.labels.tasks)
    if task is not None and task not in tasks:
        raise Fault(f"one of the tasks {', '.join(tasks)}", repr(task), suggest(task, tasks))

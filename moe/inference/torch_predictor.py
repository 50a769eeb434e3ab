"""Predictions with PyTorch: the mixture's forward pass over batches of texts, soft or hard, truncated or in windows."""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from experts.adapter_bank import ExpertBank
from experts.domain import LabelSpace
from experts.gated_linear import in_out_features
from moe.data.collator import encode_windows, long_targets
from moe.data.polarity import find_sign
from moe.inference.batches import (
    BATCH_OVERHEAD,
    CPU_TOKEN_BUDGET,
    FOLD_TOKENS,
    batch_by_tokens,
    forward_in_groups,
    plan_batches,
)
from moe.inference.calibration import Calibration
from moe.inference.predictor import Predictor
from moe.inference.spec import DomainInferenceSpec, InferenceSpec, TaskInferenceSpec
from moe.inference.windows import RoutingCount, Scores, first_windows, scores_of_windows
from moe.kinds.registry import task_kind
from moe.model.heads import Heads, head_key
from moe.model.mixture import Mixture
from moe.model.mode import RoutingChoice, RoutingMode
from moe.model.outputs import RouterOutput
from moe.model.routing import allowed_experts
from moe.profiling import oom_guard


def build_inference_spec(
    model: Mixture, template: str, max_length: int, calibration: Calibration | None = None
) -> InferenceSpec:
    """Build the inference specification of a model.

    Args:
        template: the prompt template that the model was trained with.
        max_length: tokens at which a text is truncated.
        calibration: its temperatures; without one, they are 1.
    """
    space, trained = model.labels, model.trained_domains
    tasks = {task: _task_spec(space, task, calibration) for task in space.tasks}
    domains = tuple(
        DomainInferenceSpec(
            name=domain.name,
            experts=domain.expert_names,
            task=space.default_task(domain.name),
            target_task=space.default_task(domain.name, target=True),
            trained=domain in trained,
        )
        for domain in model.domains
    )
    heads = next((module for module in model.heads.modules() if isinstance(module, Heads)), None)
    return InferenceSpec(
        template=template,
        max_length=max_length,
        windows=model.loaded_backbone.windows,
        pooling=model.pooling,
        experts=model.bank.routed_experts,
        domains=domains,
        tasks=tasks,
        routing=model.routing,
        heads={name: f"classes.{head_key(name)}" for name in space.heads},
        polarity=heads.bound if heads is not None and heads.polarity is not None else None,
    )


def _task_spec(space: LabelSpace, task: str, calibration: Calibration | None) -> TaskInferenceSpec:
    """Build the inference specification of a task: labels in the order of its head, those of sets in the task's own."""
    head, kind = space.head_by_task.get(task), space.kind(task)
    names = () if head is None else space.heads[head]
    labels = space.tasks[task] if task_kind(kind).is_set else [label for label in names if label in space.tasks[task]]
    thresholds = calibration.thresholds(task) if calibration else None
    return TaskInferenceSpec(
        labels=tuple(labels),
        domain=space.domain_by_task[task],
        head=head,
        columns=tuple(names.index(label) for label in labels),
        temperature=calibration.temperature(task) if calibration else 1.0,
        sign=find_sign(space.tasks[task]),
        target=task in space.target_tasks,
        kind=kind,
        thresholds=None if thresholds is None else tuple(thresholds[label] for label in labels),
    )


class TorchPredictor(Predictor):
    """Scores texts with a mixture and turns the scores into predictions.

    Args:
        model: is set to evaluation mode.
        template: the prompt template that the model was trained with.
        max_length: tokens at which a text is truncated.
        routing: see `Predictor`.
        windows: average a long text over all its windows, instead of at most as many as in training.
        batch_tokens: tokens in a batch, padding included; by default chosen for the device and precision.
        calibration: its temperatures divide the logits; None leaves the logits unchanged.
        abstain: target accuracy; predictions below the confidence that it needs abstain. Needs a calibration.
        label_sets: give each prediction its conformal set of labels. Needs a calibration.
        states: also return the pooled hidden states in `Scores`.
        mode: how the model routes, besides `routing`; by default the model's own mode.
    """

    def __init__(
        self,
        model: Mixture,
        template: str,
        max_length: int,
        routing: RoutingChoice = "soft",
        windows: bool = False,
        batch_tokens: int | None = None,
        calibration: Calibration | None = None,
        abstain: float | None = None,
        label_sets: bool = False,
        states: bool = False,
        mode: RoutingMode | None = None,
    ) -> None:
        budget = batch_tokens or token_budget(model.backbone.device, model.backbone.dtype)
        spec = build_inference_spec(model, template, max_length, calibration)
        super().__init__(spec, budget, routing, windows, calibration, abstain, label_sets)
        self.model, self.tokenizer, self.states = model, model.loaded_backbone.tokenizer, states
        self._mode = mode or model.mode
        self._counts: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        """By expert, tokens that kept no other expert and were computed without folded weights."""

    @property
    def mode(self) -> RoutingMode:
        """How the model routes, `routing` included."""
        gate = self.model.gate
        prune = gate.settings.prune if gate is not None and self.routing == "pruned" else 0.0
        return replace(self._mode, hard=self.hard, prune=prune)

    @property
    def marks_unfamiliar(self) -> bool:
        """Whether texts far from the training texts of every domain are marked."""
        gate = self.model.gate
        return gate is not None and gate.prior is not None and gate.prior.prototypes is not None

    @property
    def routing_count(self) -> RoutingCount:
        """The experts that were computed so far."""
        return RoutingCount(self.routing, self._counts["experts"], self._counts["skipped"])

    def with_states(self) -> Self:
        """A predictor that shares this one's model and also returns the pooled hidden states."""
        other = copy(self)
        other.states = True
        return other

    def with_mode(self, mode: RoutingMode) -> Self:
        """A predictor that shares this one's model but routes otherwise; soft or hard routing stays as it is."""
        other = copy(self)
        other._mode = mode
        return other

    @torch.inference_mode()
    def score(
        self,
        texts: Sequence[str],
        pin: Sequence[str | None] | None = None,
        targets: Sequence[str | None] | None = None,
    ) -> Scores:
        """Score texts (B) in batches of similar length; see `Predictor.score`."""
        with oom_guard("lower --batch-tokens or backbone.max_length"):
            return self._score(texts, pin, targets)

    def _score(
        self, texts: Sequence[str], pin: Sequence[str | None] | None, targets: Sequence[str | None] | None
    ) -> Scores:
        self.model.eval()
        ids, text_index = self._tokenize(texts, targets)
        counts = np.bincount(text_index, minlength=len(texts))  # (B,), windows of each text
        read = first_windows(text_index, self.window_limit)
        ids, text_index = [ids[i] for i in read], text_index[read]
        allowed = self.pinned_experts([pin[i] for i in text_index]) if pin else None  # (W, E)
        batches = batch_by_tokens([len(window) for window in ids], self.batch_tokens)
        if self._splits_by_experts(ids, allowed):
            batches, outputs = forward_in_groups(
                batches,
                lambda rows, group: self._forward_by_experts([ids[i] for i in rows], group, _select(allowed, rows)),
            )
        else:
            outputs = self._forward_in_order(ids, batches, allowed)
        order = np.argsort(np.concatenate(batches))  # (W,), undoes the batching
        windows = {name: np.concatenate([output[name] for output in outputs])[order] for name in outputs[0]}
        lengths = [len(window) for window in ids]
        scores = scores_of_windows(windows, text_index, counts, self.window_weights(lengths), lengths)
        if targets is None or not any(targets):
            return scores
        return replace(scores, target_truncated=long_targets(targets, self.tokenizer, self.max_length))

    def encode(
        self, texts: Sequence[str], targets: Sequence[str | None] | None = None
    ) -> tuple[list[list[int]], np.ndarray]:
        """Token ids of texts (B), truncated to `max_length`, and whether each was longer (B,)."""
        ids, text_index = self._tokenize(texts, targets)
        return [ids[i] for i in first_windows(text_index, 1)], np.bincount(text_index, minlength=len(texts)) > 1

    def _tokenize(
        self, texts: Sequence[str], targets: Sequence[str | None] | None = None
    ) -> tuple[list[list[int]], np.ndarray]:
        """Token ids of each window (W), and the index of the text that it belongs to (W,)."""
        overlap = self.spec.window_overlap
        return encode_windows(
            texts, self.tokenizer, self.template, self.max_length, targets, overflow=True, overlap=overlap
        )

    def _forward_in_order(
        self, ids: Sequence[list[int]], batches: Sequence[np.ndarray], allowed: Tensor | None
    ) -> list[dict[str, np.ndarray]]:
        """One pass per batch, with folded weights if all windows keep the same expert whatever the router's output."""
        pinned = None if self.mode.active_expert else self._pinned_expert(allowed)
        name = pinned or self.mode.active_expert
        folds = name is not None and self._folds(name, sum(len(window) for window in ids))
        run = self.with_mode(replace(self._mode, only=(pinned,) if pinned else ())).forward
        with self.model.bank.merged_adapter(name) if name and folds else nullcontext():
            return [run(*self.pad(ids, batch), allowed=_select(allowed, batch)) for batch in batches]

    def _pinned_expert(self, allowed: Tensor | None) -> str | None:
        """Name of the only expert that any window may use; None if there are several."""
        if allowed is None or self.model.gate is None or int(allowed.any(0).sum()) != 1:
            return None
        return self.model.bank.routed_experts[int(allowed.any(0).int().argmax())]

    def _forward_by_experts(
        self, ids: Sequence[list[int]], batches: Sequence[np.ndarray], allowed: Tensor | None
    ) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
        """The trunk and the router for all windows, then the other layers in new batches that keep the same experts."""
        bank, lengths = self.model.bank, np.array([len(window) for window in ids])  # (W,)
        states: dict[int, Tensor] = {}
        parts = []
        for batch in batches:
            within = _select(allowed, batch)  # (B, E)
            trunk, output = self.model.encode_trunk(*self.pad(ids, batch), allowed=within, mode=self.mode)
            assert output is not None
            parts.append(output)
            if bank.trunk_depth:
                states |= {int(i): row[: lengths[i]] for i, row in zip(batch, trunk, strict=True)}
        routing = RouterOutput.concatenate(parts).rows(_index(np.argsort(np.concatenate(batches)), parts[0].gates))
        active = (routing.updates != 0).cpu().numpy()  # (W, E)
        alone = active & (active.sum(1, keepdims=True) == 1)  # (W, E)
        folded = [self._folds(name, int(lengths[alone[:, i]].sum())) for i, name in enumerate(bank.routed_experts)]
        planned = plan_batches(lengths, active, relative_costs(bank), folded, self.batch_tokens)
        outputs = []
        for part in planned:
            names = tuple(bank.routed_experts[i] for i in part.experts)
            run = self.with_mode(replace(self._mode, only=names)).forward
            with bank.merged_adapter(names[0]) if len(names) == 1 and folded[part.experts[0]] else nullcontext():
                rows = [states[int(i)] for i in part.rows] if states else None  # (T, D) each
                stored = None if rows is None else pad_sequence(rows, batch_first=True)  # (B, T, D)
                known = routing.rows(_index(part.rows, routing.gates))
                outputs.append(run(*self.pad(ids, part.rows), trunk=stored, routing=known))
        return [part.rows for part in planned], outputs

    def _splits_by_experts(self, ids: Sequence[list[int]], allowed: Tensor | None) -> bool:
        """Whether windows may keep few experts, different ones, and there are enough windows to batch them by these."""
        gate, mode = self.model.gate, self.mode
        if gate is None or mode.active_expert is not None or gate.settings.unit == "token":
            return False
        if self._pinned_expert(allowed) or sum(map(len, ids)) <= 2 * BATCH_OVERHEAD * self.batch_tokens:
            return False
        return mode.hard or mode.prune > 0 or gate.settings.kind == "hard" or allowed is not None

    def _folds(self, name: str, tokens: int) -> bool:
        """Whether an expert's weights are folded for so many more tokens that keep no other expert.

        Folding costs as much as computing the expert for some hundred tokens beside the weights, so it begins once as
        many have been computed that way.
        """
        folded, adapters = self.model.bank.folded, self.model.bank.constant_route(name)
        if not folded.has_room(adapters) or folded.is_current(adapters):
            return folded.has_room(adapters)
        self._tokens[name] += tokens
        if self._tokens[name] < FOLD_TOKENS:
            return False
        self._tokens[name] = 0
        return True

    def pad(self, ids: Sequence[list[int]], batch: np.ndarray) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of the windows `batch`, (W, T) each, on the model's device."""
        device = self.model.domain_expert_mask.device
        rows = [torch.tensor(ids[i]) for i in batch]
        padded = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)  # (W, T)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)  # (W, T)
        return padded.to(device), mask.to(device)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        allowed: Tensor | None = None,
        trunk: Tensor | None = None,
        routing: RouterOutput | None = None,
    ) -> dict[str, np.ndarray]:
        """One batch of windows (W): logits as `head/NAME`, `polarity`, `routing_weights`, `states`, `unfamiliar`."""
        out = self.model(ids, mask, allowed=allowed, mode=self.mode, trunk=trunk, routing=routing)
        gates = out.routing.probs if out.routing else out.gates  # (W, E), or (1, E)
        if self.routing != "soft":
            updates = (out.gates if out.routing is None else out.routing.updates).expand(len(ids), -1)  # (W, E)
            self._counts.update(experts=updates.numel(), skipped=int((updates == 0).sum()))
        values = {f"head/{name}": logits for name, logits in out.logits.items()}
        values["routing_weights"] = gates.expand(len(ids), -1)  # (W, E)
        if out.polarity is not None:
            values["polarity"] = out.polarity
        if self.states:
            values["states"] = out.pooled
        if out.routing is not None and out.routing.unfamiliar is not None:
            values["unfamiliar"] = out.routing.unfamiliar
        return {name: value.float().cpu().numpy() for name, value in values.items()}

    def pinned_experts(self, domains: Sequence[str | None]) -> Tensor:
        """Mask (W, E) of each domain's experts; all experts where the domain is None or has none."""
        device = self.model.domain_expert_mask.device
        index = torch.tensor([self.model.domain_index(name) for name in domains], device=device)  # (W,)
        allowed = allowed_experts(self.model.domain_expert_mask, index)  # (W, E)
        return allowed | ~allowed.any(1, keepdim=True)  # (W, E)


def relative_costs(bank: ExpertBank) -> np.ndarray:
    """Return the multiplications of each routed expert beside the weights, as a share of those of the weights, (E,)."""
    layers = sum(math.prod(in_out_features(layer.base)) for layer in bank.gated_layers)
    sizes = [sum(p.numel() for p in bank.adapter_parameters(name).values()) for name in bank.routed_experts]
    return np.array(sizes) / layers


def _select(allowed: Tensor | None, batch: np.ndarray) -> Tensor | None:
    return None if allowed is None else allowed[_index(batch, allowed)]  # (W, E)


def _index(rows: np.ndarray, tensor: Tensor) -> Tensor:
    return torch.as_tensor(rows, device=tensor.device)  # (B,)


def token_budget(device: torch.device, dtype: torch.dtype) -> int:
    """Return the number of tokens per batch that fits a CPU's caches, or keeps a GPU busy."""
    if device.type != "cpu":
        return 16384
    return CPU_TOKEN_BUDGET if dtype == torch.float32 else 4096

"""Texts scored by several models and routes: tokenized once, sorted by length once, and run through one trunk once."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from moe.inference.batches import batch_by_tokens
from moe.inference.torch_predictor import TorchPredictor
from moe.inference.windows import Scores
from moe.profiling import oom_guard

TRUNK_BYTES = 2**30
"""Most memory that the trunk's states may take; more texts are run through the trunk again by every model."""
Advance = Callable[[int], None]
Outputs = dict[str, np.ndarray]


def _ignore(count: int) -> None:
    """Report no progress."""


@dataclass
class EncodedTexts:
    """Texts as token ids, and their states at the end of a trunk that several models share.

    Args:
        ids: token ids of each text (N), truncated.
        truncated: (N,), whether a text was longer.
        key: what the states depend on besides the ids; None until the first model has computed them.
        states: (ΣT, D), the states of all texts, one after the other; None if they are not stored.
    """

    ids: list[list[int]]
    truncated: np.ndarray
    key: tuple[Any, ...] | None = None
    states: Tensor | None = None
    lengths: np.ndarray = field(init=False)
    starts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = np.array([len(row) for row in self.ids], dtype=int)  # (N,)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)]).astype(int)  # (N + 1,)

    def trunk(self, rows: np.ndarray) -> Tensor | None:
        """States (B, T, D) of some texts (B,), zero after the end of a text; None if they are not stored."""
        if self.states is None:
            return None
        return pad_sequence([self.states[self.starts[i] : self.starts[i + 1]] for i in rows], batch_first=True)

    def fill_trunk(self, predictor: TorchPredictor) -> None:
        """Compute the states, unless another model with the same trunk has done so."""
        model = predictor.model
        depth, backbone, width = model.bank.trunk_depth, model.loaded_backbone, model.backbone.config.hidden_size
        key = (backbone.id.sha256, depth, model.backbone.dtype, model.backbone.device)
        if key == self.key:
            return
        self.key, self.states = key, None
        tokens = int(self.starts[-1])
        if not depth or tokens * width * model.backbone.dtype.itemsize > TRUNK_BYTES:
            return
        states = torch.empty(tokens, width, dtype=model.backbone.dtype, device=model.backbone.device)  # (ΣT, D)
        for batch in batch_by_tokens(self.lengths, predictor.batch_tokens):
            trunk = model.encode_trunk(*predictor.pad(self.ids, batch))[0]  # (B, T, D)
            for i, row in zip(batch, trunk, strict=True):
                states[self.starts[i] : self.starts[i + 1]] = row[: self.lengths[i]]
        self.states = states


class SharedTexts:
    """Texts that several models read: those with the same tokenizer, template and length share the token ids.

    Args:
        texts: (N).
        targets: target of each text, or None.
    """

    def __init__(self, texts: Sequence[str], targets: Sequence[str | None]) -> None:
        self.texts, self.targets = texts, targets
        self._encoded: dict[tuple[str, str, int], EncodedTexts] = {}

    def encode(self, predictor: TorchPredictor) -> EncodedTexts:
        """Return the texts as this model reads them."""
        key = (predictor.model.loaded_backbone.id.sha256, predictor.template, predictor.max_length)
        if key not in self._encoded:
            ids, truncated = predictor.encode(self.texts, self.targets)
            self._encoded[key] = EncodedTexts(ids, truncated)
        return self._encoded[key]


@torch.inference_mode()
def score_texts(
    predictor: TorchPredictor, texts: SharedTexts, rows: np.ndarray | None = None, advance: Advance = _ignore
) -> Scores:
    """Score texts with soft routing, or with the only expert of a model without a router.

    A model that reads long texts in windows scores them by itself, without sharing anything with others.

    Args:
        rows: (M,), the texts to score; all by default.
        advance: called with the number of texts after every batch.

    Returns:
        the scores, in the order of `rows`.
    """
    if predictor.window_limit != 1:
        names = range(len(texts.texts)) if rows is None else rows.tolist()
        scores = predictor.score([texts.texts[i] for i in names], targets=[texts.targets[i] for i in names])
        advance(len(names))
        return scores
    with oom_guard("lower backbone.max_length"):
        encoded = _prepare(predictor, texts)
        rows = np.arange(len(encoded.ids)) if rows is None else rows
        expert = predictor.mode.active_expert
        return _to_scores(_run(predictor, encoded, rows, expert=expert, advance=advance), encoded.truncated[rows])


@torch.inference_mode()
def score_routes(
    predictor: TorchPredictor,
    texts: SharedTexts,
    domains: Sequence[str],
    soft: Scores,
    advance: Advance = _ignore,
) -> tuple[Scores, Scores]:
    """Score all texts with hard routing, and with each text restricted to the experts of its own domain.

    Where both choose the same expert, as they do for most texts of a good router, it runs once.

    Args:
        domains: domain of each text (N).
        soft: scores of the same texts with soft routing; their routing weights choose the expert of hard routing.
        advance: called with the number of texts after every batch.

    Returns:
        the scores with hard routing, and those within the domains.
    """
    if predictor.window_limit != 1:
        routed = predictor.with_options("hard").score(texts.texts, targets=texts.targets)
        pinned = predictor.score(texts.texts, domains, texts.targets)
        advance(2 * len(texts.texts))
        return replace(routed, routing_weights=soft.routing_weights), replace(
            pinned, routing_weights=soft.routing_weights
        )
    with oom_guard("lower backbone.max_length"):
        encoded, model = _prepare(predictor, texts), predictor.model
        names, hard = model.bank.routed_experts, soft.routing_weights.argmax(1)  # (N,)
        mask = model.domain_expert_mask.cpu().numpy()[[model.domain_index(name) for name in domains]]  # (N, E)
        if all(model.domain_index(name) >= 0 for name in domains) and (mask.sum(1) == 1).all():
            own = mask.argmax(1)  # (N,)
            chosen = np.stack([hard, own])  # (2, N)
            by_route = _by_expert(predictor, encoded, chosen, names, advance)
        else:
            by_route = _by_expert(predictor, encoded, hard[None], names, advance)
            allowed = predictor.pinned_experts(domains)  # (N, E)
            rows = np.arange(len(encoded.ids))
            by_route.append(_run(predictor, encoded, rows, allowed=allowed, advance=advance))
        weights = {"routing_weights": soft.routing_weights}
        hard_scores, own_scores = (_to_scores(outputs | weights, encoded.truncated) for outputs in by_route)
    return hard_scores, own_scores


def _prepare(predictor: TorchPredictor, texts: SharedTexts) -> EncodedTexts:
    predictor.model.eval()
    encoded = texts.encode(predictor)
    encoded.fill_trunk(predictor)
    return encoded


def _by_expert(
    predictor: TorchPredictor, encoded: EncodedTexts, chosen: np.ndarray, names: Sequence[str], advance: Advance
) -> list[Outputs]:
    """Outputs of all texts for several choices of an expert (S, N); each expert runs once on a text."""
    results: list[Outputs] = [{} for _ in chosen]
    for expert in np.unique(chosen):
        rows = np.flatnonzero((chosen == expert).any(0))  # (M,)
        outputs = _run(predictor, encoded, rows, expert=names[expert], advance=advance)
        for result, choice in zip(results, chosen, strict=True):
            here = choice[rows] == expert  # (M,)
            for name, values in outputs.items():
                result.setdefault(name, np.zeros((chosen.shape[1], *values.shape[1:]), values.dtype))
                result[name][rows[here]] = values[here]
    return results


def _run(
    predictor: TorchPredictor,
    encoded: EncodedTexts,
    rows: np.ndarray,
    expert: str | None = None,
    allowed: Tensor | None = None,
    advance: Advance = _ignore,
) -> Outputs:
    """Outputs (M, …) of some texts (M,), by one expert, or routed, if need be within allowed experts (N, E)."""
    batches = [rows[part] for part in batch_by_tokens(encoded.lengths[rows], predictor.batch_tokens)]
    outputs = []
    with nullcontext(predictor.mode) if expert is None else predictor.model.single_expert(expert) as mode:
        routed = predictor.with_mode(mode)
        for batch in batches:
            within = None if allowed is None else allowed[torch.as_tensor(batch, device=allowed.device)]  # (B, E)
            ids, mask = predictor.pad(encoded.ids, batch)
            outputs.append(routed.forward(ids, mask, allowed=within, trunk=encoded.trunk(batch)))
            advance(len(batch))
    order = np.argsort(np.concatenate(batches))  # (M,), undoes the batching
    back = np.argsort(np.argsort(rows))  # (M,), into the order of `rows`
    return {name: np.concatenate([output[name] for output in outputs])[order][back] for name in outputs[0]}


def _to_scores(outputs: Mapping[str, np.ndarray], truncated: np.ndarray) -> Scores:
    return Scores(
        logits={name.removeprefix("head/"): rows for name, rows in outputs.items() if name.startswith("head/")},
        polarity=outputs["polarity"].clip(-1.0, 1.0) if "polarity" in outputs else None,
        routing_weights=outputs["routing_weights"],
        truncated=truncated,
        unfamiliar=outputs["unfamiliar"] > 0.5 if "unfamiliar" in outputs else None,
    )

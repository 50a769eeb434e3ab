"""Predictions with a graph in onnxruntime: the same scores as PyTorch's in fp32, without importing torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from experts.errors import Fault
from moe.data.text_checks import cut_target, replace_surrogates, segment_separator, target_limit
from moe.inference.batches import (
    BATCH_OVERHEAD,
    CPU_TOKEN_BUDGET,
    FOLD_TOKENS,
    ExpertBatch,
    batch_by_tokens,
    forward_in_groups,
    plan_batches,
)
from moe.inference.calibration import Calibration
from moe.inference.graph.session import GraphSession
from moe.inference.graph.spec import TOKENIZER_FILE
from moe.inference.predictor import Predictor
from moe.inference.windows import RoutingCount, Scores, first_windows, scores_of_windows
from moe.model.mode import Routing, RoutingChoice


class TextEncoder:
    """Fills texts into the prompt template and encodes them.

    Args:
        path: the tokenizer as JSON.
        template: prompt template with the field `{text}`.
        max_length: tokens at which a text is truncated, special tokens included.
        truncation_side: side at which it is cut.
        overlap: tokens that two windows of a text share.

    Raises:
        Fault: if the file is not a tokenizer.
    """

    def __init__(
        self,
        path: Path,
        template: str,
        max_length: int,
        truncation_side: Literal["left", "right"] = "right",
        overlap: int = 0,
    ) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower type
            raise Fault(f"a tokenizer at {path}", str(error)[:160], "write the graph again") from error
        self.template, self.max_length = template, max_length
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length, stride=overlap, strategy="only_first", direction=truncation_side)

    def encode(
        self, texts: Sequence[str], targets: Sequence[str | None] | None = None
    ) -> tuple[list[list[int]], np.ndarray]:
        """Return the token ids of each window (W), in the order of the texts, and the index of its text (W,).

        Args:
            targets: target of each text, or None; every window of a text has its whole target.
        """
        prompts: list[str | tuple[str, str]] = [self.template.replace("{text}", replace_surrogates(t)) for t in texts]
        given = {i: target for i, target in enumerate(targets or ()) if target}
        for i, second in zip(given, self._second_segments(list(given.values())), strict=True):
            prompts[i] = (str(prompts[i]), second)
        ids: list[list[int]] = []
        index: list[int] = []
        for number, encoding in enumerate(self._tokenizer.encode_batch_fast(prompts)):
            for window in (encoding, *encoding.overflowing):
                ids.append(window.ids)
                index.append(number)
        return ids, np.asarray(index, dtype=int)

    def long_targets(self, targets: Sequence[str | None]) -> np.ndarray:
        """Return which targets (B,) have too many tokens and are cut; see `moe.data.text_checks.target_limit`."""
        given = {i: replace_surrogates(target) for i, target in enumerate(targets) if target}
        cut = dict(zip(given, self._second_segments(list(given.values()), separator=""), strict=True))
        return np.array([i in given and len(cut[i]) < len(given[i]) for i in range(len(targets))])

    def _second_segments(self, targets: Sequence[str], separator: str | None = None) -> list[str]:
        """Return targets as second segments of pairs; see `moe.data.collator.second_segments`."""
        if not targets:
            return []
        plain = [replace_surrogates(target) for target in targets]
        single, pair = (self._tokenizer.num_special_tokens_to_add(pair) for pair in (False, True))
        before = segment_separator(single, pair) if separator is None else separator
        limit = target_limit(self.max_length, pair)
        encoded = self._untruncated.encode_batch(plain, add_special_tokens=False)
        return [before + cut_target(target, e.offsets, limit) for target, e in zip(plain, encoded, strict=True)]

    @cached_property
    def _untruncated(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.no_truncation()
        return tokenizer


class OnnxPredictor(Predictor):
    """Scores texts with a model's graph and turns the scores into predictions.

    Args:
        session: the loaded graph.
        routing: see `Predictor`; in a graph of format 1 `pruned` is `soft`.
        windows: average a long text over all its windows, instead of at most as many as in training.
        batch_tokens: tokens in a batch, padding included; by default as many as fit a CPU's caches.
        calibration: its temperatures divide the logits; None leaves the logits unchanged.
        abstain: target accuracy; predictions below the confidence that it needs abstain. Needs a calibration.
        label_sets: give each prediction its conformal set of labels. Needs a calibration.
        states: also return the pooled hidden states in `Scores`.
    """

    def __init__(
        self,
        session: GraphSession,
        routing: RoutingChoice = "soft",
        windows: bool = False,
        batch_tokens: int | None = None,
        calibration: Calibration | None = None,
        abstain: float | None = None,
        label_sets: bool = False,
        states: bool = False,
    ) -> None:
        graph, self.session = session.spec, session
        super().__init__(
            graph.spec, batch_tokens or CPU_TOKEN_BUDGET, routing, windows, calibration, abstain, label_sets
        )
        self.encoder = TextEncoder(
            session.graph / TOKENIZER_FILE,
            self.template,
            self.max_length,
            graph.truncation_side,
            self.spec.window_overlap,
        )
        self.outputs = [name for name in graph.outputs if states or name != "states"]
        self.domain_index = {domain.name: index for index, domain in enumerate(self.spec.domains)}
        self.fold_tokens = FOLD_TOKENS
        self._counts: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        """By expert, tokens that kept no other expert and were computed without folded weights."""

    def resolve_routing(self, choice: RoutingChoice) -> Routing:
        """Return how texts are routed for a choice; a graph of format 1 prunes nothing."""
        routing = super().resolve_routing(choice)
        return "soft" if routing == "pruned" and "prune" not in self.session.spec.inputs else routing

    @property
    def marks_unfamiliar(self) -> bool:
        """Whether texts far from the training texts of every domain are marked."""
        return "unfamiliar" in self.outputs

    @property
    def routing_count(self) -> RoutingCount:
        """The experts that were computed so far."""
        return RoutingCount(self.routing, self._counts["experts"], self._counts["skipped"])

    def score(
        self,
        texts: Sequence[str],
        pin: Sequence[str | None] | None = None,
        targets: Sequence[str | None] | None = None,
    ) -> Scores:
        """Score texts (B) in batches of similar length; see `Predictor.score`."""
        ids, text_index = self.encoder.encode(texts, targets)
        counts = np.bincount(text_index, minlength=len(texts))  # (B,), windows of each text
        read = first_windows(text_index, self.window_limit)
        ids, text_index = [ids[i] for i in read], text_index[read]
        domain = np.array([self.domain_index.get(pin[i] or "", -1) if pin else -1 for i in text_index])  # (W,)
        batches = batch_by_tokens([len(window) for window in ids], self.batch_tokens)
        if self._splits_by_experts(ids, domain):
            batches, outputs = forward_in_groups(
                batches, lambda rows, group: self._forward_by_experts([ids[i] for i in rows], group, domain[rows])
            )
        else:
            outputs = [self._forward([ids[i] for i in batch], domain[batch]) for batch in batches]
        order = np.argsort(np.concatenate(batches))  # (W,), undoes the batching
        windows = {name: np.concatenate([output[name] for output in outputs])[order] for name in outputs[0]}
        lengths = [len(window) for window in ids]
        scores = scores_of_windows(windows, text_index, counts, self.window_weights(lengths), lengths)
        if targets is None or not any(targets):
            return scores
        return replace(scores, target_truncated=self.encoder.long_targets(targets))

    def _forward(self, ids: Sequence[list[int]], domain: np.ndarray) -> dict[str, np.ndarray]:
        """One batch of windows (W): logits as `head/NAME`, `polarity`, `routing_weights`, `states`, `unfamiliar`."""
        feed = self._inputs(ids, domain)
        values = self.session.run(self.outputs, {name: feed[name] for name in self.session.spec.inputs})
        if self.routing != "soft":
            self._counts.update(experts=len(ids) * len(self.experts))
        return _with_head_names(dict(zip(self.outputs, values, strict=True)))

    def _inputs(self, ids: Sequence[list[int]], domain: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of the complete graph and of the router for a batch of windows (W)."""
        lengths = np.array([len(row) for row in ids])  # (W,)
        mask = np.arange(lengths.max()) < lengths[:, None]  # (W, T)
        padded = np.full(mask.shape, self.session.spec.pad_id)  # (W, T)
        padded[mask] = np.concatenate(ids)
        return {
            "input_ids": padded,
            "attention_mask": mask.astype(np.int64),
            "domain": domain,
            "hard": np.array(self.hard),
            "prune": np.array(self._prune, dtype=np.float32),
        }

    @property
    def _prune(self) -> float:
        return self.session.spec.prune if self.routing == "pruned" else 0.0

    def _splits_by_experts(self, ids: Sequence[list[int]], domain: np.ndarray) -> bool:
        """Whether windows may keep few experts, and there are enough windows to batch them by these.

        Windows that are pinned to one and the same expert need no batches of their own, however few they are.
        """
        parts = self.session.spec.parts
        if parts is None or self.session.int8:
            return False
        mask = self.spec.domain_expert_mask  # (domains, E)
        allowed = mask[domain]  # (W, E)
        if (domain >= 0).all() and (allowed == allowed[0]).all() and allowed[0].sum() == 1:
            return True
        if sum(map(len, ids)) <= 2 * BATCH_OVERHEAD * self.batch_tokens:
            return False
        return self.hard or self._prune > 0 or parts.exclusive or bool((domain >= 0).any())

    def _forward_by_experts(
        self, ids: Sequence[list[int]], batches: Sequence[np.ndarray], domain: np.ndarray
    ) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
        """The router for all windows, then the layers with experts in new batches that keep the same experts."""
        sessions, record = self.session.parts, self.session.spec.parts
        assert sessions is not None
        assert record is not None
        lengths = np.array([len(window) for window in ids])  # (W,)
        routed = [sessions.route(self._inputs([ids[i] for i in batch], domain[batch])) for batch in batches]
        trunk = {
            int(i): row[: lengths[i]]  # (T, D)
            for batch, output in zip(batches, routed, strict=True)
            for i, row in zip(batch, output.pop("trunk"), strict=True)
        }
        order = np.argsort(np.concatenate(batches))  # (W,)
        routing = {name: np.concatenate([output[name] for output in routed])[order] for name in routed[0]}  # (W, E)
        active = routing["updates"] != 0  # (W, E)
        alone = active & (active.sum(1, keepdims=True) == 1)  # (W, E)
        folded = [self._folds(name, int(lengths[alone[:, i]].sum())) for i, name in enumerate(self.experts)]
        planned = plan_batches(lengths, active, np.array(record.costs), folded, self.batch_tokens)
        outputs = []
        for part in planned:
            feed = self._inputs([ids[i] for i in part.rows], domain[part.rows])
            feed |= {name: values[part.rows] for name, values in routing.items()}
            feed["trunk"] = _pad_states([trunk[int(i)] for i in part.rows])
            outputs.append(self._forward_part(part, folded, feed))
        return [part.rows for part in planned], outputs

    def _forward_part(
        self, part: ExpertBatch, folded: Sequence[bool], feed: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """One batch of windows (W) that keep these experts, with what the router returned for it."""
        sessions = self.session.parts
        assert sessions is not None
        names = [name for name in self.outputs if name not in feed]
        mask = np.isin(np.arange(len(self.experts)), part.experts or range(len(self.experts)))  # (E,)
        if self.routing != "soft":
            self._counts.update(experts=mask.size * len(part.rows), skipped=int((~mask).sum()) * len(part.rows))
        if len(part.experts) == 1 and folded[part.experts[0]]:
            outputs = sessions.run_folded(self.experts[part.experts[0]], feed, names)
        else:
            outputs = sessions.run_kept(feed | {"kept": mask}, names)
        return _with_head_names(outputs | {name: feed[name] for name in self.outputs if name in feed})

    def _folds(self, name: str, tokens: int) -> bool:
        """Whether an expert's weights are folded for so many more tokens that keep no other expert."""
        sessions = self.session.parts
        assert sessions is not None
        if not sessions.can_fold or sessions.is_folded(name):
            return sessions.can_fold
        self._tokens[name] += tokens
        return self._tokens[name] >= self.fold_tokens


def _with_head_names(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.replace("logits/", "head/", 1): values for name, values in outputs.items()}


def _pad_states(states: Sequence[np.ndarray]) -> np.ndarray:
    """Return states (T, D) of each window as one array (W, T, D), with zeros at padding."""
    padded = np.zeros((len(states), max(map(len, states)), states[0].shape[1]), dtype=np.float32)
    for row, values in zip(padded, states, strict=True):
        row[: len(values)] = values
    return padded

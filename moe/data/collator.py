"""Rows → batches: the one template, tokens, label indices in their head, and which rows meet in a batch.

Rows come prepared from `moe.data.prepare`; nothing here reads a file.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from experts.domain import LabelSpace
from experts.errors import Fault

if TYPE_CHECKING:
    from datasets import Dataset

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Mapping[str, Any]]], Batch]


_HALVES = re.compile("[\ud800-\udfff]")
_INPUTS = ("input_ids", "attention_mask", "position_ids", "read", "trunk")


def inputs_of(batch: Batch) -> dict[str, Tensor | None]:
    """What a forward pass takes of a batch; None where a batch has no such part."""
    return {name: batch.get(name) for name in _INPUTS}


def readable(text: str) -> str:
    """A text that a tokenizer takes: each half of a surrogate pair, which is no character, becomes U+FFFD."""
    return _HALVES.sub("\ufffd", text)


def tokenize(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, template: str, max_length: int
) -> tuple[Tensor, Tensor]:
    """Token ids and mask, (B, T) each, padded to the longest text of the batch."""
    filled = [template.replace("{text}", readable(text)) for text in texts]
    out = tokenizer(filled, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    return out["input_ids"], out["attention_mask"]


class Collator:
    """Makes a batch of prepared rows.

    A batch holds `input_ids`, `attention_mask` (B, T); `label` (B,), the index in its task's head or −1;
    `task`, `domain` (B,), indices or −1; `score` (B,), NaN where a row has none; `trunk` (B, T, D), where they are
    known already.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        max_length: int,
        labels: LabelSpace,
        domains: Sequence[str],
        trunk: Callable[[Sequence[Mapping[str, Any]]], Tensor] | None = None,
    ) -> None:
        self.trunk = trunk
        self.tokenizer, self.template, self.max_length = tokenizer, template, max_length
        self.tasks = {task: i for i, task in enumerate(labels.tasks)}
        self.domains = {domain: i for i, domain in enumerate(domains)}
        self.in_head = {
            task: [labels.heads[labels.head_of[task]].index(label) for label in own]
            for task, own in labels.tasks.items()
        }

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate rows with text, label (index in the task's own labels, −1 for none), score, task, domain."""
        ids, mask = self.tokens([row["text"] for row in rows])
        scores = [math.nan if row["score"] is None else float(row["score"]) for row in rows]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "label": torch.tensor([self._label(row) for row in rows]),
            "task": torch.tensor([self.tasks.get(row["task"], -1) for row in rows]),
            "domain": torch.tensor([self.domains.get(row["domain"], -1) for row in rows]),
            "score": torch.tensor(scores, dtype=torch.float32),
        } | ({"trunk": self.trunk(rows)} if self.trunk else {})

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask of texts, (B, T) each."""
        return tokenize(texts, self.tokenizer, self.template, self.max_length)

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text (N,)."""
        filled = [self.template.replace("{text}", readable(text)) for text in texts]
        ids = self.tokenizer(filled, truncation=True, max_length=self.max_length, return_attention_mask=False)
        return np.array([len(one) for one in ids["input_ids"]])

    def _label(self, row: Mapping[str, Any]) -> int:
        return self.in_head[row["task"]][row["label"]] if row["label"] >= 0 else -1


def by_budget(lengths: Sequence[int] | np.ndarray, tokens: int) -> list[np.ndarray]:
    """Row numbers in batches of like length, none of which holds more tokens than this with its padding.

    A row longer than the budget has a batch of its own.
    """
    order = np.argsort(lengths, kind="stable")  # (N,)
    cuts, start = [], 0
    for place, row in enumerate(order):
        if place > start and (place - start + 1) * lengths[row] > tokens:
            cuts.append(place)
            start = place
    return np.split(order, cuts)


def row_lengths(rows: "Dataset") -> np.ndarray:
    """Tokens of each row (N,) where it holds them; else characters of its text, which sort nearly as tokens do."""
    if not len(rows):
        return np.zeros(0, int)
    if "lengths" not in rows.column_names:
        return np.asarray(pc.utf8_length(column(rows, "text")))
    documents = column(rows, "lengths")
    return np.add.reduceat(np.asarray(documents.flatten()), np.asarray(documents.offsets)[:-1])


def column(rows: "Dataset", name: str) -> pa.Array:
    """One column of the rows as they stand, selected and in order, in one piece."""
    return rows.select_columns(name).with_format("arrow")[:].column(name).combine_chunks()


class DomainBatches(Sampler[list[int]]):
    """Batches of row numbers, domains drawn by temperature, texts of like length together.

    Each epoch draws as many rows as there are; a domain of n rows gets a share ∝ n^(1/temperature), without
    repeating a row before all its others were seen. An epoch's batches depend on seed and epoch alone.

    Args:
        domains: each row's domain (N,).
        lengths: each row's length (N,), any unit.
        window: batches that are sorted by length together; more saves padding and mixes less.
        share: this process's place and how many there are: each takes every so-many-th row of every batch, all as many
            (an epoch's last rows, too few to be shared, are left out).

    Raises:
        Fault: when there are fewer rows than processes.
    """

    def __init__(
        self,
        domains: np.ndarray,
        lengths: np.ndarray,
        batch_size: int,
        temperature: float,
        seed: int,
        window: int = 16,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        assert len(domains) == len(lengths) > 0
        assert batch_size % share[1] == 0
        self.share = share
        self.lengths, self.batch_size, self.seed, self.window = lengths, batch_size, seed, window
        self.members = [np.flatnonzero(domains == one) for one in np.unique(domains)]
        weights = np.array([len(one) for one in self.members], dtype=float) ** (1.0 / temperature)
        self.quota = np.maximum(1, np.round(len(domains) * weights / weights.sum())).astype(int)
        self.rows = int(self.quota.sum()) // share[1] * share[1]
        if not self.rows:
            raise Fault(f"training rows for {share[1]} processes", str(len(domains)), "start fewer processes")
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        rows = np.concatenate(
            [self._draw(m, q, d) for d, (m, q) in enumerate(zip(self.members, self.quota, strict=True))]
        )
        random.shuffle(rows)
        rows = rows[: self.rows]
        batches = [
            batch for start in range(0, len(rows), self._span) for batch in self._cut(rows[start:][: self._span])
        ]
        for i in random.permutation(len(batches)):
            yield batches[i][self.share[0] :: self.share[1]].tolist()

    @property
    def _span(self) -> int:
        return self.window * self.batch_size

    def _draw(self, members: np.ndarray, quota: int, domain: int) -> np.ndarray:
        """Rows epoch·quota … of an endless row of shuffles of this domain."""
        positions = np.arange(self.epoch * quota, (self.epoch + 1) * quota)
        rounds = {int(r): self._shuffled(members, domain, int(r)) for r in np.unique(positions // len(members))}
        return np.array([rounds[int(p // len(members))][p % len(members)] for p in positions])

    def _shuffled(self, members: np.ndarray, domain: int, turn: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 1 + domain, turn]).permutation(members)

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        ordered = rows[np.argsort(self.lengths[rows], kind="stable")]
        return [ordered[i : i + self.batch_size] for i in range(0, len(ordered), self.batch_size)]

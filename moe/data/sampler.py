"""Which rows meet in a batch: domains drawn by temperature, texts of like length together, and samples per domain.

Turning rows into tensors is left to `moe.data.collator`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import Sampler

from experts.errors import Fault

if TYPE_CHECKING:
    from datasets import Dataset


def batch_by_tokens(lengths: Sequence[int] | np.ndarray, tokens: int) -> list[np.ndarray]:
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
        return np.asarray(pc.utf8_length(arrow_column(rows, "text")))
    documents = arrow_column(rows, "lengths")
    return np.add.reduceat(np.asarray(documents.flatten()), np.asarray(documents.offsets)[:-1])


def arrow_column(rows: "Dataset", name: str) -> pa.Array:
    """One column of the rows as they stand, selected and in order, in one piece."""
    return rows.select_columns(name).with_format("arrow")[:].column(name).combine_chunks()


class DomainBatchSampler(Sampler[list[int]]):
    """Batches of row numbers, domains drawn by temperature, texts of like length together.

    Each epoch draws as many rows as there are; a domain of n rows gets a share ∝ n^(1/temperature), without
    repeating a row before all its others were seen. An epoch's batches depend on seed and epoch alone.

    Args:
        domains: each row's domain (N,).
        lengths: each row's length (N,), any unit.
        window: batches that are sorted by length together; more saves padding and mixes less.
        shard: this process's place and how many there are: each takes every so-many-th row of every batch, all as many
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
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        assert len(domains) == len(lengths) > 0
        assert batch_size % shard[1] == 0
        self.shard = shard
        self.lengths, self.batch_size, self.seed, self.window = lengths, batch_size, seed, window
        self.members = [np.flatnonzero(domains == one) for one in np.unique(domains)]
        weights = np.array([len(one) for one in self.members], dtype=float) ** (1.0 / temperature)
        self.quota = np.maximum(1, np.round(len(domains) * weights / weights.sum())).astype(int)
        self.rows = int(self.quota.sum()) // shard[1] * shard[1]
        if not self.rows:
            raise Fault(f"training rows for {shard[1]} processes", str(len(domains)), "start fewer processes")
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
            yield batches[i][self.shard[0] :: self.shard[1]].tolist()

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


def subsample_per_domain(rows: "Dataset", most: int, seed: int, whole: Sequence[str] = ()) -> "Dataset":
    """At most so many rows of each domain, in their order.

    Args:
        whole: domains whose rows are all kept.
    """
    domains, random = arrow_column(rows, "domain").to_numpy(zero_copy_only=False), np.random.default_rng(seed)
    kept = [np.arange(0)]
    for name in dict.fromkeys(domains.tolist()):
        places = np.flatnonzero(domains == name)
        kept.append(places if name in whole or len(places) <= most else random.choice(places, most, replace=False))
    return rows.select(np.sort(np.concatenate(kept)).tolist())

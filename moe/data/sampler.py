"""Batches of row indices: by token budget, or drawn per domain for training; and samples of rows per domain."""

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


def row_lengths(rows: "Dataset") -> np.ndarray:
    """Return the number of tokens of each row (N,) if rows hold tokens, else the characters of its text and target.

    Sorted by characters, texts are nearly in the order of their tokens.
    """
    if not len(rows):
        return np.zeros(0, int)
    if "lengths" not in rows.column_names:
        characters = pc.utf8_length(arrow_column(rows, "text"))
        if "target" in rows.column_names:
            characters = pc.add(characters, pc.fill_null(pc.utf8_length(arrow_column(rows, "target")), 0))
        return np.asarray(characters)
    documents = arrow_column(rows, "lengths")
    return np.add.reduceat(np.asarray(documents.flatten()), np.asarray(documents.offsets)[:-1])


def arrow_column(rows: "Dataset", name: str) -> pa.Array:
    """Return a column of the rows, in their order, as one Arrow array."""
    return rows.select_columns(name).with_format("arrow")[:].column(name).combine_chunks()


class DomainBatchSampler(Sampler[list[int]]):
    """Batches of row indices, with domains sampled by temperature and texts of similar length in one batch.

    Each epoch draws as many rows as there are; a domain of n rows gets a share ∝ n^(1/temperature). No row is repeated
    before all other rows of its domain were drawn. The batches of an epoch depend only on the seed and the epoch.

    Args:
        domains: domain of each row (N,).
        lengths: length of each row (N,), in any unit.
        batch_size: rows per batch, of all processes together.
        temperature: 1 samples domains in proportion to their rows, higher values more evenly.
        seed: of the order of rows.
        window: batches that are sorted by length together; more saves padding and mixes less.
        shard: rank of this process and number of processes. Process r of n takes every n-th row of each batch from row
            r on; the last rows of an epoch that do not fill all processes are dropped.

    Raises:
        Fault: if there are fewer rows than processes.
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
        self.members = [np.flatnonzero(domains == domain) for domain in np.unique(domains)]
        weights = np.array([len(rows) for rows in self.members], dtype=float) ** (1.0 / temperature)
        self.quota = np.maximum(1, np.round(len(domains) * weights / weights.sum())).astype(int)
        self.rows = int(self.quota.sum()) // shard[1] * shard[1]
        if not self.rows:
            raise Fault(
                f"at least one training row for each of {shard[1]} processes",
                f"{len(domains)} rows",
                "use fewer processes",
            )
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
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
        span = self.window * self.batch_size
        batches = [batch for start in range(0, len(rows), span) for batch in self._cut(rows[start:][:span])]
        order = random.permutation(len(batches))
        return iter([batches[i][self.shard[0] :: self.shard[1]].tolist() for i in order])

    def _draw(self, members: np.ndarray, quota: int, domain: int) -> np.ndarray:
        """Rows epoch · quota to (epoch + 1) · quota of an endless sequence of permutations of the domain's rows."""
        positions = np.arange(self.epoch * quota, (self.epoch + 1) * quota)
        rounds = {int(r): self._permutation(members, domain, int(r)) for r in np.unique(positions // len(members))}
        return np.array([rounds[int(p // len(members))][p % len(members)] for p in positions])

    def _permutation(self, members: np.ndarray, domain: int, turn: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 1 + domain, turn]).permutation(members)

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        ordered = rows[np.argsort(self.lengths[rows], kind="stable")]
        return [ordered[i : i + self.batch_size] for i in range(0, len(ordered), self.batch_size)]


def subsample_per_domain(rows: "Dataset", max_rows: int, seed: int, keep_all: Sequence[str] = ()) -> "Dataset":
    """Return a random sample of at most `max_rows` rows of each domain, in the original order.

    Args:
        rows: rows with a column `domain`.
        max_rows: most rows of a domain.
        seed: of the sample.
        keep_all: domains of which every row is retained.
    """
    domains, random = arrow_column(rows, "domain").to_numpy(zero_copy_only=False), np.random.default_rng(seed)
    samples = [np.arange(0)]
    for name in dict.fromkeys(domains.tolist()):
        indices = np.flatnonzero(domains == name)
        complete = name in keep_all or len(indices) <= max_rows
        samples.append(indices if complete else random.choice(indices, max_rows, replace=False))
    return rows.select(np.sort(np.concatenate(samples)).tolist())

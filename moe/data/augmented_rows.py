"""Augmented rows: variants of training rows written by a language model, which variants to request, and their file."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, ValidationError

from experts.errors import Fault
from experts.json_io import parse_json
from moe.data.formats.text_lines import read_lines
from moe.data.schema import AugmentSettings, Origin, Settings
from moe.data.splitting.splits import stratified_draw
from moe.data.text_checks import text_problem

AUGMENTED = "augmented.jsonl"


def _check_text(text: str) -> str:
    if problem := text_problem(text):
        raise ValueError(problem)
    return text


class AugmentedRow(Settings):
    """One line of `augmented.jsonl`."""

    id: str = Field(description="id of the source, `+` and the number of the variant")
    text: Annotated[str, AfterValidator(_check_text)]
    label: str | None = Field(description="label of the source, one of the task's labels")
    score: float | None = Field(description="polarity of the source")
    lang: str | None
    domain: str
    task: str
    origin: Origin
    source_id: str
    source_hash: str = Field(description="hash of the source's text, to detect variants of another text")
    target: str | None = Field(None, description="target of the source, which the text contains too")
    model: str = Field(description="model that wrote the text")

    @property
    def source(self) -> tuple[str, str, str | None]:
        """Id, text hash and target of its source."""
        return self.source_id, self.source_hash, self.target


@dataclass(frozen=True, slots=True)
class VariantRequest:
    """A variant to request: index of the training row, number of the variant of this row (from 1), and its kind."""

    row: int
    number: int
    origin: Origin


def text_hash(text: str) -> str:
    """Return a short hash of a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def plan_variants(
    labels: Sequence[int], scored: Sequence[bool], settings: AugmentSettings, new: bool = False
) -> list[VariantRequest]:
    """Return the variants to request, in the order of the rows; deterministic for given rows and settings.

    A larger `max_share` requests the same variants and more, so that no response is paid for twice. Every row gets its
    first variant before any row gets a second.

    Args:
        labels: label of every training row, -1 for none (N,).
        scored: whether a row has a score (N,); a row with neither label nor score gets no variant.
        settings: number and kinds of variants.
        new: request new texts instead of rewritten ones.
    """
    known = np.asarray(labels, dtype=np.int64)
    useful = np.flatnonzero((known >= 0) | np.asarray(scored, dtype=bool))
    rows = np.tile(useful, settings.variants)  # (P,), all first variants before all second ones
    numbers = np.repeat(np.arange(1, settings.variants + 1), len(useful))  # (P,)
    groups = 2 * (known[rows] + (known.max(initial=0) + 2) * numbers)  # (P,), one per label and number
    candidates, count = np.arange(len(rows)), round(settings.synonym_share * len(rows))
    synonyms, _ = stratified_draw(groups, candidates, count, settings.seed, 4)
    is_synonym = np.isin(candidates, synonyms)  # (P,)
    selected = cap_variants(groups + is_synonym, len(known), settings, numbers)
    origins: list[Origin] = ["synthetic" if new else "synonym" if is_synonym[i] else "paraphrase" for i in selected]
    requests = [
        VariantRequest(int(rows[i]), int(numbers[i]), origin) for i, origin in zip(selected, origins, strict=True)
    ]
    return sorted(requests, key=lambda request: (request.row, request.number))


def cap_variants(
    groups: NDArray[np.int64], originals: int, settings: AugmentSettings, turns: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the indices (n,) of the variants that `max_share` allows; a larger share adds to those of a smaller one.

    Args:
        groups: group of each variant, such as its label (P,); every group retains its share, within one variant.
        originals: number of training rows that are not variants.
        settings: `max_share` and the seed.
        turns: variants of an earlier turn are selected first (P,); all in one turn by default.
    """
    everything = np.arange(len(groups))
    if settings.max_share is None or (limit := int(settings.max_share * originals)) >= len(groups):
        return everything
    shuffled = np.random.default_rng((settings.seed, 3)).permutation(everything)
    shuffled = shuffled[np.argsort(groups[shuffled], kind="stable")]
    _, starts, sizes = np.unique(groups[shuffled], return_index=True, return_counts=True)
    quantile = (everything - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)  # (P,), within its group
    order = np.lexsort((quantile, np.zeros(len(groups)) if turns is None else turns[shuffled]))
    return np.sort(shuffled[order[:limit]])


def read_augmented_rows(path: Path) -> Iterator[AugmentedRow]:
    """Read the rows of an `augmented.jsonl` lazily.

    Raises:
        Fault: if there is no such file, or a line is not an augmented row.
    """
    if not path.is_file():
        raise Fault(
            f"augmented rows at {path}, since data.augmented is true",
            "no such file",
            "write them with `moe data augment`, or set data.augmented=false",
        )
    for line in read_lines(path):
        if not line.text.strip():
            continue
        try:
            yield AugmentedRow.model_validate(parse_json(line.text))
        except ValueError as error:
            reason = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
            raise Fault(
                f"an augmented row in line {line.number} of {path}",
                line.error or reason,
                "remove the line, or rewrite the file with `moe data augment --overwrite`",
            ) from error

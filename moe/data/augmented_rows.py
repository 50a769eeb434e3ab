"""A variant: a training row written anew, with the row it comes from; which ones to ask for, and their file.

How one is asked for is left to `prompts` and `endpoint`, whether it is fit to `sieve`, training on it to `mixing`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, ValidationError

from experts.errors import Fault
from moe.data.readers import text_problem
from moe.data.schema import AugmentSettings, Origin, Settings
from moe.data.splits import stratified_draw
from moe.data.text_lines import read_lines

AUGMENTED = "augmented.jsonl"


def _readable(text: str) -> str:
    if fault := text_problem(text):
        raise ValueError(fault)
    return text


class AugmentedRow(Settings):
    """One line of `augmented.jsonl`."""

    id: str = Field(description="the source's id, `+` and the number of the variant")
    text: Annotated[str, AfterValidator(_readable)]
    label: str | None = Field(description="the source's label by our name")
    score: float | None = Field(description="the source's polarity")
    lang: str | None
    domain: str
    task: str
    origin: Origin
    source_id: str
    source_hash: str = Field(description="of the source's text, so that a variant of another text is known")
    model: str = Field(description="who wrote it")


@dataclass(frozen=True, slots=True)
class VariantRequest:
    """A variant to ask for: of which training row, the how manieth of it (from 1), and how it is made."""

    row: int
    number: int
    origin: Origin


def text_hash(text: str) -> str:
    """A short name for a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def plan_variants(
    labels: Sequence[int], scored: Sequence[bool], settings: AugmentSettings, new: bool = False
) -> list[VariantRequest]:
    """The variants to ask for, in the rows' order; the same rows and settings give the same ones.

    A larger `max_share` asks for the same ones and more, so that no answer is paid for twice; every row gets its first
    variant before any gets a second.

    Args:
        labels: label of every training row, -1 for none (N,).
        scored: whether it has a score (N,); a row with neither teaches nothing and gets no variant.
        settings: how many, and of which kind.
        new: all are new texts, none a row's own in other words.
    """
    known = np.asarray(labels, dtype=np.int64)
    useful = np.flatnonzero((known >= 0) | np.asarray(scored, dtype=bool))
    rows = np.tile(useful, settings.variants)  # (P,), all first variants before all second ones
    numbers = np.repeat(np.arange(1, settings.variants + 1), len(useful))  # (P,)
    groups = 2 * (known[rows] + (known.max(initial=0) + 2) * numbers)  # (P,), of one label and number
    swapped = stratified_draw(
        groups, np.arange(len(rows)), round(settings.synonym_share * len(rows)), settings.seed, 4
    )[0]
    synonym = np.isin(np.arange(len(rows)), swapped)  # (P,)
    chosen = cap_variants(groups + synonym, len(known), settings, numbers)
    kinds: list[Origin] = ["synthetic" if new else "synonym" if synonym[i] else "paraphrase" for i in chosen]
    wanted = [VariantRequest(int(rows[i]), int(numbers[i]), kind) for i, kind in zip(chosen, kinds, strict=True)]
    return sorted(wanted, key=lambda one: (one.row, one.number))


def cap_variants(
    groups: NDArray[np.int64], originals: int, settings: AugmentSettings, turns: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The places (n,) of those variants that `max_share` leaves; a larger share leaves the same ones and more.

    Args:
        groups: what each variant is alike in, such as its label (P,); every group keeps its part, within one row.
        originals: training rows that are no variants.
        settings: holds the bound and the seed.
        turns: variants of an earlier turn come first (P,); all in one by default.
    """
    everything = np.arange(len(groups))
    if settings.max_share is None or (most := int(settings.max_share * originals)) >= len(groups):
        return everything
    shuffled = np.random.default_rng((settings.seed, 3)).permutation(everything)
    shuffled = shuffled[np.argsort(groups[shuffled], kind="stable")]
    _, starts, sizes = np.unique(groups[shuffled], return_index=True, return_counts=True)
    place = (everything - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)  # (P,), inside its group
    order = np.lexsort((place, np.zeros(len(groups)) if turns is None else turns[shuffled]))
    return np.sort(shuffled[order[:most]])


def read_augmented_rows(path: Path) -> Iterator[AugmentedRow]:
    """The lines of an `augmented.jsonl`.

    Raises:
        Fault: when there is no such file, or a line is no variant.
    """
    if not path.is_file():
        raise Fault(
            f"augmented rows at {path}, as data.augmented asks",
            "none",
            "write them by moe augment, or leave data.augmented false",
        )
    for line in read_lines(path):
        if not line.text.strip():
            continue
        try:
            yield AugmentedRow.model_validate_json(line.text)
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
            raise Fault(
                f"an augmented row in line {line.number} of {path}",
                line.error or reason,
                "take the line out, or write the file again by moe augment --overwrite",
            ) from error

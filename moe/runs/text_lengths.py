"""Lengths of texts in tokens of the backbone: what `backbone.max_length: auto` means, and what is truncated."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from experts.atomic_io import read_json, write_json
from experts.errors import Fault
from moe.console import info
from moe.data.collator import count_tokens
from moe.model.backbone import AUTO, AUTO_LENGTH_LIMIT, BackboneSettings, length_limit, load_tokenizer

READ_WHOLE = 0.95
"""Fraction of a domain's training texts that `auto` reads to their end."""
_MULTIPLE, _SMALLEST = 8, 32
_FORMAT = 1
Counts = Mapping[str, Mapping[int, int]]
"""Number of texts by their tokens, special tokens, template and target included, for each domain."""


@dataclass(frozen=True)
class Cut:
    """What is not read of some texts.

    Args:
        texts: number of texts.
        cut: those that are longer than the backbone reads.
        lost: fraction of the tokens of all texts that is not read.
        lost_of_cut: fraction of the tokens of the cut texts that is not read.
    """

    texts: int
    cut: int
    lost: float
    lost_of_cut: float


def measure_cut(counts: Mapping[int, int], length: int) -> Cut:
    """Return what is not read of texts, of which the first `length` tokens are.

    Args:
        counts: number of texts by their tokens.
    """
    long = {tokens: texts for tokens, texts in counts.items() if tokens > length}
    lost = sum((tokens - length) * texts for tokens, texts in long.items())
    total, total_long = (sum(tokens * texts for tokens, texts in part.items()) for part in (counts, long))
    return Cut(sum(counts.values()), sum(long.values()), lost / max(1, total), lost / max(1, total_long))


def auto_length(counts: Counts, limit: int | None) -> int:
    """Return the length that reads 95 % of the texts of every domain: a multiple of 8, at least 32.

    Args:
        limit: most tokens that the backbone reads; None for any number. More than 512 are never returned.
    """
    longest = max((_quantile(domain, READ_WHOLE) for domain in counts.values() if domain), default=0)
    rounded = max(_SMALLEST, math.ceil(longest / _MULTIPLE) * _MULTIPLE)
    return min(rounded, AUTO_LENGTH_LIMIT, limit or AUTO_LENGTH_LIMIT)


def _quantile(counts: Mapping[int, int], share: float) -> int:
    """Smallest length that at least this share of the texts do not exceed."""
    lengths = np.array(sorted(counts))
    texts = np.cumsum([counts[int(length)] for length in lengths])
    return int(lengths[np.searchsorted(texts, share * texts[-1])])


def check_length(settings: BackboneSettings) -> int | None:
    """Return the most tokens that the backbone reads, None for any number, after checking that `max_length` fits.

    Raises:
        Fault: if `max_length` is larger, or the backbone's config cannot be read.
    """
    limit = length_limit(settings)
    if settings.max_length != AUTO and limit is not None and settings.resolved_length > limit:
        raise Fault(
            f"backbone.max_length of at most {limit}, the tokens that {settings.name} reads",
            str(settings.max_length),
            "lower it, or set it to auto",
        )
    return limit


@dataclass(frozen=True)
class TextLengths:
    """Lengths of a run's training texts.

    Args:
        counts: by domain.
        auto: the length that `backbone.max_length: auto` means in this run.
    """

    counts: Counts
    auto: int


def read_or_count(
    folder: Path, rows: Mapping[str, Dataset], settings: BackboneSettings, template: str, in_use: bool
) -> TextLengths:
    """Return the lengths of a run's training texts, from the file of an earlier command if the rows are the same.

    Args:
        folder: of the prepared rows of all domains, where the file is written.
        rows: training rows of each domain.
        settings: of the backbone, whose tokenizer is used.
        in_use: whether experts were already trained with the stored length; then it is kept even if the rows changed.

    Raises:
        Fault: if the tokenizer cannot be loaded, or the folder cannot be written.
    """
    tokenizer = [settings.name, settings.revision, template]
    path = folder / f"lengths-{hashlib.sha256(json.dumps(tokenizer).encode()).hexdigest()[:8]}.json"
    key = {"format": _FORMAT, "tokenizer": tokenizer, "rows": {name: _digest(part) for name, part in rows.items()}}
    stored = _read(path)
    if stored is not None and stored["key"] == key:
        counts = {name: {int(length): n for length, n in domain.items()} for name, domain in stored["counts"].items()}
        return TextLengths(counts, stored["auto"])
    encoder = load_tokenizer(settings)
    counts = {
        name: dict(Counter(count_tokens(part["text"], encoder, template, part["target"]).tolist()))
        for name, part in rows.items()
    }
    auto = auto_length(counts, check_length(settings))
    if in_use and stored is not None and settings.max_length == AUTO and stored["auto"] != auto:
        info(
            f"backbone.max_length: auto would be {auto} tokens for the present training rows; the experts of this run "
            f"were trained with {stored['auto']}, which stays: to change it, delete {path} and train all of them again"
        )
        return TextLengths(counts, stored["auto"])
    write_json(path, {"key": key, "auto": auto, "counts": counts})
    return TextLengths(counts, auto)


def _digest(rows: Dataset) -> str:
    """SHA-256 of texts and targets."""
    return hashlib.sha256(json.dumps([rows["text"][:], rows["target"][:]]).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
        return content if isinstance(content["auto"], int) and content["key"] and content["counts"] else None
    except (Fault, LookupError, TypeError):
        return None


def format_cuts(counts: Counts, length: int, auto: int) -> list[str]:
    """Say how many texts of each domain are truncated, and how much is lost; one line for all if none is.

    Args:
        length: tokens at which a text is truncated.
        auto: what `max_length: auto` would be.
    """
    lines = []
    for name, domain in counts.items():
        cut = measure_cut(domain, length)
        if not cut.cut:
            continue
        line = (
            f"{name}: {cut.cut} of {cut.texts} training texts ({cut.cut / cut.texts:.0%}) are longer than {length} "
            f"tokens; {cut.lost:.0%} of the domain's tokens are not read"
        )
        advice = f"raise backbone.max_length (auto: {auto})" if auto > length else ""
        lines.append(f"{line}: {advice}" if advice and cut.cut > (1 - READ_WHOLE) * cut.texts else line)
    texts = sum(sum(domain.values()) for domain in counts.values())
    return lines or [f"none of {texts} training texts is longer than {length} tokens"]

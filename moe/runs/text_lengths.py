"""Lengths of texts in tokens of the backbone: what `backbone.max_length: auto` means, and what is truncated."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from datasets import Dataset
from pydantic import BaseModel, ValidationError
from transformers import PreTrainedTokenizerBase

from experts.atomic_io import read_json
from experts.errors import Fault
from experts.reused import SEAL, check_seal, write_sealed_json
from moe.config.run import RunSettings
from moe.console import info
from moe.data.collator import count_tokens
from moe.data.column_checks import domain_note
from moe.data.formats.readers import read_task_records
from moe.data.profile import FileProfile, inspect_file, length_quantile
from moe.data.schema import Row, TaskSettings
from moe.data.text_checks import window_overlap
from moe.data.validation import passes_filter, validate_records
from moe.model.backbone import AUTO, AUTO_LENGTH_LIMIT, BackboneSettings, length_limit, load_tokenizer

READ_WHOLE = 0.95
"""Fraction of a domain's training texts that `auto` reads to their end."""
_MULTIPLE, _SMALLEST = 8, 32
_CHECKED_ROWS = 5000
Counts = Mapping[str, Mapping[int, int]]
"""Number of texts by their tokens, special tokens, template and target included, for each domain."""


@dataclass(frozen=True)
class Cut:
    """What is not read of some texts.

    Args:
        texts: number of texts.
        cut: those that are longer than the backbone reads.
        lost: fraction of the tokens of all texts that is not read.
    """

    texts: int
    cut: int
    lost: float


def measure_cut(counts: Mapping[int, int], length: int) -> Cut:
    """Return what is not read of texts, of which the first `length` tokens are.

    Args:
        counts: number of texts by their tokens.
    """
    long = {tokens: texts for tokens, texts in counts.items() if tokens > length}
    lost = sum((tokens - length) * texts for tokens, texts in long.items())
    total = sum(tokens * texts for tokens, texts in counts.items())
    return Cut(sum(counts.values()), sum(long.values()), lost / max(1, total))


def auto_length(counts: Counts, limit: int | None) -> int:
    """Return the length that reads 95 % of the texts of every domain: a multiple of 8, at least 32.

    Args:
        limit: most tokens that the backbone reads; None for any number. More than 512 are never returned.
    """
    longest = max((length_quantile(domain, READ_WHOLE) for domain in counts.values() if domain), default=0)
    rounded = max(_SMALLEST, math.ceil(longest / _MULTIPLE) * _MULTIPLE)
    return min(rounded, AUTO_LENGTH_LIMIT, limit or AUTO_LENGTH_LIMIT)


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
    """Lengths of texts.

    Args:
        counts: by domain.
        special: special tokens of a text.
    """

    counts: Counts
    special: int = 2


class _StoredDomain(BaseModel):
    """Lengths of a domain's training texts, and the SHA-256 of these texts with their targets."""

    sha256: str
    counts: dict[int, int]


class _Stored(BaseModel):
    """Content of `lengths-….json`, for one tokenizer and template."""

    special: int
    auto: int | None = None
    domains: dict[str, _StoredDomain] = {}


class LengthStore:
    """Lengths of a run's training texts, stored beside its prepared rows, so that a text is tokenized once.

    Args:
        folder: of the prepared rows of all domains.
        settings: of the backbone, whose tokenizer is used.
        template: text around every text.
    """

    def __init__(self, folder: Path, settings: BackboneSettings, template: str) -> None:
        self.settings, self.template = settings, template
        key = json.dumps([settings.name, settings.revision, template])
        self.path = folder / f"lengths-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"

    def lengths(self, rows: Mapping[str, Dataset]) -> TextLengths:
        """Return the lengths of training rows by domain; they are counted if they are new or have changed.

        Raises:
            Fault: if the tokenizer cannot be loaded, or the folder cannot be written.
        """
        stored = self._read()
        digests = {name: _digest(part) for name, part in rows.items()}
        known = {name: domain.sha256 for name, domain in stored.domains.items()} if stored else {}
        changed = [name for name in rows if known.get(name) != digests[name]]
        if changed or stored is None:
            encoder = load_tokenizer(self.settings)
            stored = stored or _Stored(special=encoder.num_special_tokens_to_add())
            for name in changed:
                tokens = count_tokens(rows[name]["text"][:], encoder, self.template, rows[name]["target"][:])
                stored.domains[name] = _StoredDomain(sha256=digests[name], counts=Counter(tokens.tolist()))
            write_sealed_json(self.path, stored.model_dump(mode="json"))
        return TextLengths({name: stored.domains[name].counts for name in rows}, stored.special)

    def resolve_auto(self, rows: Mapping[str, Dataset], in_use: bool) -> int:
        """Return the length that `auto` means for a run.

        Args:
            rows: training rows of all domains.
            in_use: whether experts were already trained with the stored length, which then stays if the rows change.

        Raises:
            Fault: see `lengths`.
        """
        auto = auto_length(self.lengths(rows).counts, length_limit(self.settings))
        stored = self._read()
        assert stored is not None
        if stored.auto is None or not in_use:
            write_sealed_json(self.path, (stored.model_copy(update={"auto": auto})).model_dump(mode="json"))
            return auto
        if stored.auto != auto:
            info(
                f"backbone.max_length: auto would be {auto} tokens for the present training rows; the experts of this "
                f"run were trained with {stored.auto}, which stays: to change it, delete {self.path} and train again"
            )
        return stored.auto

    def _read(self) -> _Stored | None:
        try:
            content = read_json(self.path)
            if isinstance(content, dict) and SEAL in content:  # older releases wrote none
                content = check_seal(content, self.path)
            return _Stored.model_validate(content)
        except (Fault, ValidationError):
            return None


def _digest(rows: Dataset) -> str:
    """SHA-256 of texts and targets."""
    return hashlib.sha256(json.dumps([rows["text"][:], rows["target"][:]]).encode()).hexdigest()


def _percent(share: float) -> str:
    """A share as a whole percentage; one that would be rounded to 0 is below 1 %."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def format_cuts(
    lengths: TextLengths, domains: Iterable[str], settings: BackboneSettings, texts: str = "training texts"
) -> list[str]:
    """Say how many texts of each domain are longer than the backbone reads, and how much is lost.

    Args:
        texts: what is counted.

    Returns:
        a line for each domain with such texts; one line for all domains if there are none.
    """
    lines, length, total = [], settings.resolved_length, 0
    step = max(1, length - lengths.special - window_overlap(length, settings.windows))  # new tokens of a window
    reads = length + (settings.windows - 1) * step
    for name in domains:
        counts = lengths.counts.get(name, {})
        long, cut = measure_cut(counts, length), measure_cut(counts, reads)
        total += long.texts
        if long.cut:
            windows = f" and read in windows, at most {settings.windows} each" if settings.windows > 1 else ""
            remedy = ""
            if cut.cut > (1 - READ_WHOLE) * cut.texts:
                fit = f"95% fit in {length_quantile(counts, READ_WHOLE)}"
                remedy = f": raise backbone.max_length ({fit}) or backbone.windows"
            lines.append(
                f"{name}: {long.cut} of {long.texts} {texts} ({_percent(long.cut / long.texts)}) are longer than "
                f"{length} tokens{windows}; {_percent(cut.lost)} of the domain's tokens are not read{remedy}"
            )
    return lines or [f"none of {total} {texts} is longer than {length} tokens"]


def count_row_tokens(rows: Sequence[Row], encoder: PreTrainedTokenizerBase, template: str) -> list[int]:
    """Return the tokens of rows of a file."""
    counts = count_tokens([row.text for row in rows], encoder, template, [row.target for row in rows])
    return [int(count) for count in counts]


def inspect_for_run(file: Path, run: RunSettings, domain: str, settings: TaskSettings) -> FileProfile:
    """Profile a file as `inspect_file` does; for a classifier also `tokens` and `max_length` with what is truncated.

    Args:
        file: the file.
        run: its backbone counts the tokens.
        domain: of the run.
        settings: of a task of the domain.

    Raises:
        Fault: if the file is invalid, or the tokenizer cannot be loaded.
    """
    if run.language is not None:
        return _with_domain_note(inspect_file(file, settings), run, domain, settings)
    encoder = load_tokenizer(run.backbone)
    counts = Counter[int]()

    def count(rows: Sequence[Row]) -> list[int]:
        tokens = count_row_tokens(rows, encoder, run.template)
        counts.update(tokens)
        return tokens

    profile = _with_domain_note(inspect_file(file, settings, count), run, domain, settings)
    return replace(profile, max_length=describe_rows(run.backbone, {domain: counts}))


def _with_domain_note(profile: FileProfile, run: RunSettings, domain: str, settings: TaskSettings) -> FileProfile:
    note = domain_note(profile.domains, domain, list(run.domains), settings, Path(profile.file).name)
    return replace(profile, warnings=[*profile.warnings, note]) if note else profile


def describe_files(run: RunSettings) -> list[str]:
    """Say how many rows of a run's files are longer than the backbone reads, by domain; empty for a language model.

    At most 5,000 rows of a file are read. Domains of the made-up sample, which has no long texts, are left out.

    Raises:
        Fault: if a file cannot be read, or the tokenizer cannot be loaded.
    """
    files = {
        (name, task): its
        for name in run.domains
        for task, its in run.rows_of(name).items()
        if run.language is None and its.file is not None
    }
    if not files:
        return []
    encoder, counts = load_tokenizer(run.backbone), dict[str, Counter[int]]()
    for (name, _), its in files.items():
        records = (row for row in read_task_records(run.data.path(str(its.file)), its) if passes_filter(row, its))
        valid = (row for row in validate_records(records, its) if isinstance(row, Row))
        counts.setdefault(name, Counter()).update(
            count_row_tokens(list(islice(valid, _CHECKED_ROWS)), encoder, run.template)
        )
    return describe_rows(run.backbone, counts)


def describe_rows(settings: BackboneSettings, counts: Counts) -> list[str]:
    """Say how many rows are longer than the backbone reads; for `auto`, than it would resolve to by these rows."""
    lines = []
    if settings.max_length == AUTO:
        auto = auto_length(counts, length_limit(settings))
        lines.append(f"backbone.max_length: auto is {auto} tokens by all rows; the training rows of the run decide")
        settings = settings.model_copy(update={"max_length": auto})
    return lines + format_cuts(TextLengths(counts), counts, settings, "rows")

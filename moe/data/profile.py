"""`moe data inspect`: counts rows, labels, scores, lengths, languages, duplicates and rejects of a file in one pass."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from experts.json_io import OMIT_NONE
from moe.data.column_checks import ColumnProfile
from moe.data.column_names import label_name, missing_label_note
from moe.data.dedup import NearDuplicateIndex, is_chinese
from moe.data.formats.readers import ORIGIN_COLUMN, describe_format, read_column_names, read_task_records
from moe.data.schema import ORIGINAL, DataSettings, Duplicate, Record, Reject, Row, TaskSettings
from moe.data.task_reports import EMPTY_ANSWER, NO_ANSWER
from moe.data.text_checks import contains_target, is_blank
from moe.data.validation import passes_filter, validate_records
from moe.kinds.registry import task_kind

_NEAR = 0.85
_NEAR_ROWS = 50_000
_BATCH = 1000
_SHOWN_REJECTS = 10
_MAX_LABELS = 1000
_MAX_TARGETS, _SHOWN_TARGETS = 100_000, 10
_SCORE_BINS = 10
_LENGTH_BINS = 12
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass
class _Counts:
    """Counts of one pass; only the distinct lengths and the hashes of texts grow with the file."""

    rows: int = 0
    duplicates: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    characters: Counter[int] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)
    chinese: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)
    texts: set[int] = field(default_factory=set)
    same_text: int = 0
    targets: Counter[str] = field(default_factory=Counter)
    targeted: int = 0
    missing_targets: int = 0


@dataclass(frozen=True)
class ScoreHistogram:
    """Histogram of scores.

    Args:
        edges: of the bins (N + 1), from −1 to 1.
        counts: rows of each bin (N).
        rows: rows with a score.
    """

    edges: Sequence[float]
    counts: Sequence[int]
    rows: int


@dataclass(frozen=True)
class LengthProfile:
    """Lengths of texts.

    Args:
        quantiles: smallest length that a share of the texts, such as `95%`, does not exceed; empty without texts.
        edges: lower edges of the bins of a histogram (N); it ends at the 99th percentile.
        counts: texts of each bin (N); the last one also holds all longer texts.
    """

    quantiles: Mapping[str, int]
    edges: Sequence[int]
    counts: Sequence[int]


@dataclass(frozen=True)
class TargetCounts:
    """Entities that rows are about.

    Args:
        rows: rows with a target.
        texts: distinct texts, if there are targets.
        not_in_text: targets that their text does not contain.
        most_common: number of rows by target.
    """

    rows: int
    texts: int
    not_in_text: int
    most_common: Mapping[str, int]


@dataclass(frozen=True)
class DuplicateCounts:
    """Duplicates of a file.

    Args:
        id_and_content: records with the id and content of an earlier one.
        text: rows with the text of an earlier one.
    """

    id_and_content: int
    text: int


@dataclass(frozen=True)
class RejectedRows:
    """Invalid rows of a file.

    Args:
        rows: their number.
        reasons: number by reason.
        first: the first ones.
    """

    rows: int
    reasons: Mapping[str, int]
    first: Sequence[Reject]


@dataclass(frozen=True)
class NearDuplicateCount:
    """Rows near an earlier one.

    Args:
        rows: their number.
        among_first: number of rows that were compared, from the start of the file.
        jaccard: similarity from which rows are near.
    """

    rows: int
    among_first: int
    jaccard: float


@dataclass(frozen=True, kw_only=True)
class FileProfile:
    """What a data file holds. Counts of names are from the most common one to the rarest.

    Args:
        format: the file's format in words.
        file: the file.
        records: all records that were read: rows, rejected ones, duplicates of id and content.
        rows: valid rows.
        labels: records by label, as named in the file.
        classes: rows by label of the task.
        scores: histogram of the scores.
        tokens: lengths in tokens, if they were counted.
        words: lengths in words.
        characters: lengths in characters.
        languages: rows by language.
        chinese_rows: rows with Chinese text.
        splits: rows by the file's split.
        origins: records by origin.
        targets: entities that rows are about.
        duplicates: repeated records and texts.
        rejected: invalid rows.
        domains: records by domain, as named in the file.
        near_duplicates: rows near an earlier one.
        max_length: lines on what a backbone truncates, if tokens were counted for a run.
        warnings: lines on what is wrong, such as columns that do not hold what their name says.
    """

    format: str
    file: str
    records: int
    rows: int
    labels: Mapping[str, int]
    classes: Mapping[str, int]
    scores: ScoreHistogram
    tokens: LengthProfile | None = field(default=None, metadata=OMIT_NONE)
    words: LengthProfile
    characters: LengthProfile
    languages: Mapping[str, int]
    chinese_rows: int
    splits: Mapping[str, int]
    origins: Mapping[str, int]
    targets: TargetCounts
    duplicates: DuplicateCounts
    rejected: RejectedRows
    domains: Mapping[str, int]
    near_duplicates: NearDuplicateCount
    max_length: Sequence[str] | None = field(default=None, metadata=OMIT_NONE)
    warnings: Sequence[str]


def inspect_file(
    path: Path, task: TaskSettings | None = None, count_tokens: Callable[[Sequence[Row]], Sequence[int]] | None = None
) -> FileProfile:
    """Count what a file holds; without a task, labels are counted as they are named in the file.

    Args:
        path: csv, jsonl, txt, parquet or a `datasets` folder.
        task: columns and labels to validate the rows against.
        count_tokens: returns the tokens of each of some rows, as a backbone reads them.

    Raises:
        Fault: if the file cannot be read; see `read_records`.
    """
    task = task or TaskSettings()
    counts, columns, limit = _Counts(), ColumnProfile(task), DataSettings().max_rejected
    rows = _count_all(path, task, counts, columns)
    if count_tokens is not None:
        rows = _count_batches(rows, count_tokens, counts.tokens)
    first = ((row.line, row.text) for row in islice(rows, _NEAR_ROWS))
    near = sum(bool(others) for _, others in NearDuplicateIndex[int](_NEAR).query(first, insert_new=True))
    among = counts.rows
    for _ in rows:
        pass
    warnings = [*map(str, columns.faults(path, limit)), *columns.notes(path, limit)]
    names = read_column_names(path, task.columns.required(), task.format)
    if task_kind(task.kind).has_labels and (note := missing_label_note(names, task.columns, path)):
        warnings.append(note)
    return FileProfile(
        format=describe_format(path, task.columns, task.format),
        file=str(path),
        records=counts.rows + counts.duplicates + counts.reasons.total(),
        rows=counts.rows,
        labels=dict(counts.labels.most_common()),
        classes=dict(counts.classes.most_common()),
        scores=_score_histogram(counts.scores),
        tokens=_length_profile(counts.tokens) if counts.tokens else None,
        words=_length_profile(counts.words),
        characters=_length_profile(counts.characters),
        languages=dict(counts.languages.most_common()),
        chinese_rows=counts.chinese,
        splits=dict(counts.splits.most_common()),
        origins=dict(counts.origins.most_common()),
        targets=TargetCounts(
            rows=counts.targeted,
            texts=len(counts.texts) if counts.targeted else 0,
            not_in_text=counts.missing_targets,
            most_common=dict(counts.targets.most_common(_SHOWN_TARGETS)),
        ),
        duplicates=DuplicateCounts(id_and_content=counts.duplicates, text=counts.same_text),
        rejected=RejectedRows(
            rows=counts.reasons.total(), reasons=dict(counts.reasons.most_common()), first=counts.rejects
        ),
        domains=dict(columns.domains.most_common()),
        near_duplicates=NearDuplicateCount(rows=near, among_first=among, jaccard=_NEAR),
        warnings=warnings,
    )


def _count_all(path: Path, task: TaskSettings, counts: _Counts, columns: ColumnProfile) -> Iterator[Row]:
    """Yield the valid rows of a file, and count everything on the way."""
    read = read_task_records(path, task, {ORIGIN_COLUMN})
    accepted = (record for record in read if passes_filter(record, task))
    for result in validate_records(_count_records(accepted, task, counts), task, (columns.observe,)):
        if isinstance(result, Row):
            _count_row(result, task, counts)
            yield result
        elif isinstance(result, Duplicate):
            counts.duplicates += 1
        else:
            counts.reasons[result.reason] += 1
            counts.rejects += [result] if len(counts.rejects) < _SHOWN_REJECTS else []


def _count_batches(
    rows: Iterator[Row], count_tokens: Callable[[Sequence[Row]], Sequence[int]], tokens: Counter[int]
) -> Iterator[Row]:
    """Yield the rows, after counting the tokens of each batch."""
    while batch := list(islice(rows, _BATCH)):
        tokens.update(count_tokens(batch))
        yield from batch


def _labels_in_file(value: object, task: TaskSettings) -> list[str]:
    """The labels in a cell as the file names them; `(none)` for a cell without any."""
    names = [] if is_blank(value) else [label_name(each) for each in task_kind(task.kind).cell_values(value)]
    return names or [NO_ANSWER]


def _count_records(records: Iterable[Record], task: TaskSettings, counts: _Counts) -> Iterator[Record]:
    has_labels = task_kind(task.kind).has_labels
    for record in records:
        for label in _labels_in_file(record.values.get("label"), task) if has_labels else ():
            if not record.error and (label in counts.labels or len(counts.labels) < _MAX_LABELS):
                counts.labels[label] += 1
        origin = str(record.values.get(ORIGIN_COLUMN) or ORIGINAL)
        if not record.error and (origin in counts.origins or len(counts.origins) < _MAX_LABELS):
            counts.origins[origin] += 1
        yield record


def _count_row(row: Row, task: TaskSettings, counts: _Counts) -> None:
    counts.rows += 1
    counts.languages[row.lang or "(none)"] += 1
    counts.splits[row.split or "(none)"] += 1
    counts.words[len(row.text.split())] += 1
    counts.characters[len(row.text)] += 1
    counts.chinese += is_chinese(row.text)
    if row.label is not None:
        kind = task_kind(task.kind)
        counts.classes.update([task.labels[i] for i in kind.decode(row.label)] or [EMPTY_ANSWER])
    if row.score is not None:
        counts.scores[min(_SCORE_BINS - 1, math.floor((row.score + 1) / 2 * _SCORE_BINS))] += 1
    if row.target is not None:
        counts.targeted += 1
        counts.missing_targets += not contains_target(row.text, row.target)
        if row.target in counts.targets or len(counts.targets) < _MAX_TARGETS:
            counts.targets[row.target] += 1
    text = hash(row.text)
    counts.same_text += text in counts.texts
    counts.texts.add(text)


def _score_histogram(scores: Counter[int]) -> ScoreHistogram:
    edges = [round(-1 + 2 * i / _SCORE_BINS, 3) for i in range(_SCORE_BINS + 1)]
    return ScoreHistogram(edges=edges, counts=[scores[i] for i in range(_SCORE_BINS)], rows=scores.total())


def _length_profile(lengths: Counter[int]) -> LengthProfile:
    """Quantiles, and a histogram up to the 99th percentile whose last bin also holds all longer texts."""
    quantiles = {f"{share:.0%}": length_quantile(lengths, share) for share in _QUANTILES} if lengths else {}
    width = max(1, math.ceil((quantiles.get("99%", 0) + 1) / _LENGTH_BINS))
    bins = Counter[int]()
    for length, count in lengths.items():
        bins[min(_LENGTH_BINS - 1, length // width)] += count
    last = max(bins, default=-1)
    edges = [i * width for i in range(last + 1)]
    return LengthProfile(quantiles=quantiles, edges=edges, counts=[bins[i] for i in range(last + 1)])


def length_quantile(counts: Mapping[int, int], share: float) -> int:
    """Return the smallest length that at least this share of the texts do not exceed.

    Args:
        counts: number of texts by their length, at least one.
    """
    texts, required = 0, share * sum(counts.values())
    for length in sorted(counts):
        texts += counts[length]
        if texts >= required:
            return length
    return max(counts)

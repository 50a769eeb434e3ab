"""`moe data inspect`: counts rows, labels, scores, lengths, languages, duplicates and rejects of a file in one pass."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from moe.console import Table
from moe.data.column_checks import ColumnProfile
from moe.data.column_names import label_name, missing_label_note
from moe.data.dedup import NearDuplicateIndex, is_chinese
from moe.data.formats.readers import read_column_names, read_task_records
from moe.data.schema import ORIGINAL, DataSettings, Duplicate, Record, Reject, Row, TaskSettings
from moe.data.text_checks import contains_target, is_blank
from moe.data.validation import passes_filter, validate_records

_NEAR = 0.85
_NEAR_ROWS = 50_000
_BATCH = 1000
_SHOWN_REJECTS = 10
_SHOWN_LABELS = 20
_MAX_LABELS = 1000
_MAX_TARGETS, _SHOWN_TARGETS = 100_000, 10
_OF_RECORDS = ("labels", "origins")
"""What is counted in all records of a file; everything else is counted in its valid rows."""
_SCORE_BINS = 10
_LENGTH_BINS = 12
_WIDTH = 40
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


def inspect_file(
    path: Path, task: TaskSettings | None = None, count_tokens: Callable[[Sequence[Row]], Sequence[int]] | None = None
) -> dict[str, Any]:
    """Count what a file holds; without a task, labels are counted as they are named in the file.

    Args:
        path: csv, jsonl, txt, parquet or a `datasets` folder.
        task: columns and labels to validate the rows against.
        count_tokens: returns the tokens of each of some rows, as a backbone reads them.

    Returns:
        JSON values: records (all that were read: rows, rejected ones, duplicates of id and content), rows, labels (as
        named in the file), findings (columns that do not hold what their name says), domains (as the file names them),
        classes (the task's), scores, lengths (also in tokens with `count_tokens`), languages,
        splits, origins, targets (rows and texts with one, targets that their text does not contain), duplicates (of id
        and content, of text, near), rejects.

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
    findings = [*map(str, columns.faults(path, limit)), *columns.notes(path, limit)]
    if note := missing_label_note(read_column_names(path), task.columns, path):
        findings.append(note)
    report = _report(path, counts) | {"domains": dict(columns.domains.most_common()), "findings": findings}
    return report | {"near_duplicates": {"rows": near, "among_first": among, "jaccard": _NEAR}}


def _count_all(path: Path, task: TaskSettings, counts: _Counts, columns: ColumnProfile) -> Iterator[Row]:
    """Yield the valid rows of a file, and count everything on the way."""
    accepted = (record for record in read_task_records(path, task) if passes_filter(record, task))
    for result in validate_records(_count_records(accepted, counts), task, (columns.observe,)):
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


def _count_records(records: Iterable[Record], counts: _Counts) -> Iterator[Record]:
    for record in records:
        value = record.values.get("label")
        label = "(none)" if is_blank(value) else label_name(value)
        if not record.error and (label in counts.labels or len(counts.labels) < _MAX_LABELS):
            counts.labels[label] += 1
        origin = str(record.values.get("origin") or ORIGINAL)
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
        counts.classes[task.labels[row.label]] += 1
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


def _report(path: Path, counts: _Counts) -> dict[str, Any]:
    edges = [round(-1 + 2 * i / _SCORE_BINS, 3) for i in range(_SCORE_BINS + 1)]
    bins = [counts.scores[i] for i in range(_SCORE_BINS)]
    return {
        "file": str(path),
        "records": counts.rows + counts.duplicates + counts.reasons.total(),
        "rows": counts.rows,
        "labels": dict(counts.labels.most_common()),
        "classes": dict(counts.classes.most_common()),
        "scores": {"edges": edges, "counts": bins, "rows": sum(bins)},
        **({"tokens": _length_report(counts.tokens)} if counts.tokens else {}),
        "words": _length_report(counts.words),
        "characters": _length_report(counts.characters),
        "languages": dict(counts.languages.most_common()),
        "chinese_rows": counts.chinese,
        "splits": dict(counts.splits.most_common()),
        "origins": dict(counts.origins.most_common()),
        "targets": {
            "rows": counts.targeted,
            "texts": len(counts.texts) if counts.targeted else 0,
            "not_in_text": counts.missing_targets,
            "most_common": dict(counts.targets.most_common(_SHOWN_TARGETS)),
        },
        "duplicates": {"id_and_content": counts.duplicates, "text": counts.same_text},
        "rejected": {
            "rows": counts.reasons.total(),
            "reasons": dict(counts.reasons.most_common()),
            "first": [asdict(reject) for reject in counts.rejects],
        },
    }


def _length_report(lengths: Counter[int]) -> dict[str, Any]:
    """Quantiles, and a histogram up to the 99th percentile whose last bin also holds all longer texts."""
    quantiles = {f"{share:.0%}": length_quantile(lengths, share) for share in _QUANTILES} if lengths else {}
    width = max(1, math.ceil((quantiles.get("99%", 0) + 1) / _LENGTH_BINS))
    bins = Counter[int]()
    for length, count in lengths.items():
        bins[min(_LENGTH_BINS - 1, length // width)] += count
    last = max(bins, default=-1)
    edges = [i * width for i in range(last + 1)]
    return {"quantiles": quantiles, "edges": edges, "counts": [bins[i] for i in range(last + 1)]}


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


def inspection_view(report: Mapping[str, Any]) -> Group:
    """Report of `inspect_file` for the terminal: totals, a bar chart for each kind of count, and its `warnings`."""
    same, near, rejected = report["duplicates"], report["near_duplicates"], report["rejected"]
    parts: list[RenderableType] = [
        f"[bold]{escape(report['file'])}[/bold]: {report['records']} records: {report['rows']} rows, "
        f"{rejected['rows']} rejected, {same['id_and_content']} duplicates of id and content",
        f"of the {report['rows']} rows, {same['text']} repeat a text; {near['rows']} of the first "
        f"{near['among_first']} are near duplicates (Jaccard ≥ {near['jaccard']})",
        *map(escape, report.get("max_length", ())),
    ]
    if (targets := report["targets"])["rows"]:
        parts.append(
            f"targets: {targets['rows']} rows about {targets['texts']} texts, "
            f"{targets['not_in_text']} targets that their text does not contain"
        )
        parts += _bars("most common targets", targets["most_common"])
    for title in ("labels", "classes", "splits", "languages", "origins"):
        if title != "origins" or report[title].keys() - {ORIGINAL}:
            counted = f"{title} in the {report['records']} records" if title in _OF_RECORDS else title
            parts += _bars(counted, dict(list(report[title].items())[:_SHOWN_LABELS]))
    if report["scores"]["rows"]:
        edges = report["scores"]["edges"]
        names = [f"{low:+.1f} … {high:+.1f}" for low, high in pairwise(edges)]
        parts += _bars("scores", dict(zip(names, report["scores"]["counts"], strict=True)))
    for unit in (unit for unit in ("tokens", "words", "characters") if unit in report):
        quantiles = ", ".join(f"{share} {value}" for share, value in report[unit]["quantiles"].items())
        names = [f"≥ {edge}" for edge in report[unit]["edges"]]
        parts += _bars(f"length in {unit}: {quantiles}", dict(zip(names, report[unit]["counts"], strict=True)))
    warnings = [Text(f"warning: {line}") for line in report.get("warnings", [])]
    return Group(*parts, *_reject_lines(rejected), *warnings)


def _bars(title: str, counts: Mapping[str, int]) -> list[RenderableType]:
    if not counts:
        return []
    table = Table(box=None, show_header=False)
    longest = max(1, *counts.values())
    for name, count in counts.items():
        table.add_row(escape(name), f"{count}", Bar(longest, 0, count, width=_WIDTH))
    return [f"[bold]{title}[/bold]", table]


def _reject_lines(rejected: Mapping[str, Any]) -> list[RenderableType]:
    lines = []
    for reject in rejected["first"]:
        value = f" ({reject['found']})" if reject["found"] else ""
        lines.append(Text(f"  line {reject['line']}: {reject['reason']}{value}: {reject['text'][:_WIDTH]}"))
    return [*_bars("rejected", rejected["reasons"]), *lines]

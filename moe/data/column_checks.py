"""Checks of columns that are used because of their name alone: `score`, `id`, `split`, `lang` and `domain`.

A column that would teach something wrong, or lose rows, is a fault; one that only reports use is a note. Both name the
setting that ignores the column.
"""

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from experts.errors import Fault
from moe.data.column_names import label_name, nearest_split
from moe.data.polarity import one_sign, score_finding
from moe.data.schema import Record, Reject, Row, TaskSettings
from moe.data.text_checks import is_blank
from moe.data.validation import REPEATED_ID, UNKNOWN_SPLIT, Result
from moe.kinds.registry import task_kind

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*")
"""A language code, such as `en`, `zh-CN` or `zh_Hans_CN`."""
_FEW_ROWS = 3
"""Fewer rows with an odd value are slips, and no reason to ignore a column."""
_MAX_VALUES, _SHOWN_VALUES, _SHOWN_LENGTH = 1000, 3, 40


class ColumnProfile:
    """What the columns of a file hold, observed row by row; only a few bytes per score stay in memory.

    Args:
        task: columns and labels of the file.
    """

    def __init__(self, task: TaskSettings) -> None:
        self.columns = task.columns
        self._task = task
        self._scores: dict[str, array[float]] = {}
        self._unlabelled: array[float] = array("d")
        self._languages, self._rows_with_language = Counter[str](), 0
        self._repeated_ids, self._rows_with_id = Counter[str](), 0
        self._unknown_splits, self._rows_with_split = Counter[str](), 0
        self._labels: set[str] = set()
        self.domains: Counter[str] = Counter()

    def observe(self, record: Record, result: Result) -> None:
        """Count what the columns of a record hold; an observer for `validate_records`."""
        values = record.values
        if record.error:
            return
        label = None if is_blank(values.get("label")) else label_name(values["label"])
        if label is not None and len(self._labels) < _MAX_VALUES:
            self._labels.add(label)
        self._rows_with_id += values["id"] != f"line-{record.line}"
        self._rows_with_split += not is_blank(values.get("split"))
        if isinstance(result, Reject) and result.reason == REPEATED_ID:
            _count(self._repeated_ids, result.found)
        if isinstance(result, Reject) and result.reason == UNKNOWN_SPLIT:
            _count(self._unknown_splits, result.found)
        if not is_blank(language := values.get("lang")):
            self._rows_with_language += 1
            if not _LANGUAGE.fullmatch(str(language).strip()):
                _count(self._languages, str(language))
        if not is_blank(domain := values.get("domain")):
            _count(self.domains, str(domain).strip())
        if isinstance(result, Row) and result.score is not None and self._task.ask is None:
            self._add_score(result, label)

    def _add_score(self, row: Row, label: str | None) -> None:
        assert row.score is not None
        kind = task_kind(self._task.kind)
        if label is None or not kind.has_labels:  # a label that `score_cuts` derived always agrees with its score
            self._unlabelled.append(row.score)
            return
        name = label if row.label is None else str(kind.answer(row.label, self._task.labels))
        if name in self._scores or len(self._scores) < _MAX_VALUES:
            self._scores.setdefault(name, array("d")).append(row.score)

    def faults(self, path: Path, limit: float) -> list[Fault]:
        """Return the columns that must not be used as they are, each as a fault with the setting that ignores it.

        Args:
            path: the file, for messages.
            limit: share of rows with a senseless value above which a column is refused.
        """
        checks = (self._score_fault(path), self._id_fault(path, limit), self._split_fault(path, limit))
        return [fault for fault in checks if fault is not None]

    def notes(self, path: Path, limit: float) -> list[str]:
        """Return a line for each column that holds something else but does not change what is learned.

        Args:
            path: the file, for messages.
            limit: as for `faults`.
        """
        lines = []
        odd = self._languages.total()
        if odd >= _FEW_ROWS and odd > limit * self._rows_with_language:
            lines.append(
                f"{path.name}: column {self.columns.lang!r} should hold language codes such as en or zh-CN, but {odd} "
                f"of {self._rows_with_language} values are none ({_shown(self._languages)}): correct them, or ignore "
                "the column with `columns: {lang: null}`"
            )
        if not self._scores and one_sign(self._unlabelled):
            has_labels = task_kind(self._task.kind).has_labels
            remedy = "ignore the column with `columns: {score: null}`" if has_labels else "name another column"
            lines.append(
                f"{path.name}: column {self.columns.score!r} should hold polarities from -1 to 1, but its "
                f"{len(self._unlabelled)} scores all have the same sign, as a confidence or a probability has: if they "
                f"are none, {remedy}"
            )
        return lines

    def _score_fault(self, path: Path) -> Fault | None:
        finding = score_finding(self._scores)
        if finding is None:
            return None
        return Fault(
            f"polarities from -1 (negative) to 1 (positive) in column {self.columns.score!r} of {path.name}, in "
            "agreement with its labels",
            finding,
            "ignore the column with `columns: {score: null}`, or replace its values by polarities",
        )

    def _id_fault(self, path: Path, limit: float) -> Fault | None:
        repeated = self._repeated_ids.total()
        if repeated < _FEW_ROWS or repeated <= limit * self._rows_with_id:
            return None
        labels = ", which are the labels" if {*self._repeated_ids} <= self._labels else ""
        return Fault(
            f"another name for each row (of a split) in column {self.columns.id!r} of {path.name}",
            f"{repeated} of {self._rows_with_id} rows that repeat the id of another text "
            f"({_shown(self._repeated_ids)}){labels}",
            "ignore the column with `columns: {id: null}`, or name the right one with `columns: {id: …}`",
        )

    def _split_fault(self, path: Path, limit: float) -> Fault | None:
        unknown = self._unknown_splits.total()
        if unknown < _FEW_ROWS or unknown <= limit * self._rows_with_split:
            return None
        return Fault(
            f"train, validation or test in column {self.columns.split!r} of {path.name}",
            f"{_shown(self._unknown_splits)} in {unknown} of {self._rows_with_split} rows",
            f"{split_remedy(self._unknown_splits)}ignore the column with `columns: {{split: null}}`",
        )


def split_remedy(unknown: Iterable[str]) -> str:
    """Return the first half of a remedy for unknown splits: the nearest known one of each, or how to rename them."""
    near = {value: split for value in unknown if (split := nearest_split(value)) is not None}
    if not near:
        return "rename the values to train, validation or test, or "
    pairs = ", ".join(f"{split} for {value!r}" for value, split in list(near.items())[:_SHOWN_VALUES])
    return f"did you mean {pairs}? Rename the values, or "


def domain_note(
    domains: Mapping[str, int], name: str, declared: Sequence[str], task: TaskSettings, file: str
) -> str | None:
    """Return a line if the domain column of a file names other domains than the one whose rows it holds.

    Args:
        domains: number of rows by the value of the domain column.
        name: the domain that every row gets.
        declared: all domains of the config.
        task: settings of the file.
        file: its name.
    """
    others = Counter({value: count for value, count in domains.items() if value != name})
    column = task.columns.domain
    if not others or column is None or (task.only is not None and "domain" in task.only):
        return None
    undeclared = [value for value in others if value not in declared]
    status = "which the config does not declare" if undeclared else "other domains of the config"
    keep = f"keep this domain's rows with `only: {{domain: [{name}]}}`, or " if name in domains else ""
    return (
        f"{file}: column {column!r} names {_shown(others)} in {others.total()} of {sum(domains.values())} rows, "
        f"{status}; all rows are used for {name}: {keep}ignore the column with `columns: {{domain: null}}`"
    )


def _count(counter: Counter[str], value: str) -> None:
    """Count a value; beyond 1,000 different ones under `…`."""
    counter[value if value in counter or len(counter) < _MAX_VALUES else "…"] += 1


def _shown(values: Counter[str]) -> str:
    """The most common values, shortened."""
    shown = ", ".join(
        repr(value if len(value) <= _SHOWN_LENGTH else value[:_SHOWN_LENGTH] + "…")
        for value, _ in values.most_common(_SHOWN_VALUES)
    )
    return f"{shown} and {len(values) - _SHOWN_VALUES} more" if len(values) > _SHOWN_VALUES else shown

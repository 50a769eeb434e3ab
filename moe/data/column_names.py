"""Names as files spell them: columns and splits without regard to letter case, and labels that are numbers."""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from experts.errors import Fault
from moe.data.schema import Columns
from moe.data.splitting.settings import Split

_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_INTEGRAL = re.compile(r"([+-]?\d+)\.0+")
_LIKELY_NAMES = {
    "text": (
        *(
            "text",
            "texts",
            "sentence",
            "sentences",
            "headline",
            "title",
            "question",
            "content",
            "body",
            "tweet",
            "post",
        ),
        *("标题", "内容", "文本"),
    ),
    "label": (
        *("label", "labels", "sentiment", "class", "category", "stance", "emotion", "polarity", "gold", "target"),
        *("标签", "情感", "类别"),
    ),
    "score": ("score", "scores", "sentiment_score", "sentiment", "polarity", "compound", "得分", "分数"),
}
"""Names under which files often hold a field, without regard to letter case."""


def fold(name: object) -> str:
    """Return a name without letter case and surrounding white space."""
    return str(name).strip().casefold()


def find_column(column: str, names: Sequence[str]) -> str | None:
    """Return the column of a file with this name, else the only one that differs in letter case; None without any."""
    if column in names:
        return column
    near = [name for name in names if fold(name) == fold(column)]
    return near[0] if len(near) == 1 else None


def find_split(value: object) -> Split | None:
    """Return the split that a value names, whatever its letter case; None if it names none."""
    return _SPLIT_NAMES.get(fold(value))


def nearest_split(value: object) -> Split | None:
    """Return the split whose name is closest to an unknown one; None if none is close."""
    near = difflib.get_close_matches(fold(value), _SPLIT_NAMES, n=1, cutoff=0.6)
    return _SPLIT_NAMES[near[0]] if near else None


def label_name(value: object) -> str:
    """Return the name of a label or id as a file holds it: 1, 1.0 and the CSV cell `1.0` are all `1`.

    pandas writes integers as floats if some are missing.
    """
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    name = str(value).strip()
    integral = _INTEGRAL.fullmatch(name)
    return str(int(integral[1])) if integral else name


def find_label(value: object, known: Iterable[str]) -> str | None:
    """Return the known name that a label in a file stands for; None if it is unknown.

    An identical name comes first; then numbers are compared as numbers, and booleans without letter case.
    """
    known = tuple(known)
    name = label_name(value)
    for spelling in (str(value), name):
        if spelling in known:
            return spelling
    if isinstance(value, bool):
        return next((other for other in known if fold(other) == fold(value)), None)
    return next((other for other in known if label_name(other) == name), None)


def nearest_label(name: str, known: Sequence[str]) -> str:
    """Return the known label closest to an unknown one, whatever its letter case; the first one if none is close."""
    folded = {fold(other): other for other in reversed(known)}
    near = difflib.get_close_matches(fold(name), folded, n=1, cutoff=0.5)
    return folded[near[0]] if near else known[0]


def match_columns(
    names: Sequence[str],
    columns: Columns,
    path: Path,
    *,
    text_optional: bool = False,
    answer_fields: Collection[str] = (),
) -> Columns:
    """Return the columns with their names as the file spells them.

    Args:
        names: columns of the file; empty if they are unknown, and its rows are then rejected later.
        columns: names from the settings, which may differ in letter case.
        path: the file, for messages.
        text_optional: do not require a text column.
        answer_fields: fields such as `label` and `score`, a column of one of which is required.

    Raises:
        Fault: if a required column is missing, or several differ from a name in letter case only.
    """
    mapping = columns.mapping()
    spelled = {field: column for field, column in mapping.items() if column in names}
    for field, column in mapping.items():
        if field in spelled:
            continue
        near = [name for name in names if fold(name) == fold(column) and name not in spelled.values()]
        if len(near) > 1:
            raise Fault(
                f"one column {column!r} in {path.name}",
                f"the columns {', '.join(near)}, which differ in letter case only",
                f"choose one with `columns: {{{field}: {near[0]}}}`",
            )
        if near:
            spelled[field] = near[0]
    required = columns.required() - ({columns.text} if text_optional else set())
    missing = sorted(field for field, column in mapping.items() if column in required and field not in spelled)
    if names and missing:
        raise _missing_fault([mapping[field] for field in missing], missing, names, path)
    if names and answer_fields and not set(answer_fields) & spelled.keys():
        fields = [field for field in answer_fields if field in mapping][:1] or [*answer_fields][:1]
        raise _missing_fault([mapping.get(field, field) for field in fields], fields, names, path)
    return columns.model_copy(update=spelled)


def _missing_fault(columns: Sequence[str], fields: Sequence[str], names: Sequence[str], path: Path) -> Fault:
    setting = ", ".join(
        f"{field}: {likely_column(field, column, names) or '…'}" for field, column in zip(fields, columns, strict=True)
    )
    near = [likely_column(field, column, names) for field, column in zip(fields, columns, strict=True)]
    question = f"did you mean {' and '.join(map(str, near))}? Name it" if all(near) else "name the right column"
    return Fault(
        f"a column {' and a column '.join(map(repr, columns))} in {path.name}",
        f"the columns {', '.join(names) or '(none)'}",
        f"{question} with `columns: {{{setting}}}`",
    )


def missing_label_note(names: Sequence[str], columns: Columns, path: Path) -> str | None:
    """Return a line if a file has no column of labels but one with a usual name of it; None otherwise."""
    if columns.label is None or not names or find_column(columns.label, names) is not None:
        return None
    likely = likely_column("label", columns.label, names)
    if likely is None:
        return None
    question = f"did you mean {likely}? Name it with `columns: {{label: {likely}}}`"
    return f"{path.name} has no column {columns.label!r}: {question}"


def likely_column(field: str, column: str, names: Sequence[str]) -> str | None:
    """Return the column of a file that probably holds a field: a usual name of it, else the closest to its own."""
    usual = [name for name in names if fold(name) in _LIKELY_NAMES.get(field, ())]
    folded = {fold(name): name for name in names}
    near = difflib.get_close_matches(fold(column), folded, n=1, cutoff=0.6)
    return next(iter([*usual, *(folded[name] for name in near)]), None)

"""Rows of `moe infer` and `moe generate`, and columns of an input file whose names an output uses too.

Rows are dictionaries, since an object for each of millions of rows would take time. Such columns are carried over, and
those of the output get a prefix.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict, cast

Row = dict[str, object]
"""A row of a stream: a `text` or a `prompt`, or why it has none (`error`), and columns of other names of any type."""
PREFIX = "predicted_"
CARRIED = "input columns"
"""Key under which the values of these columns accompany a row until it is written."""
PREDICTED = (
    *("label", "probabilities", "polarity", "confidence", "experts", "routing_entropy", "truncated", "task"),
    *("abstained", "target_missing", "target_truncated", "windows"),
)
"""Columns of a prediction, see `moe.inference.stream.to_row`."""
GENERATED = ("prompt", "answer", "experts")
ADDED = ("line", "error")
"""Columns that every output has beside those."""


class PredictionRow(TypedDict):
    """A prediction; numbers are rounded to 6 digits.

    Args:
        label: the label; None if the predictor abstained.
        probabilities: of each label, 0 to 1.
        polarity: −1 to 1; None if the model has none for the task.
        confidence: largest probability.
        experts: routing weight of each expert, 0 to 1.
        routing_entropy: of the routing weights, in nats.
        truncated: whether the text was cut.
        task: the task of the labels.
        abstained: whether the predictor abstained, if it may.
        target: entity that the prediction is about, if there is one.
        target_missing: True if the text does not contain the target.
        windows: number of windows that were averaged, if there are several.
        target_truncated: True if the target was too long and was cut.
    """

    label: str | None
    probabilities: dict[str, float]
    polarity: float | None
    confidence: float
    experts: dict[str, float]
    routing_entropy: float
    truncated: bool
    task: str
    abstained: NotRequired[bool]
    target: NotRequired[str]
    target_missing: NotRequired[bool]
    windows: NotRequired[int]
    target_truncated: NotRequired[bool]


class ExpertColumns(TypedDict):
    """Predictions of each expert on its own for one text.

    Args:
        alone: label by expert.
        probability: confidence by expert, rounded to 6 digits.
    """

    alone: dict[str, str]
    probability: dict[str, float]


@dataclass(frozen=True)
class InputColumns:
    """The columns of an input file that an output would otherwise replace.

    Args:
        carried: their names; each keeps its name and values in the output.
        renamed: new names of columns of the output.
    """

    carried: tuple[str, ...] = ()
    renamed: Mapping[str, str] | None = None

    @classmethod
    def of(cls, names: Collection[str], written: Collection[str], used: Mapping[str, str]) -> "InputColumns":
        """Compare the columns of a file with those of an output.

        In csv a mapping becomes a column per entry, so that `experts.news` of the file clashes with `experts`.

        Args:
            names: columns of the file.
            written: columns of the output that are not from the file.
            used: columns of the output that are from the file, with the names that they have there.
        """
        own = set(used.values())
        clashes = {name: name.partition(".")[0] for name in names if name not in own}
        carried = tuple(name for name, first in clashes.items() if first in written)
        renamed = {first: free_name(first, names) for first in clashes.values() if first in written}
        renamed |= {name: column for name, column in used.items() if name in names and column != name}
        return cls(carried, renamed)

    def attach(self, row: Row, values: Mapping[str, object]) -> Row:
        """Return a row that is accompanied by the values of the carried columns."""
        return row | {CARRIED: {name: values.get(name) for name in self.carried}} if self.carried else row

    def restore(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield rows as they are written: with the renamed columns, and the carried ones last."""
        renamed = self.renamed or {}
        for row in rows:
            written = {renamed.get(name, name): value for name, value in row.items() if name != CARRIED}
            yield written | cast(Row, row.get(CARRIED) or {})


def free_name(name: str, names: Collection[str]) -> str:
    """Return a name with as many prefixes as it takes to differ from all `names`."""
    firsts = {other.partition(".")[0] for other in names}
    while name in firsts:
        name = PREFIX + name
    return name

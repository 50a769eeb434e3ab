"""Terminal tables with a column per model or expert, split into blocks where the page is too narrow for all columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from moe.console import Table

PAGE_WIDTH = 100
"""Maximum width of these tables in characters, also on wider terminals."""
SMALL_WEIGHT = 0.01
"""Routing weight below which a dot is printed."""


@dataclass(frozen=True)
class BlockRow:
    """A row: the cells of the fixed columns on the left, and one cell for each of the other columns."""

    left: Sequence[str]
    cells: Sequence[Text]
    begins_section: bool = False


@dataclass(frozen=True)
class ColumnBlocks:
    """A table that prints its columns in as many blocks, one below the other, as the page needs.

    Each block repeats the fixed columns on the left. Blocks have about the same number of columns.

    Args:
        title: title of the first block.
        left: names of the fixed columns.
        names: names of the other columns.
        rows: the rows.
        header_width: characters to which the names of the columns are folded, at spaces and hyphens.
        has_lines: draw lines between columns.
    """

    title: str
    left: Sequence[str]
    names: Sequence[str]
    rows: Sequence[BlockRow]
    header_width: int = 11
    has_lines: bool = True

    def count_blocks(self, width: int) -> int:
        """Return the number of blocks at a width in characters; as many as columns if not even one column fits."""
        borders = 3 if self.has_lines else 2  # characters that a column takes besides its content
        fixed = 2 + sum(
            max(map(cell_len, (name, *(row.left[i] for row in self.rows)))) + borders
            for i, name in enumerate(self.left)
        )
        columns = [size + borders for size in self._column_widths()]
        for count in range(1, len(columns)):
            if all(fixed + sum(columns[part]) <= width for part in self._parts(count)):
                return count
        return max(1, len(columns))

    def _column_widths(self) -> list[int]:
        return [
            max(*map(cell_len, self._fold(name)), *(row.cells[i].cell_len for row in self.rows), 1)
            for i, name in enumerate(self.names)
        ]

    def _fold(self, name: str) -> list[str]:
        return wrap(name, self.header_width, break_long_words=False) or [""]

    def _parts(self, count: int) -> list[slice]:
        size, longer = divmod(len(self.names), count)
        starts = [i * size + min(i, longer) for i in range(count + 1)]
        return [slice(start, end) for start, end in pairwise(starts)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the blocks."""
        width = min(options.max_width, PAGE_WIDTH)
        for i, part in enumerate(self._parts(self.count_blocks(width))):
            title, box = self.title if i == 0 else None, HEAVY_HEAD if self.has_lines else SIMPLE_HEAD
            padding = (0, 1, 0, 1) if self.has_lines else (0, 1, 0, 0)
            table = Table(title=title, title_justify="left", header_style="bold", box=box, padding=padding)
            for name in self.left:
                table.add_column(name)
            for name in self.names[part]:
                table.add_column(Text("\n".join(self._fold(name))), justify="right")
            for k, row in enumerate(self.rows):
                ends = k + 1 < len(self.rows) and self.rows[k + 1].begins_section
                table.add_row(*map(Text, row.left), *row.cells[part], end_section=ends)
            yield from console.render(table, options.update(width=width))


@dataclass(frozen=True)
class RoutingMatrix:
    """Mean routing weights in percent: domains as rows, experts as columns.

    Experts are numbered where their names do not fit next to each other.

    Args:
        weights: by domain and expert, in [0, 1].
    """

    weights: dict[str, dict[str, float]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render with the names of the experts, or with numbers."""
        experts = list(dict.fromkeys(name for weights in self.weights.values() for name in weights))
        title = "mean routing weight of each expert, %"
        named = ColumnBlocks(title, ["texts of"], experts, self._rows(experts, list(self.weights), ".1f"))
        if named.count_blocks(min(options.max_width, PAGE_WIDTH)) == 1:
            yield named
            return
        domains = list(self.weights)
        own = experts[: len(domains)] == domains  # then the number of a row is that of its domain's expert
        labels = [f"{i} {domain}" if own else domain for i, domain in enumerate(domains, 1)]
        numbers = [str(i) for i in range(1, len(experts) + 1)]
        yield ColumnBlocks(title, ["texts of"], numbers, self._rows(experts, labels, ".0f"), has_lines=False)
        if experts != domains:
            yield Text("experts: " + ", ".join(f"{i} {expert}" for i, expert in enumerate(experts, 1)))

    def _rows(self, experts: Sequence[str], labels: Sequence[str], spec: str) -> list[BlockRow]:
        return [
            BlockRow([label], [_weight_text(weights.get(expert, 0.0), spec) for expert in experts])
            for label, weights in zip(labels, self.weights.values(), strict=True)
        ]


def _weight_text(weight: float, spec: str) -> Text:
    if weight < SMALL_WEIGHT:
        return Text("·", style="dim")
    return Text(format(100 * weight, spec), style="bold cyan" if weight >= 0.5 else "dim" if weight < 0.05 else "")

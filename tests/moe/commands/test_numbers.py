"""Tests of numbers on the command line: every numeric option is bounded, and NaN is refused."""

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import typer

from moe.commands import main as cli
from moe.commands.options import check_number

CHECKED_BY_SETTINGS = {"abstain", "port"}
"""Options whose range a setting or a model checks, with a message of its own."""


def numeric_options(group: Any, path: str = "moe") -> Iterator[tuple[str, Any, set[Any]]]:
    """Yield every option of a number, with the command that it belongs to, and its types."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from numeric_options(command, f"{path} {name}")
            continue
        for option in command.params:
            annotation = option.type_descriptor.annotation
            kinds = {annotation, *get_args(annotation)} & {int, float}
            if kinds:
                yield f"{path} {name} --{option.name}", option, kinds


OPTIONS = list(numeric_options(typer.main.get_command(cli.app)))


def test_numeric_options_are_found() -> None:
    assert {option.name for _, option, _ in OPTIONS} >= {"workers", "temperature", "abstain", "level", "rows"}


@pytest.mark.parametrize(
    ("name", "option", "kinds"), OPTIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_number_on_the_command_line_has_bounds_on_both_sides(name: str, option: Any, kinds: set[Any]) -> None:
    if option.name in CHECKED_BY_SETTINGS:
        return
    assert math.isfinite(option.min), name
    assert math.isfinite(option.max), name
    assert float not in kinds or option.callback is not None, "NaN is within any bounds"


def test_check_number_refuses_nan() -> None:
    assert (check_number(0.5), check_number(None)) == (0.5, None)
    with pytest.raises(typer.BadParameter, match="nan"):
        check_number(math.nan)

"""Claims about the front desk's help: it answers at once, for every command, and `docs/commands.md` tells all of it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import cli

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"
GROUP: Any = typer.main.get_command(cli.app)


def commands(group: Any = GROUP, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, by the words that call it."""
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, (*path, name))
        else:
            yield (*path, name), one


COMMANDS = dict(commands())


def row(parameter: Any) -> str:
    """An option or argument as a row of the page."""
    if parameter.param_type_name == "argument":
        name = f"`{parameter.name.upper()}{'…' if parameter.nargs == -1 else ''}`"
    else:
        name = ", ".join(f"`{one}`" for one in parameter.opts)
    return f"| {name} | {parameter.help} |"


def sections() -> dict[str, str]:
    """The page's text by heading."""
    parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    return {head.strip().strip("`"): body for head, _, body in (part.partition("\n") for part in parts)}


@pytest.mark.parametrize("words", [(), ("data",), *COMMANDS], ids=" ".join)
def test_every_help_is_given(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli.app, [*words, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_is_in_the_page_under_its_command(words: tuple[str, ...]) -> None:
    body = sections()["moe " + " ".join(words)].splitlines()
    missing = [row(one) for one in COMMANDS[words].params if one.name != "help" and row(one) not in body]
    assert not missing, "put into docs/commands.md:\n" + "\n".join(missing)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_page_tells_of_no_option_that_is_not_there(words: tuple[str, ...]) -> None:
    told = [line for line in sections()["moe " + " ".join(words)].splitlines() if line.startswith("| `")]
    assert set(told) <= {row(one) for one in COMMANDS[words].params}


def test_the_page_tells_of_every_command_and_of_no_other() -> None:
    told = {name for name in sections() if name.startswith("moe ")}
    assert told == {"moe " + " ".join(words) for words in COMMANDS}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_has_a_help_text(words: tuple[str, ...]) -> None:
    assert all(one.help for one in COMMANDS[words].params)


def test_the_version_is_the_packages() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.strip() == f"finmoe {version('finmoe')}"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, cli\n"
        "sys.argv = ['moe', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'sklearn', 'pandas', 'pyarrow', 'numpy', 'pydantic'}\n"
        "heavy |= {'jinja2', 'matplotlib'}\n"
        "print(*heavy & set(sys.modules), file=sys.stderr, end='')\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert "train-router" in done.stdout
    assert done.stderr == ""

"""Claims about the front desk's help: it answers at once, for every command, and `docs/commands.md` tells all of it."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from moe.commands import main as cli

PAGE = Path(__file__).parents[3] / "docs" / "commands.md"
ROOT = PAGE.parent.parent
GROUP: Any = typer.main.get_command(cli.app)
maker: Any = module_from_spec(spec := spec_from_file_location("maker", ROOT / "docs" / "hooks" / "commands.py"))  # type: ignore[arg-type]
spec.loader.exec_module(maker)  # type: ignore[union-attr]
row = maker.row


COMMANDS: dict[tuple[str, ...], Any] = dict(maker.commands(GROUP))


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


def test_the_page_holds_what_help_says_today() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert maker.written(page, GROUP) == page, "run `make help`"


def test_a_page_without_marks_or_sections_gets_them() -> None:
    page = PAGE.read_text(encoding="utf-8")
    bare = re.sub(r"<!-- help: moe \w.*? -->\n(.*?)<!-- end -->\n", r"\1", page, flags=re.S)
    cut = "".join(part for part in re.split(r"(?m)^(?=## )", bare) if not part.startswith("## `moe verify`"))
    again = maker.written(cut, GROUP)
    assert all(row(one) in again for command in COMMANDS.values() for one in command.params if one.name != "help")
    assert again.count("## `moe verify`") == 1
    assert maker.written(again, GROUP) == again


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_ends_with_examples_that_can_be_typed(words: tuple[str, ...]) -> None:
    lines = maker.shown(COMMANDS[words])
    assert 1 <= len(lines) <= 3, f"give moe {' '.join(words)} an epilog=examples(…)"
    calls = [part.split() for line in lines for part in line.split("|") if part.split()[0] == "moe"]
    assert any(tuple(call[1 : len(words) + 1]) == words for call in calls)
    for line in lines:
        typed = shlex.split(line.split("|")[-1].split(">")[0])
        assert typed[0] == "moe"
        parsed(GROUP, typed[1:])


def parsed(command: Any, typed: list[str]) -> None:
    """Parse words as the command would, and call nothing."""
    while hasattr(command, "commands"):
        command, typed = command.commands[typed[0]], typed[1:]
    with command.make_context(command.name, list(typed), resilient_parsing=False):
        pass


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_has_a_help_text(words: tuple[str, ...]) -> None:
    assert all(one.help for one in COMMANDS[words].params)


def test_the_version_is_the_packages() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.strip() == f"finmoe {version('finmoe')}"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from moe.commands import main\n"
        "sys.argv = ['moe', '--help']\n"
        "try: main.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'sklearn', 'pandas', 'pyarrow', 'numpy', 'pydantic'}\n"
        "heavy |= {'jinja2', 'matplotlib'}\n"
        "print(*heavy & set(sys.modules), file=sys.stderr, end='')\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert "train-router" in done.stdout
    assert done.stderr == ""

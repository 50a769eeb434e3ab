"""Tests for help texts and renamed options: complete, fast to print, and equal to `docs/commands.md`."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import CommandLine, moe, workdir
from module_files import load_module
from typer.testing import CliRunner

from moe.commands import main as cli
from moe.commands.main import OVERVIEW
from moe.commands.options import RENAMED_COMMANDS, RENAMED_OPTIONS

__all__ = ["moe", "workdir"]
PAGE = Path(__file__).parents[3] / "docs" / "commands.md"
ROOT = PAGE.parent.parent
GROUP: Any = typer.main.get_command(cli.app)
hook = load_module(ROOT / "docs" / "hooks" / "commands.py")

COMMANDS: dict[tuple[str, ...], Any] = dict(hook.commands(GROUP))


def sections() -> dict[str, str]:
    """Text of the page by heading."""
    parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    return {head.strip().strip("`"): body for head, _, body in (part.partition("\n") for part in parts)}


def option_rows(command: Any) -> list[str]:
    """Table rows of a command's options and arguments."""
    return [hook.format_parameter(parameter) for parameter in command.params if parameter.name != "help"]


@pytest.mark.parametrize("words", [(), ("data",), *COMMANDS], ids=" ".join)
def test_help_is_printed_for_every_command(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli.app, [*words, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_page_lists_every_option_under_its_command(words: tuple[str, ...]) -> None:
    body = sections()["moe " + " ".join(words)].splitlines()
    missing = [row for row in option_rows(COMMANDS[words]) if row not in body]
    assert not missing, "put into docs/commands.md:\n" + "\n".join(missing)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_page_lists_no_option_that_does_not_exist(words: tuple[str, ...]) -> None:
    listed = [line for line in sections()["moe " + " ".join(words)].splitlines() if line.startswith("| `")]
    assert set(listed) <= set(option_rows(COMMANDS[words]))


def test_page_has_a_section_for_every_command_and_no_other() -> None:
    listed = {name for name in sections() if name.startswith("moe ")}
    assert listed == {"moe " + " ".join(words) for words in COMMANDS}


def test_page_is_up_to_date_with_the_help_texts() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert hook.update_page(page, GROUP) == page, "run `make help`"


def test_hook_adds_missing_marks_and_sections_to_a_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    bare = re.sub(r"<!-- help: moe \w.*? -->\n(.*?)<!-- end -->\n", r"\1", page, flags=re.S)
    cut = "".join(part for part in re.split(r"(?m)^(?=## )", bare) if not part.startswith("## `moe verify`"))
    updated = hook.update_page(cut, GROUP)
    assert all(row in updated for command in COMMANDS.values() for row in option_rows(command))
    assert updated.count("## `moe verify`") == 1
    assert hook.update_page(updated, GROUP) == updated


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_ends_with_one_to_three_valid_examples(words: tuple[str, ...]) -> None:
    lines = hook.example_lines(COMMANDS[words])
    assert 1 <= len(lines) <= 3, f"give moe {' '.join(words)} an epilog=examples(…)"
    calls = [part.split() for line in lines for part in line.split("|") if part.split()[0] == "moe"]
    assert any(tuple(call[1 : len(words) + 1]) == words for call in calls)
    for line in lines:
        arguments = shlex.split(line.split("|")[-1].split(">")[0])
        assert arguments[0] == "moe"
        parse(GROUP, arguments[1:])


def parse(command: Any, arguments: list[str]) -> dict[str, Any]:
    """Parse arguments as the command would, without running it; return the values by parameter."""
    while hasattr(command, "commands"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    with command.make_context(command.name, list(arguments), resilient_parsing=False) as context:
        return dict(context.params)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_has_a_help_text(words: tuple[str, ...]) -> None:
    assert all(parameter.help for parameter in COMMANDS[words].params)


RENAMED = [(command, old, new) for command, names in RENAMED_OPTIONS.items() for old, new in names.items()]


@pytest.mark.parametrize(("command", "old", "new"), RENAMED)
def test_renamed_option_works_with_one_note_and_is_hidden(
    command: str, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(words for words in COMMANDS if words[-1] == command)
    flags = {
        spelling for option in COMMANDS[path].params if getattr(option, "is_flag", False) for spelling in option.opts
    }
    value = [] if new in flags else ["generation"] if new == "--choice-method" else ["3"]
    count = sum(parameter.param_type_name == "argument" for parameter in COMMANDS[path].params)
    arguments = [*path, *["runs/demo/moe-joint", "a text", "another"][:count]]
    current = parse(GROUP, [*arguments, new, *value])
    assert capsys.readouterr().err == ""
    assert parse(GROUP, [*arguments, old, *value]) == current
    assert capsys.readouterr().err.splitlines() == [
        f"{old} is deprecated and will be removed in the next release; use {new}"
    ]
    assert not any(old in parameter.opts for parameter in COMMANDS[path].params)


def test_renamed_option_is_replaced_before_an_equals_sign_but_not_after_a_double_dash() -> None:
    arguments = ["explain", "runs/demo/moe-joint", "--least=7", "--", "--most"]
    values = parse(GROUP, arguments)
    assert (values["min_count"], values["arguments"]) == (7, ["runs/demo/moe-joint", "--most"])


@pytest.mark.parametrize(("old", "new"), RENAMED_COMMANDS.items())
def test_renamed_command_has_the_options_of_its_new_name_and_is_hidden(old: str, new: str) -> None:
    alias = GROUP.commands[old]
    assert alias.hidden
    assert (old,) not in COMMANDS
    assert option_rows(alias) == option_rows(COMMANDS[tuple(new.split())])


def test_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.strip() == f"finmoe {version('finmoe')}"


def test_overview_lists_every_command_with_its_module_and_help() -> None:
    apps = {path.stem for path in (Path(cli.__file__).parent).glob("*.py")} - {
        "__init__",
        "main",
        "options",
        "streams",
    }
    assert {topic for topic, _ in OVERVIEW.values()} == apps
    for topic in apps:
        group = typer.Typer()
        group.add_typer(import_module(f"moe.commands.{topic}").app)
        commands = typer.main.get_group(group).commands
        assert commands.keys() == {name for name, (module, _) in OVERVIEW.items() if module == topic}
        for name, command in commands.items():
            assert OVERVIEW[name][1] == (
                "" if command.hidden else " ".join((command.help or "").split("\n\n")[0].split())
            )


def test_help_imports_no_module_of_a_command() -> None:
    code = (
        "import sys; from moe.commands import main\n"
        "sys.argv = ['moe', '--help']\n"
        "try: main.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(*sorted(name for name in sys.modules if name.startswith('moe.commands.')), file=sys.stderr, end='')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stderr == "moe.commands.main moe.commands.streams"


def test_help_imports_no_heavy_package() -> None:
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
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert "train-router" in result.stdout
    assert result.stderr == ""


def test_infer_still_accepts_a_run_folder_and_a_folder_of_shards_as_out_with_a_note(
    moe: CommandLine, workdir: Path
) -> None:
    for arguments, note in (
        (
            ("x", "--out", "none"),
            "--out none, which is no file, is deprecated and will be removed in the next release;",
        ),
        (("--engine", "local", "--file", "none", "--out", "parts"), "--out with --engine is deprecated"),
    ):
        code, _, err = moe("infer", *arguments)
        assert code == 2
        assert note in err
        assert "use --run none" in err or "use --out-dir" in err
    assert "a mixture in none" in moe("infer", "x", "--out", "none")[2]

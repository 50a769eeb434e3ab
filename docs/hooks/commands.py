"""Writes what `--help` says into docs/commands.md, between its marks: `make help`. `tests/test_cli_help.py` compares.

Prose and further examples around the marks are written by hand. A command without marks gets them, one without a
section gets a section.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "commands.md"
HEADS = r"\| (?:argument, )?option \| meaning \|\n\|---\|---\|\n"
Words = tuple[str, ...]


def commands(group: Any, path: Words = ()) -> Iterator[tuple[Words, Any]]:
    """Every command that does something, by the words that call it."""
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, (*path, name))
        else:
            yield (*path, name), one


def row(parameter: Any) -> str:
    """An option or argument as a row of the page."""
    if parameter.param_type_name == "argument":
        name = f"`{parameter.name.upper()}{'…' if parameter.nargs == -1 else ''}`"
    else:
        name = ", ".join(f"`{one}`" for one in parameter.opts)
    return f"| {name} | {parameter.help} |"


def shown(command: Any) -> list[str]:
    """The examples that a command's help ends with."""
    found = re.search(r"```bash\n(.*?)\n```", command.epilog or "", re.S)
    return found[1].splitlines() if found else []


def told(command: Any) -> str:
    """A command's help as a part of the page: its examples, its options."""
    own = [one for one in command.params if one.name != "help"]
    head = "argument, option" if any(one.param_type_name == "argument" for one in own) else "option"
    lines = ["```bash", *shown(command), "```", "", f"| {head} | meaning |", "|---|---|", *map(row, own)]
    return "\n".join(lines) + "\n"


def overview(group: Any) -> str:
    """Every command with its first sentence, and the options before the command."""
    lines = ["| command | does |", "|---|---|"]
    for words, one in commands(group):
        anchor = "-".join(("moe", *words))
        lines.append(f"| [`moe {' '.join(words)}`](#{anchor}) | {' '.join(one.help.split())} |")
    options = [one for one in group.params if one.name != "help"]
    return "\n".join([*lines, "", "| before the command | meaning |", "|---|---|", *map(row, options)]) + "\n"


def written(page: str, group: Any) -> str:
    """The page with what `--help` says today."""
    page = _filled(page, "moe", overview(group))
    for words, one in commands(group):
        name = " ".join(("moe", *words))
        if f"<!-- help: {name} -->" not in page:
            page = _marked(page, name, one)
        page = _filled(page, name, told(one))
    return page


def _filled(page: str, name: str, body: str) -> str:
    marks = f"<!-- help: {name} -->\n"
    return re.sub(rf"({re.escape(marks)}).*?(<!-- end -->)", lambda found: found[1] + body + found[2], page, flags=re.S)


def _marked(page: str, name: str, command: Any) -> str:
    """The page with marks for this command: in place of a table of options, else at the end of its section."""
    marks, head = f"<!-- help: {name} -->\n<!-- end -->\n", f"## `{name}`\n"
    if head not in page:
        return f"{page.rstrip()}\n\n{head}\n{' '.join(command.help.split())}\n\n{marks}"
    before, after = page.split(head)
    body, *rest = re.split(r"(?m)^(?=## )", after, maxsplit=1)
    changed = re.sub(rf"{HEADS}(?:\| .*\n)*", lambda _: marks, body, count=1)
    body = changed if marks in changed else f"{body.rstrip()}\n\n{marks}\n"
    return before + head + body + "".join(rest)


def main() -> None:
    """Write the page."""
    sys.path.insert(0, str(ROOT))
    from moe.commands import main as cli

    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(written(page, typer.main.get_command(cli.app)), encoding="utf-8")


if __name__ == "__main__":
    main()

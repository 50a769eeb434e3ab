"""Write the help texts of `moe` into docs/commands.md, between marks: `make help`.

The text around the marks is written by hand. Marks are added for a command that has none, and a section if it has none.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "commands.md"
TABLE_HEAD = r"\| (?:argument, )?option \| meaning \|\n\|---\|---\|\n"
Words = tuple[str, ...]


def commands(group: Any, path: Words = ()) -> Iterator[tuple[Words, Any]]:
    """Yield every command that is not hidden, with the words that call it."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def format_parameter(parameter: Any) -> str:
    """Format an option or argument as a table row."""
    if parameter.param_type_name == "argument":
        name = f"`{parameter.name.upper()}{'…' if parameter.nargs == -1 else ''}`"
    else:
        name = ", ".join(f"`{spelling}`" for spelling in (*parameter.opts, *parameter.secondary_opts))
    return f"| {name} | {parameter.help} |"


def example_lines(command: Any) -> list[str]:
    """Return the examples at the end of a command's help."""
    block = re.search(r"```bash\n(.*?)\n```", command.epilog or "", re.S)
    return block[1].splitlines() if block else []


def format_command(command: Any) -> str:
    """Format a command's help: examples, then arguments and options."""
    parameters = [parameter for parameter in command.params if parameter.name != "help"]
    has_arguments = any(parameter.param_type_name == "argument" for parameter in parameters)
    head = "argument, option" if has_arguments else "option"
    lines = ["```bash", *example_lines(command), "```", "", f"| {head} | meaning |", "|---|---|"]
    return "\n".join([*lines, *map(format_parameter, parameters)]) + "\n"


def format_overview(group: Any) -> str:
    """Format the table of all commands and the options before the command."""
    lines = ["| command | does |", "|---|---|"]
    for words, command in commands(group):
        anchor = "-".join(("moe", *words))
        lines.append(f"| [`moe {' '.join(words)}`](#{anchor}) | {' '.join(command.help.split())} |")
    options = [parameter for parameter in group.params if parameter.name != "help"]
    lines += ["", "| before the command | meaning |", "|---|---|", *map(format_parameter, options)]
    return "\n".join(lines) + "\n"


def update_page(page: str, group: Any) -> str:
    """Return the page with the current help texts."""
    page = _fill_marks(page, "moe", format_overview(group))
    for words, command in commands(group):
        name = " ".join(("moe", *words))
        if f"<!-- help: {name} -->" not in page:
            page = _add_marks(page, name, command)
        page = _fill_marks(page, name, format_command(command))
    return page


def _fill_marks(page: str, name: str, body: str) -> str:
    start = f"<!-- help: {name} -->\n"
    return re.sub(rf"({re.escape(start)}).*?(<!-- end -->)", lambda marks: marks[1] + body + marks[2], page, flags=re.S)


def _add_marks(page: str, name: str, command: Any) -> str:
    """Add marks for a command: in place of a table of options, else at the end of its section."""
    marks, heading = f"<!-- help: {name} -->\n<!-- end -->\n", f"## `{name}`\n"
    if heading not in page:
        return f"{page.rstrip()}\n\n{heading}\n{' '.join(command.help.split())}\n\n{marks}"
    before, after = page.split(heading)
    body, *rest = re.split(r"(?m)^(?=## )", after, maxsplit=1)
    changed = re.sub(rf"{TABLE_HEAD}(?:\| .*\n)*", lambda _: marks, body, count=1)
    body = changed if marks in changed else f"{body.rstrip()}\n\n{marks}\n"
    return before + heading + body + "".join(rest)


def main() -> None:
    """Update docs/commands.md."""
    sys.path.insert(0, str(ROOT))
    from moe.commands import main as command_line

    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(update_page(page, typer.main.get_command(command_line.app)), encoding="utf-8")


if __name__ == "__main__":
    main()

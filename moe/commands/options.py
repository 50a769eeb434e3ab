"""What several commands share: their options, the run that these name, and how content is shown.

What a command does with them is its own.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from moe.runs.workspace import Workspace

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A YAML file; configs/demo.yaml by default.", show_default=False)
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The run folder; runs/NAME of the config by default.", show_default=False),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Lay one setting over the config, e.g. stages.joint.lr=1e-4.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Do finished steps again.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint; keep finished steps.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Plain JSON instead of tables.")]


def resolve_model(named: Path | None) -> Path | None:
    """A run's folder stands for its best mixture, wherever a model is asked for."""
    from moe.runs.best import resolve_model_folder

    return None if named is None else resolve_model_folder(named)


OptionalModelArgument = Annotated[
    Path | None,
    typer.Argument(
        help="A mixture's, an expert's or a run's folder; the run of --config by default.",
        show_default=False,
        callback=resolve_model,
    ),
]
ModelArgument = Annotated[
    Path, typer.Argument(help="A mixture's, an expert's or a run's folder.", show_default=False, callback=resolve_model)
]
DataOption = Annotated[Path | None, typer.Option("--data", help="A labelled file instead of the run's test rows.")]
DomainOption = Annotated[
    str | None, typer.Option("--domain", "-d", help="Only this domain; with --data, the domain of the file.")
]
SpreadsheetOption = Annotated[
    bool, typer.Option("--spreadsheet", help="In a .csv, put a ' before texts that a spreadsheet would run.")
]
RoutingOption = Annotated[str, typer.Option("--routing", help="soft blends experts, hard asks the most probable one.")]


def examples(*lines: str) -> str:
    """What a command's help ends with: one to three lines as they are typed."""
    return "Examples:\n\n```bash\n" + "\n".join(lines) + "\n```"


def is_secondary_process() -> bool:
    """Whether this is one of several processes, and not the one that speaks."""
    return os.environ.get("RANK", "0") != "0"


def open_workspace(config: Path | None, out: Path | None, sets: list[str] | None) -> "Workspace":
    """The run that `--config`, `--out` and `--set` name."""
    from moe.config.run import find_config, load_run
    from moe.runs.workspace import Workspace

    run = load_run(config, sets or ())
    return Workspace(run, out or Path("runs") / find_config(config).stem)


def print_text(content: Any, told: str, plain: bool) -> None:
    """What a step says of itself in a line, in a pipe too; as JSON where that is asked."""
    import json

    typer.echo(json.dumps(content, ensure_ascii=False) if plain else told)


def print_view(content: Any, view: Any, plain: bool) -> None:
    """Content as a view on a terminal, as JSON where that is asked or nobody looks."""
    import json

    from rich.console import Console

    if plain or not sys.stdout.isatty():
        typer.echo(json.dumps(content, ensure_ascii=False))
    else:
        Console().print(view(content))

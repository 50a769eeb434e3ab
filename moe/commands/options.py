"""Options that several commands share, renamed options, and the output of results."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from moe.commands.main import RESOURCES

if TYPE_CHECKING:
    from moe.runs.workspace import Workspace

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Run config (YAML); default: configs/demo.yaml.", show_default=False),
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", help="Run folder; default: runs/NAME for a config NAME.yaml.", show_default=False),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting, e.g. stages.joint.lr=1e-4 (repeatable).")
]
AbstainOption = Annotated[
    float | None,
    typer.Option("--abstain", help="Target accuracy: give no label where the confidence is too low to reach it."),
]
LabelSetsOption = Annotated[
    bool,
    typer.Option(
        "--label-sets", help="Add the set of labels that holds the true one at the level of `calibrate --conformal`."
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Run finished steps again, instead of keeping them.")
]
OverwriteFileOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing output; without it, one that exists is refused.")
]
OverwriteFolderOption = Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing folder.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue a step that is under way from its last checkpoint.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def check_number(value: float | None) -> float | None:
    """Option callback: refuse NaN, which every comparison with `min` and `max` lets pass."""
    if value is not None and value != value:
        raise typer.BadParameter("nan is not a number")
    return value


DEFAULT_MODEL_HELP = "Mixture, expert or run folder, or `ready`; default: the run in runs/demo, else `ready`."
OptionalModelArgument = Annotated[
    Path | None,
    typer.Argument(help="Mixture, expert or run folder; default: the run of --config.", show_default=False),
]
ModelArgument = Annotated[Path, typer.Argument(help="Mixture, expert or run folder.", show_default=False)]
DataOption = Annotated[Path | None, typer.Option("--data", help="Labelled file to use instead of the run's test rows.")]
DomainOption = Annotated[
    str | None, typer.Option("--domain", "-d", help="Only this domain; with --data, the domain of the file.")
]
DataTypeOption = Annotated[
    str | None,
    typer.Option("--data-type", help="Route to the experts of this domain only; default: the router decides."),
]
TextColumnOption = Annotated[str, typer.Option("--text-column", help="Text column of the file.")]
EncodingOption = Annotated[
    str | None,
    typer.Option("--encoding", help="Encoding of the file's text, e.g. gb18030; default: UTF-8, or by its mark."),
]
SeparatorOption = Annotated[
    str | None, typer.Option("--separator", help="Separator of a CSV file, e.g. `;` or `tab`; default: detected.")
]
TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target", help="Entity of the text whose sentiment to predict (repeatable); each text, each target."
    ),
]
TaskOption = Annotated[str | None, typer.Option("--task", help="Task to predict, if there are several.")]
BatchTokensOption = Annotated[
    int | None,
    typer.Option("--batch-tokens", min=1, max=10**8, help="Tokens per forward pass; default: chosen for the device."),
]
RoutingOption = Annotated[
    str,
    typer.Option(
        "--routing", help="soft mixes the experts by routing weight; hard uses only the most probable expert."
    ),
]
RoutingChoiceOption = Annotated[
    str,
    typer.Option(
        "--routing",
        help="soft mixes the experts by routing weight, pruned drops small weights, hard uses only the most probable "
        "expert; auto is what was chosen when the model was saved.",
    ),
]
RuntimeOption = Annotated[
    str,
    typer.Option(
        "--runtime", help="onnx predicts with the model's graph, int8 with its INT8 graph, torch with PyTorch."
    ),
]
SpreadsheetOption = Annotated[
    bool,
    typer.Option("--spreadsheet", help="Escape texts in CSV output that a spreadsheet would run as formulas."),
]


_RUN_FOLDER, _OUTPUT_FOLDER = {"--out": "--run", "-o": "--run"}, {"--out": "--out-dir"}
_RUN_COMMANDS = "train-expert pretrain merge train-router instruct run compare calibrate ablate drift plan augment"
_FOLDER_COMMANDS = "report sweep export sample add remove swap"
RENAMED_OPTIONS = {
    **dict.fromkeys(_RUN_COMMANDS.split(), _RUN_FOLDER),
    **dict.fromkeys(_FOLDER_COMMANDS.split(), _OUTPUT_FOLDER),
    "evaluate": {
        **_RUN_FOLDER,
        "--alone": "--per-expert",
        "--bare": "--no-experts",
        "--by": "--choice-method",
        "--most": "--max-questions",
    },
    "explain": {"--least": "--min-count", "--most": "--max-texts"},
}
"""By command: old and new spelling of its renamed options. The old ones are removed in the next release.

`--out` is the file of the answers, `--out-dir` a folder that is written, `--run` the folder of a run.
"""

RENAMED_COMMANDS = {"augment": "data augment"}
"""Old and new names of commands. The old ones are removed in the next release."""


class RenamedOptions(TyperCommand):
    """Command that still accepts the old spelling of its renamed options, with a deprecation note."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments after replacing old spellings."""
        return super().parse_args(ctx, self._replace_old_spellings(args))

    def _replace_old_spellings(self, args: Sequence[str]) -> list[str]:
        renamed = RENAMED_OPTIONS.get(self.name or "", {})
        end = args.index("--") if "--" in args else len(args)
        current = list(args)
        for i, (old, equals, value) in enumerate(arg.partition("=") for arg in args[:end]):
            if new := renamed.get(old):
                current[i] = f"{new}{equals}{value}"
                note_renamed(old, new)
        return current


def note_renamed(old: str, new: str) -> None:
    """Print that an option is deprecated, and what to write instead."""
    typer.echo(f"{old} is deprecated and will be removed in the next release; use {new}", err=True)


class RenamedCommand(RenamedOptions):
    """Command under its old name, with a deprecation note."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deprecated = f"Use 'moe {RENAMED_COMMANDS[self.name or '']}' instead."


def examples(*lines: str) -> str:
    """Format one to three example calls, which end the help text of a command."""
    return "Examples:\n\n```bash\n" + "\n".join(lines) + "\n```"


def open_workspace(
    config: Path | None, folder: Path | None, sets: list[str] | None, *, reads_only: bool = False
) -> "Workspace":
    """Return the workspace of the run that `--config`, `--run` and `--set` describe, locked until the command ends.

    Args:
        reads_only: the command writes nothing there, so that it needs no lock.

    Raises:
        Fault: if the config is invalid, or another process writes in the run's folder.
    """
    from moe.config.files import default_run_folder
    from moe.config.run import load_run
    from moe.runs.locking import run_lock

    run, folder = load_run(config, sets or ()), folder or default_run_folder(config)
    if not reads_only:
        RESOURCES.get().enter_context(run_lock(folder))
    from moe.runs.workspace import Workspace  # slow to import: a second run is refused before

    return Workspace(run, folder)


def print_text(content: Any, text: str, as_json: bool) -> None:
    """Print a result as text, or its content as one line of JSON."""
    from moe.console import print_json

    print_json(content) if as_json else typer.echo(text)


def print_view(content: Any, view: Any, as_json: bool) -> None:
    """Print content: formatted by `view` on a terminal, as one line of JSON in a pipe or if `as_json`."""
    from rich.console import Console

    from moe.console import print_json

    if as_json or not sys.stdout.isatty():
        print_json(content)
    else:
        Console().print(view(content))


def split_model(arguments: Sequence[str]) -> tuple[Path | None, Sequence[str]]:
    """Split arguments into a model folder, if the first one names it, and the texts after it.

    The first argument names a model if it is a folder or `ready`, or a path without spaces that does not exist: a text
    of one word with a slash is more likely a mistyped path.
    """
    first = arguments[0] if arguments else ""
    if first == "ready" or ("/" in first and " " not in first) or (first and len(first) < 256 and Path(first).is_dir()):
        return Path(first), arguments[1:]
    return None, arguments

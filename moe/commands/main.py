"""The `moe` app: assembles the commands, sets up the process, and prints faults as one line.

This is the only module that catches faults.
"""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from moe.commands.options import is_secondary_process
from moe.commands.overview import MARKUP, LazyGroup
from moe.commands.streams import replace_unencodable

app = typer.Typer(
    name="moe",
    help="FinMoE: a mixture of domain experts for financial text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    cls=LazyGroup,
)

DISTRIBUTED_COMMANDS = ("train-expert", "pretrain", "merge", "train-router", "instruct", "run")
"""Commands that torchrun or accelerate may start in several processes."""

TRAINING_COMMANDS = [[name] for name in ("train-expert", "pretrain", "train-router", "instruct", "run")]
"""Commands that keep finished steps, as the first of the arguments."""
MAIN_PROCESS_GRACE = 10.0
"""Seconds that other processes wait before they print a fault: a fault that all ranks share is printed by rank 0, and
its exit makes the launcher stop the others."""


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"finmoe {version('finmoe')}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results and errors only, no progress and no status lines.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show log messages of the underlying libraries.")
    ] = False,
) -> None:
    """FinMoE: a mixture of domain experts for financial text."""
    if quiet or verbose:
        from moe.console import set_verbosity

        set_verbosity(quiet=quiet, verbose=verbose)
    world_size = os.environ.get("WORLD_SIZE", "1")
    if world_size != "1" and ctx.invoked_subcommand not in DISTRIBUTED_COMMANDS:
        from moe.errors import Fault

        remedy = f"start it without torchrun or accelerate; these run distributed: {', '.join(DISTRIBUTED_COMMANDS)}"
        raise Fault(f"one process for moe {ctx.invoked_subcommand}", world_size, remedy)


def main() -> None:
    """Run a command; exit with 2 after a fault (printed as one line), 130 after Ctrl-C, 143 after SIGTERM."""
    replace_unencodable((sys.stdout, sys.stderr))
    if is_secondary_process():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (stays open until the process ends)
    # OpenMP threads that spin for long are very slow where cores are shared
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        app()
    except OSError as error:
        _report_os_error(error)
    except Exception as error:
        from moe.errors import Fault, Interrupted, access_fault

        if isinstance(error, PermissionError):  # a file of another user, wherever it was opened
            error = access_fault(error, Path.cwd())
        if isinstance(error, Fault):
            if is_secondary_process():
                time.sleep(MAIN_PROCESS_GRACE)
            typer.echo(f"moe: {error}", err=True)
            sys.exit(2)
        if isinstance(error, Interrupted):
            # with both, a training command continues what `--overwrite` had begun, and keeps what it had finished
            dropped = ("--resume",) if sys.argv[1:2] in TRAINING_COMMANDS else ("--resume", "--overwrite")
            command = shlex.join(["moe", *[word for word in sys.argv[1:] if word not in dropped]])
            flag = "" if sys.argv[1:2] in (["sweep"], ["ablate"]) else " --resume"  # these two always resume
            if not is_secondary_process():
                typer.echo(f"moe: stopped; the last checkpoint is complete. Resume with: {command}{flag}", err=True)
            sys.exit(128 + error.number)
        raise


def _report_os_error(error: OSError) -> NoReturn:
    """Print an error of the disk, a pipe or a network as one line, and exit with 2."""
    from moe.console import is_verbose
    from moe.errors import Fault

    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports it again at the end
    if is_verbose():
        raise error
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    fault = Fault(
        f"files that can be read and written at {' and '.join(names)}" if names else "an output that can be written",
        error.strerror or str(error) or type(error).__name__,
        "check that the file exists, its permissions and the free disk space, and run the command again; "
        "moe --verbose shows where it happened",
    )
    typer.echo(f"moe: {fault}", err=True)
    sys.exit(2)

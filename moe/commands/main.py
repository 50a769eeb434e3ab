"""The front desk: what people type, told to `moe`, and faults told back in one line.

Only this module catches faults. The commands stand in `moe/commands/`; everything heavy is imported inside them, so
that `--help` answers at once.
"""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from moe.commands import data, train
from moe.commands import evaluate as measure
from moe.commands import experts as living
from moe.commands import export as keep
from moe.commands import infer as ask
from moe.commands import inspect as look
from moe.commands import serve as serving
from moe.commands.options import is_secondary_process

app = typer.Typer(
    name="moe",
    help="FinMoE: a mixture of domain experts for financial text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for room in (train, ask, serving, measure, living, look, keep, data):
    app.add_typer(room.app)

DISTRIBUTED_COMMANDS = ("train-expert", "pretrain", "merge", "train-router", "instruct", "run")
"""Commands that torchrun or accelerate may start in several processes."""

MAIN_PROCESS_GRACE = 10.0
"""Seconds that another process leaves the first to tell a fault of both: its end is what the launcher ends all for."""


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"finmoe {version('finmoe')}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing beside the result: no bar, no note; errors stay.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the libraries below log, too.")] = False,
) -> None:
    """FinMoE: a mixture of domain experts for financial text."""
    if quiet or verbose:
        from moe.console import set_verbosity

        set_verbosity(quiet, verbose)
    several = os.environ.get("WORLD_SIZE", "1")
    if several != "1" and ctx.invoked_subcommand not in DISTRIBUTED_COMMANDS:
        from moe.errors import Fault

        remedy = f"start it without torchrun or accelerate; {', '.join(DISTRIBUTED_COMMANDS)} run in several"
        raise Fault(f"one process for moe {ctx.invoked_subcommand}", several, remedy)


def main() -> None:
    """Run a command; a fault is one line and exit code 2, Ctrl-C is 130, SIGTERM 143."""
    if is_secondary_process():
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 — as long as the process lives
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # threads that spin for long crawl where cores are shared
    try:
        app()
    except Exception as error:
        from moe.errors import Fault, Interrupted

        if isinstance(error, Fault):
            if is_secondary_process():
                time.sleep(MAIN_PROCESS_GRACE)  # who is still there after it has a fault of its own
            typer.echo(f"moe: {error}", err=True)
            sys.exit(2)
        if isinstance(error, Interrupted):
            again = shlex.join(["moe", *[word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]])
            flag = "" if sys.argv[1:2] in (["sweep"], ["ablate"]) else " --resume"  # these always go on
            if not is_secondary_process():
                typer.echo(f"moe: stopped; the last checkpoint is whole. Go on with: {again}{flag}", err=True)
            sys.exit(128 + error.number)
        raise

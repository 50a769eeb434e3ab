"""The `moe` app: its commands, the setup of the process, and faults printed as one line.

A command's module is imported when the command is used: `moe --help` shows a table instead. This is the only module
that catches faults.
"""

import os
import shlex
import sys
import time
from contextlib import ExitStack
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from moe.commands.streams import replace_unencodable

OVERVIEW: dict[str, tuple[str, str]] = {
    "train-expert": (
        "train",
        "Train the LoRA expert of one domain (or `--all`); writes `experts/NAME/` in PEFT's format.",
    ),
    "pretrain": (
        "train",
        "Pre-train a language model's role experts on plain text; writes `experts/NAME/` in PEFT's format.",
    ),
    "merge": (
        "train",
        "Combine experts on one backbone under a router that starts as `--router` says; writes `moe-init/`.",
    ),
    "train-router": (
        "train",
        "Train the router on frozen experts, then all of them jointly; writes `router-warmup/` and `moe-joint/`.",
    ),
    "instruct": (
        "train",
        "Instruction-tune a language model's mixture on the questions of its domains; writes `moe-instruct/`.",
    ),
    "distill": (
        "train",
        "Have large teachers label texts, then train the mixture on their soft labels too, as `moe run` does.",
    ),
    "run": (
        "train",
        "Run all steps: train every expert, merge, train the router, compare the models on the test rows.",
    ),
    "infer": ("infer", "Classify texts: label, probabilities, polarity, confidence, routing weights."),
    "explain": (
        "infer",
        "Explain predictions: words for and against the label, words behind the routing, each expert's prediction.",
    ),
    "generate": ("infer", "Generate answers to prompts with a language model's mixture, and show the routing weights."),
    "serve": ("serve", "Serve models over HTTP: JSON API and web page."),
    "evaluate": (
        "evaluate",
        "Evaluate a model: metrics per class and domain, routing; writes `evaluation/MODEL/` with every prediction.",
    ),
    "compare": (
        "evaluate",
        "Compare two models on the same rows: metrics, difference with 95 % interval, and whether it is significant.",
    ),
    "calibrate": (
        "evaluate",
        "Fit a model's temperatures, abstention thresholds and label sets on validation rows, into `calibration.json`.",
    ),
    "report": (
        "evaluate",
        "Write a run's HTML report and model card: data, metrics, routing, calibration, errors, training curves.",
    ),
    "sweep": ("evaluate", "Train and evaluate one run over many settings, seeds or folds; called again, it resumes."),
    "ablate": (
        "evaluate",
        "Measure what each part of a mixture contributes; writes `ablation/`; called again, it resumes.",
    ),
    "signal": (
        "signal",
        "Build a daily signal per ticker from dated predictions and evaluate it on prices; no trading, no advice.",
    ),
    "drift": (
        "experts",
        "Test a file for drift from the training data, overall and by month: routing weights, confidence, distance.",
    ),
    "expert": ("experts", "List, add, remove or swap the experts of a trained mixture."),
    "check": (
        "inspect",
        "Check a run config or a sweep file: all its errors at once, and warnings about its rows; loads no weights.",
    ),
    "plan": (
        "inspect",
        "Estimate a run's time, memory and parameters from a few steps of each stage, and what makes it shorter.",
    ),
    "verify": (
        "inspect",
        "Verify files against their hashes and tensors against the card; exits with 2 on any mismatch.",
    ),
    "sample": ("inspect", "Write the synthetic sample data, made to try the pipeline and not to report accuracy."),
    "export": (
        "export",
        "Export a model: PEFT adapters, merged weights, its graph, ONNX, OpenVINO, or a folder for the hub.",
    ),
    "augment": ("data", ""),
    "data": ("data", "Inspect, augment and label data before training."),
}
"""By command its module in `moe.commands` and the first paragraph of its help; a hidden command has none."""
MARKUP: Final = "markdown"


RESOURCES: ContextVar[ExitStack] = ContextVar("resources")
"""What the running command holds until it ends, such as the lock of its run folder."""


class LazyCommands(dict[str, Any]):
    """The commands by name; the module of a command is imported when the command is read."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(OVERVIEW))

    def __getitem__(self, name: str) -> Any:
        """Return a command.

        Raises:
            KeyError: if there is no such command.
        """
        if super().__getitem__(name) is None:
            topic = typer.Typer(rich_markup_mode=MARKUP, pretty_exceptions_enable=False)
            topic.add_typer(import_module(f"moe.commands.{OVERVIEW[name][0]}").app)
            self.update(typer.main.get_group(topic).commands)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a command, or the default if there is no such command."""
        known: bool = name in self
        return self[name] if known else default

    def values(self) -> Any:
        """Return all commands."""
        return {name: self[name] for name in self}.values()

    def items(self) -> Any:
        """Return all commands with their names."""
        return {name: self[name] for name in self}.items()


class LazyGroup(TyperGroup):
    """The group of all commands, whose help imports none of them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = LazyCommands()
        self._shows_help = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return list(OVERVIEW)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or only its help while the help of all is shown."""
        if self._shows_help and cmd_name in OVERVIEW:
            text = OVERVIEW[cmd_name][1]
            return TyperCommand(cmd_name, help=text, hidden=not text, rich_markup_mode=MARKUP)
        return self.commands.get(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """Run a command, and release what it holds when it ends."""
        with ExitStack() as resources:
            before = RESOURCES.set(resources)
            try:
                return super().invoke(ctx)
            finally:
                RESOURCES.reset(before)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        self._shows_help = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._shows_help = False


app = typer.Typer(
    name="moe",
    help="FinMoE: a mixture of domain experts for financial text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    cls=LazyGroup,
)

DISTRIBUTED_COMMANDS = ("train-expert", "pretrain", "merge", "train-router", "instruct", "distill", "run")
"""Commands that torchrun or accelerate may start in several processes."""

TRAINING_COMMANDS = [[name] for name in ("train-expert", "pretrain", "train-router", "instruct", "distill", "run")]
"""Commands that keep finished steps, as the first of the arguments."""
MAIN_PROCESS_GRACE = 10.0
"""Seconds that other processes wait before they print a fault: a fault that all ranks share is printed by rank 0, and
its exit makes the launcher stop the others."""


def is_secondary_process() -> bool:
    """Whether this is a process of rank > 0, which prints nothing."""
    return os.environ.get("RANK", "0") != "0"


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

"""The commands of `moe`, which are imported when one of them is used: `moe --help` shows this table instead."""

from contextlib import ExitStack
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

OVERVIEW: dict[str, tuple[str, str]] = {
    "train-expert": (
        "train",
        "Train the LoRA expert of one domain (or `--all`); writes `experts/NAME/` in PEFT's format.",
    ),
    "pretrain": (
        "train",
        "Pre-train a language model's role experts on plain text; writes `experts/NAME/` in PEFT's format.",
    ),
    "merge": ("train", "Combine experts on one backbone under a newly initialised router; writes `moe-init/`."),
    "train-router": (
        "train",
        "Train the router on frozen experts, then all of them jointly; writes `router-warmup/` and `moe-joint/`.",
    ),
    "instruct": (
        "train",
        "Instruction-tune a language model's mixture on the questions of its domains; writes `moe-instruct/`.",
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
    "serve": ("serve", "Serve a model over HTTP: JSON API and web page."),
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
        "Fit a model's temperatures and abstention thresholds on validation rows; writes its `calibration.json`.",
    ),
    "report": (
        "evaluate",
        "Write a run's HTML report and model card: data, metrics, routing, calibration, errors, training curves.",
    ),
    "sweep": ("evaluate", "Train and evaluate one run over many settings and seeds; called again, it resumes."),
    "ablate": (
        "evaluate",
        "Measure what each part of a mixture contributes; writes `ablation/`; called again, it resumes.",
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
    "data": ("data", "Inspect and augment data before training."),
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

"""Modules of the project through which one text and one joint training step pass, counted by calls of functions.

Run: `python benchmarks/modules.py`. It needs no data. The text goes through `moe infer` with the ready mixture, the
step through the second step of a joint stage on a few made-up rows.
"""

import contextlib
import inspect
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from datasets import Dataset
from rich.console import Console
from transformers import TrainerCallback

from moe.api.trainer import FinMoETrainer
from moe.commands.main import app

ROOT = Path(__file__).parent.parent
PARTS = ("moe", "experts", "router")
WANTED = {"moe infer": 20, "joint step": 18}


class CalledModules:
    """Collects the modules of the project whose functions are called."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Record a call; bodies of modules and classes, which run on import, do not count."""
        if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PARTS:
                self.names[".".join(path.relative_to(ROOT).with_suffix("").parts)] = None

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Record the calls of all threads in the block."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


class SecondJointStep(TrainerCallback):
    """Records the second optimizer step of the joint stage, from the end of the first one."""

    def __init__(self) -> None:
        self.called = CalledModules()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start after the first step, and stop after the second one."""
        sys.setprofile(self.called if "moe-joint" in str(args.output_dir) and state.global_step == 1 else None)


def infer_modules() -> list[str]:
    """Return the modules through which a text passes."""
    called, argv = CalledModules(), sys.argv
    sys.argv = ["moe", "--quiet", "infer", "--model", "ready", "Profit fell less than feared."]
    try:
        with contextlib.redirect_stdout(io.StringIO()), called.collecting(), contextlib.suppress(SystemExit):
            app()
    finally:
        sys.argv = argv
    return list(called.names)


def joint_step_modules() -> list[str]:
    """Return the modules through which a joint step passes."""
    step = SecondJointStep()
    words = {"news": ("profit rose", "profit fell"), "forum": ("moon soon", "bags heavy")}
    datasets = {
        name: Dataset.from_dict({"text": [f"{w} {i}" for i in range(20) for w in pair], "label": ["up", "down"] * 20})
        for name, pair in words.items()
    }
    settings = {"steps": 3, "min_steps": 1, "evals": 1}
    overrides = {"stages": dict.fromkeys(("expert", "warmup", "joint"), settings), "track": []}
    with TemporaryDirectory() as folder:
        FinMoETrainer(datasets, overrides=overrides, output_dir=Path(folder) / "run", callbacks=[step]).train()
    return list(step.called.names)


def main() -> None:
    """Count and print."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    console = Console(width=120)
    for name, modules in (("moe infer", infer_modules()), ("joint step", joint_step_modules())):
        console.print(f"{name}: {len(modules)} modules, wanted at most {WANTED[name]}")
        for module in modules:
            console.print(f"  {module}")


if __name__ == "__main__":
    main()

"""Time per operator: of the bare backbone, the mixture, and training steps of the mixture and of PEFT.

Run: `python benchmarks/profile_ops.py [--trunk M] [--dtype float32] [--texts FILE …] [--top N]`. In the mixture's
inference, `aten::addmm` is the frozen layers, `aten::mm` the experts' A and `aten::addmm_` their B. In training,
`aten::mm` also includes the matrix products of the backward pass.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from paired_timing import build_untrained, forward_all, load_texts, tokenize_batches
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from training import PeftStep, TrainingStep

from moe.config.stages import JOINT
from moe.model.backbone import BackboneSettings, load_backbone

Profile = dict[str, float]
"""Milliseconds by operator."""


def profile_call(work: Callable[[], object]) -> Profile:
    """Return the milliseconds spent in each operator itself, in a second call."""
    work()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as profiler:
        work()
    events = profiler.key_averages()
    return {event.key: event.self_cpu_time_total / 1e3 for event in events if event.key.startswith("aten::")}


def build_table(title: str, profiles: dict[str, Profile], top: int) -> Table:
    """Show the most expensive operators of several models, in milliseconds and as shares of the model's total."""
    totals = {model: sum(times.values()) for model, times in profiles.items()}
    names = sorted(
        {name for times in profiles.values() for name in times},
        key=lambda name: -max(times.get(name, 0) for times in profiles.values()),
    )
    table = Table("operator", *profiles, title=title, title_justify="left")
    for name in names[:top]:
        cells = [
            f"{times.get(name, 0):.0f} ({times.get(name, 0) / totals[model]:.0%})" for model, times in profiles.items()
        ]
        table.add_row(name, *cells)
    table.add_row("all", *[f"{milliseconds:.0f}" for milliseconds in totals.values()])
    return table


def main() -> None:
    """Profile inference and training steps, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trunk", type=int, default=1, help="depth of the trunk")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--texts", type=Path, nargs="*", default=(), help="files with a text column; default: the synthetic sample"
    )
    parser.add_argument("--top", type=int, default=12, help="operators to show")
    args = parser.parse_args()
    bare = load_backbone(BackboneSettings(dtype=args.dtype))
    batches = tokenize_batches(bare, load_texts(300, args.texts))
    inference = {
        "bare backbone": profile_call(forward_all(bare.model, batches)),
        f"soft, E = 5, m = {args.trunk}": profile_call(
            forward_all(build_untrained(5, 16, args.trunk, args.dtype), batches)
        ),
    }
    subset = batches[::3]
    joint = TrainingStep(build_untrained(5, 16, args.trunk, args.dtype), JOINT, subset, cached=True)
    steps = {
        "PEFT single LoRA": profile_call(PeftStep(subset, args.dtype)),
        f"joint step, E = 5, m = {args.trunk}": profile_call(joint),
    }
    console = Console(width=120)
    console.print(build_table("inference, milliseconds", inference, args.top))
    console.print(build_table("training steps with cached trunk states, milliseconds", steps, args.top))


if __name__ == "__main__":
    main()

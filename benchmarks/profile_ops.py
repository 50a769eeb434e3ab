"""Where the time goes: operators of the bare backbone, of the mixture, of PEFT's and of our training step.

Run: `python benchmarks/profile_ops.py [--trunk M] [--dtype float32] [--texts FILE …] [--top N]`. In the mixture `aten::addmm`
is the frozen layers, `aten::mm` the experts' A and `aten::addmm_` their B; in training the products of the way back
are under `aten::mm`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from paired_timing import batches, mixture, texts, through
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from training import PeftStep, Step

from moe.config.stages import JOINT
from moe.model.backbone import BackboneSettings, load_backbone


def spent(work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds in each operator itself, in a second call."""
    work()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as seen:
        work()
    return {one.key: one.self_cpu_time_total / 1e3 for one in seen.key_averages() if one.key.startswith("aten::")}


def table(title: str, ways: dict[str, dict[str, float]], top: int) -> Table:
    """The most costly operators of some ways side by side, in milliseconds and shares of their way."""
    whole = {way: sum(found.values()) for way, found in ways.items()}
    names = sorted(
        {n for found in ways.values() for n in found}, key=lambda n: -max(f.get(n, 0) for f in ways.values())
    )
    drawn = Table("operator", *ways, title=title, title_justify="left")
    for name in names[:top]:
        cells = [f"{found.get(name, 0):.0f} ({found.get(name, 0) / whole[way]:.0%})" for way, found in ways.items()]
        drawn.add_row(name, *cells)
    drawn.add_row("all", *[f"{ms:.0f}" for ms in whole.values()])
    return drawn


def main() -> None:
    """Profile answers and steps, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trunk", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--texts", type=Path, nargs="*", default=())
    parser.add_argument("--top", type=int, default=12)
    args = parser.parse_args()
    bare = load_backbone(BackboneSettings(dtype=args.dtype))
    some = batches(bare, texts(300, args.texts))
    answers = {
        "bare backbone": spent(through(bare.model, some)),
        f"soft, E = 5, m = {args.trunk}": spent(through(mixture(5, 16, args.trunk, args.dtype), some)),
    }
    few = some[::3]
    steps = {
        "PEFT single LoRA": spent(PeftStep(few, args.dtype)),
        f"joint step, E = 5, m = {args.trunk}": spent(Step(mixture(5, 16, args.trunk, args.dtype), JOINT, few, True)),
    }
    console = Console(width=120)
    console.print(table("answers, milliseconds", answers, args.top))
    console.print(table("training steps, trunk states known, milliseconds", steps, args.top))


if __name__ == "__main__":
    main()

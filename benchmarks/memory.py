"""One joint step that holds less: whole, in micro-batches, with its layers run again; time and peak memory.

Run: `python benchmarks/memory.py [--rows 32] [--length 256] [--dtype bfloat16]`. Each way is measured in a process of
its own for memory (the peak above what the model took before the first step), then all of them in turns in one
process for time. Ratios are to the whole step.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext

import torch
from paired_timing import mixture, timed

from moe.config.run import load_run
from moe.config.stages import JOINT
from moe.data.collator import Batch, model_inputs
from moe.model.backbone_ops import AttentionSwitch, activation_checkpointing
from moe.model.mixture import MixtureOutput
from moe.profiling import Cost, measure_cost, resident_mib
from moe.training.gradient_cache import BackwardPass
from moe.training.objective import LossContext, Objective
from moe.training.trainer import set_trainable

WAYS = {"whole": (1, False), "4 micro-batches": (4, False), "layers again": (1, True), "both": (4, True)}


def main() -> None:
    """Print a line a way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", choices=WAYS, help="measure this way's memory alone")
    args = parser.parse_args()
    if args.memory:
        print(memory(args, args.memory))
        return
    peaks = {way: float(_alone(way)) for way in WAYS}
    steps = {way: step(args, way) for way in WAYS}
    for one in steps.values():
        one()
    seen = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, one in steps.items():
            seen[way].append(timed(one))
    best = {way: min(found) for way, found in seen.items()}
    for way in WAYS:
        print(
            f"{way:>16}: {best[way]:.2f} s ({best[way] / best['whole']:.2f}), "
            f"{peaks[way]:,.0f} MiB ({peaks[way] / peaks['whole']:.2f})"
        )


def _alone(way: str) -> str:
    words = [sys.executable, *sys.argv, "--memory", way]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def memory(args: argparse.Namespace, way: str) -> float:
    """MiB that two steps take above what was there before them."""
    one, cost = step(args, way), Cost()
    before = resident_mib()
    with measure_cost(cost):
        one()
        one()
    return (cost.peak_mib or 0.0) - (0.0 if torch.cuda.is_available() else before)


def step(args: argparse.Namespace, way: str) -> Callable[[], None]:
    """A joint step of DAO's losses on random tokens."""
    count, again = WAYS[way]
    model, run = mixture(5, 16, 1, args.dtype), load_run()
    set_trainable(model.train(), JOINT, None)
    objective = Objective(JOINT, run.losses, run.dao, model.labels, model.domain_expert_mask, 0, context=LossContext.of(model))
    AttentionSwitch(model.backbone).select(args.length)
    batch = drawn(args, len(model.domains))
    parts = [{key: values.chunk(count)[i] for key, values in batch.items()} for i in range(count)]

    def forward(part: Batch) -> MixtureOutput:
        return model(**model_inputs(part))

    back = BackwardPass(model, forward, objective, lambda *_: None)

    def run_once() -> None:
        model.zero_grad()
        with activation_checkpointing(model.backbone, 1) if again else nullcontext():
            back(parts)

    return run_once


def drawn(args: argparse.Namespace, domains: int) -> Batch:
    """Random tokens, domains, labels and scores."""
    random = torch.Generator().manual_seed(0)
    shape = (args.rows, args.length)
    task = torch.randint(domains, (args.rows,), generator=random)  # (B,)
    label = torch.randint(3, (args.rows,), generator=random)  # (B,)
    return {
        "input_ids": torch.randint(1000, 20000, shape, generator=random),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "task": task,
        "domain": task,
        "label": label,
        "score": label - 1.0,
    }


if __name__ == "__main__":
    main()

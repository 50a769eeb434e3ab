"""Time and peak memory of a joint training step: in one pass, in micro-batches, with recomputed activations.

Run: `python benchmarks/memory.py [--rows 32] [--length 256] [--dtype bfloat16]`. Memory is measured in a separate
process per variant, as the peak above what the model takes before the first step. Then all variants are timed in
alternation in one process. Numbers in brackets are relative to one pass.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from paired_timing import build_untrained, time_call

from moe.config.run import load_run
from moe.config.stages import JOINT
from moe.data.collator import Batch, model_inputs
from moe.model.backbone_ops import AttentionSwitch, activation_checkpointing
from moe.model.outputs import MixtureOutput
from moe.profiling import Cost, measure_cost, resident_mib
from moe.training.gradient_cache import BackwardPass
from moe.training.loss.global_batch import LossContext
from moe.training.loss.objective import Objective
from moe.training.trainer import set_trainable

ONE_PASS = "one pass"
VARIANTS = {ONE_PASS: (1, False), "4 micro-batches": (4, False), "recomputed": (1, True), "both": (4, True)}
"""By name: number of micro-batches, and whether activations are recomputed in the backward pass."""


def main() -> None:
    """Print time and memory of each variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256, help="tokens per row")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", choices=VARIANTS, help="measure only this variant's memory")
    args = parser.parse_args()
    if args.memory:
        print(measure_memory(args, args.memory))
        return
    peaks = {name: _measure_memory_in_process(name) for name in VARIANTS}
    steps = {name: build_step(args, name) for name in VARIANTS}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(args.rounds):
        for name, step in steps.items():
            times[name].append(time_call(step))
    best = {name: min(seconds) for name, seconds in times.items()}
    for name in VARIANTS:
        print(
            f"{name:>16}: {best[name]:.2f} s ({best[name] / best[ONE_PASS]:.2f}), "
            f"{peaks[name]:,.0f} MiB ({peaks[name] / peaks[ONE_PASS]:.2f})"
        )


def _measure_memory_in_process(name: str) -> float:
    command = [sys.executable, *sys.argv, "--memory", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure_memory(args: argparse.Namespace, name: str) -> float:
    """Return the peak memory of two steps in MiB, above that before them."""
    step, cost = build_step(args, name), Cost()
    before = resident_mib()
    with measure_cost(cost):
        step()
        step()
    return (cost.peak_mib or 0.0) - (0.0 if torch.cuda.is_available() else before)


def build_step(args: argparse.Namespace, name: str) -> Callable[[], None]:
    """Return a function that runs a joint step with DAO's losses on random tokens."""
    micro_batches, recompute = VARIANTS[name]
    model, run = build_untrained(5, 16, 1, args.dtype), load_run()
    mode = set_trainable(model.train(), JOINT, None)
    objective = Objective(
        JOINT,
        settings=run.losses,
        dao=run.dao,
        labels=model.labels,
        domain_expert_mask=model.domain_expert_mask,
        seed=0,
        context=LossContext.of(model),
    )
    AttentionSwitch(model.backbone).select(args.length)
    batch = random_batch(args, len(model.domains))
    parts = [{key: values.chunk(micro_batches)[i] for key, values in batch.items()} for i in range(micro_batches)]

    def forward(part: Batch, backbone_grad: bool) -> MixtureOutput:
        output: MixtureOutput = model(**model_inputs(part), mode=replace(mode, backbone_grad=backbone_grad))
        return output

    backward = BackwardPass(model, forward, objective, lambda *_: None)

    def run_once() -> None:
        model.zero_grad()
        with activation_checkpointing(model.backbone, 1) if recompute else nullcontext():
            backward(parts)

    return run_once


def random_batch(args: argparse.Namespace, domains: int) -> Batch:
    """Return a batch of random tokens, domains, labels and scores."""
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

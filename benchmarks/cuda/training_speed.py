"""Speed and memory of a joint step on a GPU, beside PEFT's single LoRA: plain, with activations rerun, and sharded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from inference_speed import EXPERTS, RANK, backbone_settings, describe, equal_batches, peft_lora
from models import Bench
from paired_timing import Ratio, build_untrained_with_card, compare
from torch.distributed.device_mesh import init_device_mesh
from training import PeftStep, TrainingStep

from moe.config.stages import JOINT
from moe.model.backbone_ops import activation_checkpointing
from moe.profiling import MIB, Cost, measure_cost, release_memory, resident_mib
from moe.training.fsdp import shard_over


def measure_training_speed(bench: Bench, quantized: bool) -> Iterator[dict[str, Any]]:
    """Compare a joint step of five experts under DAO with a step of one PEFT LoRA, on the same batches.

    PEFT's step runs under autocast in bfloat16. With bfloat16 weights, two more of our steps are compared with the
    plain one: `stages.recompute`, and the backbone sharded by FSDP2 over one process.

    Args:
        quantized: NF4 instead of bfloat16, for both.
    """
    precision = bench.precisions[2 if quantized else 1]
    if precision.missing:
        yield {"precision": precision.name, "skipped": precision.missing}
        return
    texts, length, rounds = (64, 128, 7) if bench.size == "full" else (4, 16, 1)
    settings = backbone_settings(bench, precision)

    def build() -> TrainingStep:
        return TrainingStep(build_untrained_with_card(EXPERTS, RANK, settings)[0], JOINT, batches)

    random = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 900, (texts, length), generator=random)  # (N, T)
    batches = equal_batches(ids, texts, torch.device(bench.device))
    plain, single = build(), PeftStep(batches, "bfloat16", settings, peft_lora())

    def compared(name: str, step: Callable[[], None], other: Callable[[], None]) -> dict[str, Any]:
        ratio: Ratio = compare(name, step, other, "–", rounds)
        memory = {"mib": peak_of(step), "mib_other": peak_of(other)}
        return describe(precision, ratio, texts * length) | memory

    yield compared("joint step: PEFT's single LoRA", plain, single)
    if quantized:
        return
    del single
    rerun = build()

    def recomputed() -> None:
        with activation_checkpointing(rerun.model.backbone, 0):
            rerun()

    yield compared("recomputed joint step: plain one", recomputed, plain)
    with process_group(bench):
        sharded = build()
        shard_over(sharded.model, init_device_mesh(bench.device, (1,)))
        yield compared("joint step sharded over one process: plain one", sharded, plain)


def peak_of(step: Callable[[], None]) -> float | None:
    """Return the peak memory of a step in MiB, above what the GPU, or the process, holds before it."""
    release_memory()
    cost, before = Cost(), torch.cuda.memory_allocated() / MIB if torch.cuda.is_available() else resident_mib()
    with measure_cost(cost):
        step()
    return None if cost.peak_mib is None else cost.peak_mib - before


@contextmanager
def process_group(bench: Bench) -> Iterator[None]:
    """A process group of this process alone."""
    backend, store = "nccl" if bench.device == "cuda" else "gloo", f"file://{bench.folder / 'store'}"
    dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()

"""Time of a training step and a forward pass of the demo's expert under different OpenMP settings.

Run: `python benchmarks/threads.py`. Each setting runs in a separate process; ratios are to the first setting.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

SETTINGS = (
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "2"},
    {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"},
    {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "3000"},
)
ROUNDS = 10


def main() -> None:
    """Measure every setting and print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", action="store_true", help="measure only the current environment and print JSON")
    if parser.parse_args().one:
        print(json.dumps(measure()))
        return
    first: dict[str, float] = {}
    for setting in SETTINGS:
        command = [sys.executable, __file__, "--one"]
        process = subprocess.run(command, env=os.environ | setting, capture_output=True, text=True, check=True)
        times: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
        first = first or times
        figures = ", ".join(f"{name} {seconds:.3f} s ({seconds / first[name]:.2f})" for name, seconds in times.items())
        print(" ".join(f"{key}={value}" for key, value in setting.items()), "→", figures)


def measure() -> dict[str, float]:
    """Return the seconds of a training step and of a forward pass in this process."""
    import torch

    from experts.adapter import build_adapter
    from moe.checkpoints.expert import build_expert_model
    from moe.config.run import load_run
    from moe.config.stages import EXPERT
    from moe.training.job import build_optimizer
    from moe.training.loss.objective import Objective
    from moe.training.trainer import set_trainable

    run = load_run()
    model = build_expert_model(run, "news", build_adapter, polarity=True, seed=13)
    objective = Objective(
        EXPERT,
        settings=run.losses,
        dao=run.dao,
        labels=model.labels,
        domain_expert_mask=model.domain_expert_mask,
        seed=13,
    )
    set_trainable(model, EXPERT, "news")
    optimizer = build_optimizer(model, run.stages.expert)
    ids = torch.randint(1000, 30000, (16, 20), generator=torch.Generator().manual_seed(0))  # (B, T)
    zeros = torch.zeros(16, dtype=torch.long)  # (B,)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "label": zeros, "task": zeros, "domain": zeros}
    batch["score"] = torch.zeros(16)  # (B,)

    def step() -> None:
        objective(model(**batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    model.train()
    seconds = {"step": mean_seconds(step)}
    model.eval()
    with torch.no_grad():
        seconds["forward"] = mean_seconds(lambda: model(**batch))
    return seconds


def mean_seconds(work: Callable[[], object]) -> float:
    """Return the mean seconds of one call, after three warm-up calls."""
    for _ in range(3):
        work()
    start = time.perf_counter()
    for _ in range(ROUNDS):
        work()
    return (time.perf_counter() - start) / ROUNDS


if __name__ == "__main__":
    main()

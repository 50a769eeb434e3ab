"""One training step and one forward of the demo's expert, under different ways for threads to wait, side by side.

Run: `python benchmarks/threads.py`; each setting runs in a process of its own, ratios are to the first.
"""

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
    first: dict[str, float] = {}
    for setting in SETTINGS:
        out = subprocess.run(
            [sys.executable, __file__, "--one"], env=os.environ | setting, capture_output=True, text=True, check=True
        )
        seen = json.loads(out.stdout.splitlines()[-1])
        first = first or seen
        told = ", ".join(f"{name} {seconds:.3f} s ({seconds / first[name]:.2f})" for name, seconds in seen.items())
        print(" ".join(f"{key}={value}" for key, value in setting.items()), "→", told)


def one() -> None:
    """Time a step and a forward in this process."""
    import torch

    from experts.adapter import build_adapter
    from moe.checkpoints.expert import build_expert_model
    from moe.config.run import load_run
    from moe.config.stages import EXPERT
    from moe.training.objective import Objective
    from moe.training.trainer import parameter_groups, set_trainable

    run = load_run()
    model = build_expert_model(run, "news", build_adapter, True, seed=13)
    objective = Objective(EXPERT, run.losses, run.dao, model.labels, model.domain_expert_mask, seed=13)
    set_trainable(model, EXPERT, "news")
    optimizer = torch.optim.AdamW(parameter_groups(model, run.stages.expert))
    ids = torch.randint(1000, 30000, (16, 20), generator=torch.Generator().manual_seed(0))  # (B, T)
    zeros = torch.zeros(16, dtype=torch.long)  # (B,)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "label": zeros, "task": zeros, "domain": zeros}
    batch["score"] = torch.zeros(16)  # (B,)

    def step() -> None:
        objective(model(**batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    model.train()
    seconds = {"step": timed(step)}
    model.eval()
    with torch.no_grad():
        seconds["forward"] = timed(lambda: model(**batch))
    print(json.dumps(seconds))


def timed(work: Callable[[], object]) -> float:
    """Mean seconds of one call, after three to warm up."""
    for _ in range(3):
        work()
    start = time.perf_counter()
    for _ in range(ROUNDS):
        work()
    return (time.perf_counter() - start) / ROUNDS


if __name__ == "__main__":
    one() if "--one" in sys.argv else main()

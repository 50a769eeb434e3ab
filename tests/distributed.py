"""Runs for tests that compare training in several processes with one process and the same total batch.

Also a script for torchrun: `distributed.py MODE FOLDER BATCH` with mode `train`, `stop` or `collectives`, where BATCH
is the number of rows of a micro-batch.
"""

import atexit
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import NOUNS, made_up_rows, merged_settings, save_backbone, tiny_run, write_csv
from corpora import make_question_workspace
from signals import interrupt_at

from moe import distributed
from moe.checkpoints.mixture import read_mixture
from moe.errors import Interrupted
from moe.runs.training_log import LOG
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain
from moe.training.language.instruct import instruct
from moe.training.language.pretrain import pretrain
from moe.training.pipeline import run_all
from moe.training.steps import merge_experts, train_router

NO_DROPOUT = {"lora": {"dropout": 0.0}, "heads": {"dropout": 0.0}, "gate": {"dropout": 0.0}}
"""Settings without dropout, whose random numbers depend on how rows are batched."""
STAGES = ("shared", "pretrain", "expert", "warmup", "joint", "instruct")


def batch_settings(batch: int, accumulate: int) -> dict[str, Any]:
    """Settings of steps with `accumulate` micro-batches of `batch` rows."""
    return {"stages": {stage: {"batch_size": batch, "accumulate": accumulate} for stage in STAGES}}


def make_classifier_workspace(folder: Path, over: dict[str, Any]) -> Workspace:
    """Run on labelled rows, whose files are written if they do not exist; `over` overrides settings."""
    with distributed.main_process_first():
        if not (folder / "model").is_dir():
            save_backbone(folder / "model")
            for domain in NOUNS:
                write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    return Workspace(tiny_run(folder / "model", folder / "data", **over), folder / "run")


def make_team_workspace(folder: Path, over: dict[str, Any]) -> Workspace:
    """Run of role experts of a language model; `over` overrides settings."""
    rows = {"max_train_rows": 40}  # a number that two processes can share
    few = {
        "stages": {"pretrain": {"steps": 6}, "instruct": {"steps": 6, "lr": 0.003}},
        "domains": {"news": rows, "forum": rows},
        "language": {"mix": 0.2},
    }
    with distributed.main_process_first():
        return make_question_workspace(folder, **merged_settings(few, over))


def train_team(work: Workspace) -> None:
    """Run all stages of role experts."""
    pretrain(work)
    merge_experts(work)
    train_router(work)
    instruct(work)


def logged_losses(work: Workspace, step: str) -> list[dict[str, float]]:
    """Losses, their weights and mean gates of every logged step."""
    lines = [json.loads(line) for line in (work.logs(step) / LOG).read_text().splitlines()]
    names = ("loss", "classes", "polarity", "domain", "balance", "grad_norm", "language", "sentiment")
    prefixes = ("inner/", "outer/", "weight/", "share_")
    return [
        {key: value for key, value in line.items() if key in names or key.startswith(prefixes)}
        for line in lines
        if "loss" in line
    ]


def assert_same_training(first: Workspace, second: Workspace, steps: tuple[str, ...], rel: float = 2e-3) -> None:
    """Compare the logged losses of every step of these stages, and the final weights."""
    for step in steps:
        first_losses, second_losses = logged_losses(first, step), logged_losses(second, step)
        assert len(first_losses) == len(second_losses) > 1
        for a, b in zip(first_losses, second_losses, strict=True):
            assert a == pytest.approx(b, rel=rel, abs=1e-5), step
    a, b = (read_mixture(work.out / "moe-joint")[0].trained_state() for work in (first, second))
    for key, tensor in a.items():
        torch.testing.assert_close(
            b[key], tensor, rtol=1e-2, atol=2e-4, msg=lambda message, key=key: f"{key}: {message}"
        )


def train_everything(folder: Path, batch: int) -> None:
    """Train a classifier with cached trunk states, one with look-ahead weights, and a team routed by tokens.

    Then a classifier and a team with a sharded backbone, the team with activation checkpointing.
    """
    over = merged_settings(NO_DROPOUT, batch_settings(batch, 1))
    ahead = {"dao": {"objective": "validation"}, "losses": {"measured": "parameters"}}
    shared = {"shared": {"r": 2, "dropout": 0.0}}
    cached = merged_settings(over, {"stages": {"cache_trunk": True}})
    run_all(make_classifier_workspace(folder / "labels", cached))
    run_all(make_classifier_workspace(folder / "ahead", over | ahead | shared))
    train_team(make_team_workspace(folder / "texts", over | {"gate": {"unit": "token", "dropout": 0.0}}))
    sharded = merged_settings(over, {"stages": {"shard": True}})
    run_all(make_classifier_workspace(folder / "shard", sharded))
    recompute = merged_settings(sharded, {"stages": {"recompute": True}})
    train_team(make_team_workspace(folder / "shard-texts", recompute))


def stop_and_resume(folder: Path, batch: int) -> None:
    """Train with dropout, once undisturbed and once stopped by a signal to a single process and resumed."""
    for name in ("whole", "stopped", "shard-whole", "shard-stopped"):
        stages = {"expert": {"steps": 8, "batch_size": batch}, "shard": "shard" in name}
        work = make_classifier_workspace(folder / name, batch_settings(batch, 1) | {"stages": stages})
        with pytest.MonkeyPatch.context() as patch:
            if "stopped" in name and distributed.rank() == distributed.world_size() - 1:
                interrupt_at(patch, 3)
            try:
                train_domain(work, "news")
            except Interrupted:
                train_domain(work, "news", resume=True)
    begun = make_classifier_workspace(folder / "begun", batch_settings(batch, 1))
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 3)
        with suppress(Interrupted):
            train_domain(begun, "news")


def run_collectives(folder: Path, _: int) -> None:
    """Run every collective in this and another process, and compare the results with what both should have."""
    rank = distributed.rank()
    assert distributed.world_size() == 2
    # Registered before the group exists, so that it runs after what the group registers.
    atexit.register(lambda: print(f"rank {rank} destroyed its group: {not torch.distributed.is_initialized()}"))
    assert distributed.all_reduce_max(rank + 3) == 4
    assert distributed.broadcast_object({"rank": rank, "value": [1.5, None]}) == {"rank": 0, "value": [1.5, None]}
    assert distributed.broadcast_from_main(distributed.world_size) == 1, "rank 0 runs it without waiting for others"
    distributed.on_main_process(lambda: (folder / "written").write_text("by rank 0"))
    assert (folder / "written").read_text() == "by rank 0"
    rows = torch.full((rank + 1, 2), float(rank), requires_grad=True)
    gathered = distributed.all_gather(rows)  # (3, 2)
    assert gathered[:, 0].tolist() == [0.0, 1.0, 1.0]
    gathered.sum().backward()
    assert rows.grad is not None
    assert rows.grad.shape == rows.shape
    assert distributed.all_reduce(torch.tensor(rank + 1.0)) == 3.0
    print(f"rank {rank} has the right results")


if __name__ == "__main__":
    modes = {"train": train_everything, "stop": stop_and_resume, "collectives": run_collectives}
    modes[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))

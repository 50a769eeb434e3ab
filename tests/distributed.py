"""Runs that several processes train together, for tests that set them beside one process with their whole batch.

As a script, started by torchrun: `together.py train FOLDER BATCH`, or `stop`, BATCH rows a pass.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import NOUNS, made_up_rows, merged_settings, save_backbone, tiny_run, write_csv
from corpora import asking
from signals import interrupt_at

from moe import distributed
from moe.checkpoints.mixture import read_mixture
from moe.errors import Interrupted
from moe.runs.training_log import LOG
from moe.runs.workspace import Workspace
from moe.training.instruct import instruct
from moe.training.pipeline import run_all
from moe.training.pretrain import pretrain
from moe.training.steps import merge_experts, train_domain, train_router

CALM = {"lora": {"dropout": 0.0}, "heads": {"dropout": 0.0}, "gate": {"dropout": 0.0}}
"""Without dropout, which draws other numbers for other batches."""
STAGES = ("shared", "pretrain", "expert", "warmup", "joint", "instruct")


def cut(batch: int, accumulate: int) -> dict[str, Any]:
    """Settings of steps of so many micro-batches of so many rows."""
    return {"stages": {stage: {"batch_size": batch, "accumulate": accumulate} for stage in STAGES}}


def classifier(folder: Path, over: dict[str, Any]) -> Workspace:
    """A run on labelled rows; its files are written where they are not there yet."""
    with distributed.main_process_first():
        if not (folder / "model").is_dir():
            save_backbone(folder / "model")
            for domain in NOUNS:
                write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    return Workspace(tiny_run(folder / "model", folder / "data", **over), folder / "run")


def team(folder: Path, over: dict[str, Any]) -> Workspace:
    """A language model's run, likewise."""
    rows = {"max_train_rows": 40}  # as many as two processes can share
    few = {
        "stages": {"pretrain": {"steps": 6}, "instruct": {"steps": 6, "lr": 0.003}},
        "domains": {"news": rows, "forum": rows},
        "language": {"mix": 0.2},
    }
    with distributed.main_process_first():
        return asking(folder, **merged_settings(few, over))


def train_team(work: Workspace) -> None:
    """All its stages."""
    pretrain(work)
    merge_experts(work)
    train_router(work)
    instruct(work)


def losses(work: Workspace, step: str) -> list[dict[str, float]]:
    """Every loss, weight and share that was logged, step by step."""
    lines = [json.loads(line) for line in (work.logs(step) / LOG).read_text().splitlines()]
    told = ("loss", "classes", "polarity", "domain", "balance", "grad_norm", "language", "sentiment")
    own = ("inner/", "outer/", "weight/", "share_")
    return [
        {key: value for key, value in line.items() if key in told or key.startswith(own)}
        for line in lines
        if "loss" in line
    ]


def assert_alike(one: Workspace, other: Workspace, steps: tuple[str, ...], rel: float = 2e-3) -> None:
    """Every figure of every step of these stages, and the weights in the end."""
    for step in steps:
        first, second = losses(one, step), losses(other, step)
        assert len(first) == len(second) > 1
        for a, b in zip(first, second, strict=True):
            assert a == pytest.approx(b, rel=rel, abs=1e-5), step
    a, b = (read_mixture(work.out / "moe-joint")[0].trained_state() for work in (one, other))
    for key, tensor in a.items():
        torch.testing.assert_close(b[key], tensor, rtol=1e-2, atol=2e-4, msg=lambda told, key=key: f"{key}: {told}")


def train(place: Path, batch: int) -> None:
    """Three runs: plain, the trunk's states cached; one whose weights look ahead; a team routed by tokens.

    And two with the backbone shared out, the team's with its layers run again.
    """
    over = merged_settings(CALM, cut(batch, 1))
    ahead = {"dao": {"objective": "validation"}, "losses": {"measured": "parameters"}}
    shared = {"shared": {"r": 2, "dropout": 0.0}}
    run_all(classifier(place / "labels", merged_settings(over, {"stages": {"cache_trunk": True}})))
    run_all(classifier(place / "ahead", over | ahead | shared))
    train_team(team(place / "texts", over | {"gate": {"unit": "token", "dropout": 0.0}}))
    shared_out = merged_settings(over, {"stages": {"shard": True}})
    run_all(classifier(place / "shard", shared_out))
    train_team(team(place / "shard-texts", merged_settings(shared_out, {"stages": {"recompute": True}})))


def stop_and_go_on(place: Path, batch: int) -> None:
    """A run with dropout that one process alone is asked to stop, gone on with, beside one that never was."""
    for name in ("whole", "stopped", "shard-whole", "shard-stopped"):
        stages = {"expert": {"steps": 8, "batch_size": batch}, "shard": "shard" in name}
        work = classifier(place / name, cut(batch, 1) | {"stages": stages})
        with pytest.MonkeyPatch.context() as patch:
            if "stopped" in name and distributed.rank() == distributed.world_size() - 1:
                interrupt_at(patch, 3)
            try:
                train_domain(work, "news")
            except Interrupted:
                train_domain(work, "news", resume=True)
    begun = classifier(place / "begun", cut(batch, 1))
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 3)
        with suppress(Interrupted):
            train_domain(begun, "news")


if __name__ == "__main__":
    {"train": train, "stop": stop_and_go_on}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))

"""Tests of killed runs: outputs are complete, and resuming gives the bytes of an undisturbed run."""

import random
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import pytest
from conftest import Make
from corpora import make_question_workspace
from process_kill import finished_files, run_and_kill, train_classifier, train_language_model

from moe.runs.workspace import Workspace

KILLS = 10
Run = Callable[[Workspace], None]


def classifier_workspace(make_work: Make, folder: Path) -> Workspace:
    """Two experts, warm-up and joint stage, with dropout, early stopping and held-out batches."""
    few = {"evals": 3, "patience": 1}
    stages = {"expert": few | {"steps": 9}, "warmup": few | {"accumulate": 2}, "joint": few}
    return make_work(folder, stages=stages, dao={"objective": "validation", "every": 2}, lora={"dropout": 0.2})


def cached_workspace(make_work: Make, folder: Path) -> Workspace:
    """The same stages on cached trunk states, with dropout in the router."""
    stages = {name: {"evals": 3} for name in ("expert", "warmup", "joint")}
    return make_work(folder, stages={"cache_trunk": True, **stages}, gate={"dropout": 0.3, "queries": 0})


def language_model_workspace(make_work: Make, folder: Path) -> Workspace:
    """Two roles: pre-training, merge, router and instruction tuning."""
    stages = {name: {"evals": 2, "steps": 6} for name in ("pretrain", "warmup", "joint", "instruct")}
    return Workspace(make_question_workspace(folder.parent, stages=stages, lora={"dropout": 0.2}).run, folder)


RUNS = {
    "labels": (train_classifier, classifier_workspace),
    "cached": (train_classifier, cached_workspace),
    "language": (train_language_model, language_model_workspace),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_run_killed_repeatedly_gives_the_bytes_of_an_undisturbed_run(
    kind: str, make_work: Make, tmp_path: Path
) -> None:
    run, make_workspace = RUNS[kind]
    undisturbed = make_workspace(make_work, tmp_path / "whole")
    start = perf_counter()
    code, operations = run_and_kill(run, undisturbed)
    seconds = perf_counter() - start
    assert code == 0
    expected = finished_files(undisturbed.out)
    rng, kills, runs = random.Random(0), 0, 0
    work = make_workspace(make_work, tmp_path / "run0")
    while kills < KILLS or code != 0:
        at_operation = kills % 2 and kills < KILLS
        after = None if at_operation or kills >= KILLS else rng.uniform(0, seconds)
        die_at = rng.randint(1, operations // 2) if at_operation else None
        code, _ = run_and_kill(run, work, after=after, die_at=die_at)
        kills += code != 0
        if code == 0:
            files = finished_files(work.out)
            assert files.keys() == expected.keys()
            assert [name for name, content in files.items() if content != expected[name]] == []
            assert not [path for path in work.out.rglob(".*") if path.is_dir()], "no temporary folder remains"
            runs += 1
            work = make_workspace(make_work, tmp_path / f"run{runs}")

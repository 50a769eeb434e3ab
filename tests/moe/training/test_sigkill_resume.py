"""Claims about killed runs: what is finished is whole, and going on ends in an undisturbed run's bytes."""

import random
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import pytest
from conftest import Make
from corpora import asking
from process_kill import finished, killed, labels, language

from moe.runs.workspace import Workspace

KILLS = 10
Run = Callable[[Workspace], None]


def of_labels(make_work: Make, place: Path) -> Workspace:
    """Two experts, warm start and joint stage, with dropout, early stopping and held-out batches."""
    few = {"evals": 3, "patience": 1}
    stages = {"expert": few | {"steps": 9}, "warmup": few | {"accumulate": 2}, "joint": few}
    return make_work(place, stages=stages, dao={"objective": "validation", "every": 2}, lora={"dropout": 0.2})


def of_language(make_work: Make, place: Path) -> Workspace:
    """Two roles pre-trained, merged, routed and taught to answer."""
    stages = {name: {"evals": 2, "steps": 6} for name in ("pretrain", "warmup", "joint", "instruct")}
    return Workspace(asking(place.parent, stages=stages, lora={"dropout": 0.2}).run, place)


RUNS = {"labels": (labels, of_labels), "language": (language, of_language)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(
    kind: str, make_work: Make, tmp_path: Path
) -> None:
    run, make = RUNS[kind]
    whole = make(make_work, tmp_path / "whole")
    start = perf_counter()
    code, operations = killed(run, whole)
    seconds = perf_counter() - start
    assert code == 0
    expected = finished(whole.out)
    draw, kills, runs = random.Random(0), 0, 0
    work = make(make_work, tmp_path / "run0")
    while kills < KILLS or code != 0:
        at_file = kills % 2 and kills < KILLS
        after = None if at_file or kills >= KILLS else draw.uniform(0, seconds)
        code, _ = killed(run, work, after, draw.randint(1, operations // 2) if at_file else None)
        kills += code != 0
        if code == 0:
            found = finished(work.out)
            assert found.keys() == expected.keys()
            assert [name for name, content in found.items() if content != expected[name]] == []
            assert not [path for path in work.out.rglob(".*") if path.is_dir()], "nothing is left lying"
            runs += 1
            work = make(make_work, tmp_path / f"run{runs}")

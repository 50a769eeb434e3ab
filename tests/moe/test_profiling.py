"""Claims about what work costs: seconds of the block, and a peak that belongs to it."""

import time

import numpy as np
import pytest
import torch
from conftest import Make

from experts.errors import Fault
from moe.checkpoints.expert import load_single_expert
from moe.inference.predictor import Predictor
from moe.model.mixture import Mixture
from moe.profiling import Cost, measure_cost, oom_guard
from moe.training.steps import train_domain


def test_the_seconds_are_the_blocks_even_when_it_fails() -> None:
    cost = Cost()

    def work() -> None:
        with measure_cost(cost):
            time.sleep(0.02)
            raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        work()
    assert cost.seconds >= 0.02


def test_an_earlier_peak_is_forgotten_where_the_system_can() -> None:
    costs = [Cost(), Cost()]
    for cost, mib in zip(costs, (200, 1), strict=True):
        with measure_cost(cost):
            assert np.ones(mib * 2**17).sum() > 0
    first, second = (cost.peak_mib for cost in costs)
    assert first is not None
    assert second is not None
    if costs[1].memory_of == "process":
        assert first - second > 100
    else:
        assert second >= first * 0.5


def test_without_proc_the_peak_is_since_the_start_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr("moe.profiling.Path.write_text", refuse)
    monkeypatch.setattr("moe.profiling.Path.read_text", refuse)
    cost = Cost()
    with measure_cost(cost):
        pass
    assert "since its start" in cost.memory_of
    assert cost.peak_mib is None or cost.peak_mib > 1


def fill() -> None:
    torch.empty(2**55)


def test_memory_that_runs_out_is_a_fault_that_tells_how_much_and_what_to_lower() -> None:
    def work() -> None:
        with oom_guard("lower it"):
            fill()

    with pytest.raises(Fault, match=r"enough memory; found no room for 144115188075855872 \w+ more\. Lower it"):
        work()


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")]
)
def test_other_ways_to_say_so_are_told_too_and_other_errors_are_left(error: Exception) -> None:
    def work(what: Exception) -> None:
        with oom_guard("lower it"):
            raise what

    with pytest.raises(Fault, match=r"enough memory"):
        work(error)
    with pytest.raises(RuntimeError, match="another"):
        work(RuntimeError("another"))


def test_training_and_answering_name_the_setting_to_lower(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work()
    with monkeypatch.context() as patch:
        patch.setattr(Mixture, "forward", lambda *_, **__: fill())
        with pytest.raises(Fault, match=r"stages\.expert\.batch_size.*backbone\.max_length"):
            train_domain(work, "news")
    (folder,) = train_domain(work, "news", overwrite=True)
    model, run = load_single_expert(folder)
    monkeypatch.setattr(Mixture, "forward", lambda *_, **__: fill())
    with pytest.raises(Fault, match=r"--batch-tokens"):
        Predictor(model, run.template, 16).score(["profit rose"])

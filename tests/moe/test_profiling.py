"""Tests of profiling: the time and peak memory of a block, and out-of-memory errors as faults."""

import time

import numpy as np
import pytest
import torch
from conftest import Make

from experts.errors import Fault
from moe.checkpoints.expert import load_single_expert
from moe.inference.torch_predictor import TorchPredictor
from moe.model.mixture import Mixture
from moe.profiling import Cost, measure_cost, oom_guard, peak_mib, reset_peak
from moe.training.expert_steps import train_domain


def test_measure_cost_records_seconds_even_if_the_block_fails() -> None:
    cost = Cost()

    def work() -> None:
        with measure_cost(cost):
            time.sleep(0.02)
            raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        work()
    assert cost.seconds >= 0.02


def test_measure_cost_resets_an_earlier_peak_where_the_system_can() -> None:
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


def test_measure_cost_keeps_a_peak_before_a_reset_inside_the_block() -> None:
    cost = Cost()
    with measure_cost(cost):
        assert np.ones(200 * 2**17).sum() > 0
        reset_peak()  # as every stage of training does
        later = peak_mib()
    assert later is not None
    assert cost.peak_mib is not None
    if cost.memory_of == "process":
        assert cost.peak_mib - later > 100


def test_measure_cost_without_proc_reports_the_peak_since_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_oom_guard_reports_the_failed_allocation_and_what_to_lower() -> None:
    def work() -> None:
        with oom_guard("lower it"):
            fill()

    with pytest.raises(Fault, match=r"enough memory; found no room for 144115188075855872 \w+ more\. Lower it"):
        work()


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")]
)
def test_oom_guard_catches_every_kind_of_memory_error_and_no_other_error(error: Exception) -> None:
    def work(raised: Exception) -> None:
        with oom_guard("lower it"):
            raise raised

    with pytest.raises(Fault, match=r"enough memory"):
        work(error)
    with pytest.raises(RuntimeError, match="another"):
        work(RuntimeError("another"))


def test_out_of_memory_in_training_and_inference_names_the_setting_to_lower(
    make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work()
    with monkeypatch.context() as patch:
        patch.setattr(Mixture, "forward", lambda *_, **__: fill())
        with pytest.raises(Fault, match=r"stages\.expert\.batch_size.*backbone\.max_length"):
            train_domain(work, "news")
    (folder,) = train_domain(work, "news", overwrite=True)
    model, run = load_single_expert(folder)
    monkeypatch.setattr(Mixture, "forward", lambda *_, **__: fill())
    with pytest.raises(Fault, match=r"--batch-tokens"):
        TorchPredictor(model, run.template, 16).score(["profit rose"])

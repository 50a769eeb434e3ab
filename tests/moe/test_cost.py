"""Claims about what work costs: seconds of the block, and a peak that belongs to it."""

import time

import numpy as np
import pytest

from moe.cost import Cost, spending


def test_the_seconds_are_the_blocks_even_when_it_fails() -> None:
    cost = Cost()

    def work() -> None:
        with spending(cost):
            time.sleep(0.02)
            raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        work()
    assert cost.seconds >= 0.02


def test_an_earlier_peak_is_forgotten_where_the_system_can() -> None:
    costs = [Cost(), Cost()]
    for cost, mib in zip(costs, (200, 1), strict=True):
        with spending(cost):
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

    monkeypatch.setattr("moe.cost.Path.write_text", refuse)
    monkeypatch.setattr("moe.cost.Path.read_text", refuse)
    cost = Cost()
    with spending(cost):
        pass
    assert "since its start" in cost.memory_of
    assert cost.peak_mib is None or cost.peak_mib > 1

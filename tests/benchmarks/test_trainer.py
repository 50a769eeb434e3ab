"""Tests of `benchmarks/trainer.py`: what a clock counts, and which ratios are printed."""

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture
def trainer(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("trainer")


def test_first_steps_are_not_counted(trainer: ModuleType) -> None:
    clock = trainer.StepClock()
    slow_start = [10.0 * i for i in range(trainer.WARM)]
    clock.times = [(t, t / 2) for t in [*slow_start, *(slow_start[-1] + 2.0 * i for i in range(1, 5))]]
    assert (clock.summary()["wall"], clock.summary()["cpu"]) == (2.0, 1.0)


def test_ratios_are_medians_of_the_rounds_and_not_ratios_of_medians(
    trainer: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [(1.0, 2.0), (3.0, 3.0), (8.0, 10.0)]
    keys = ("wall", "cpu", "mib")
    trainer.print_rounds(
        [{"moe": dict.fromkeys(keys, ours), "trainer": dict.fromkeys(keys, theirs)} for ours, theirs in pairs]
    )
    row = next(line for line in capsys.readouterr().out.splitlines() if "CPU seconds" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")][1:] == ["3.000", "3.000", "0.800", "0.50 to 1.00"]

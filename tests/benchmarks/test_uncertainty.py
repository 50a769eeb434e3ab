"""Tests of `benchmarks/uncertainty.py`: AURC and spread on values worked out by hand, and a tiny run."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def uncertainty(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("uncertainty")


def test_aurc_is_the_mean_error_over_coverages(uncertainty: ModuleType) -> None:
    correct = np.array([True, False, True, True])
    aurc = uncertainty.area_under_risk_coverage
    assert aurc(np.array([0.9, 0.1, 0.8, 0.7]), correct) == pytest.approx((0 + 0 + 0 + 1 / 4) / 4)
    assert aurc(np.array([0.1, 0.9, 0.8, 0.7]), correct) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_spread_is_zero_where_members_agree(uncertainty: ModuleType) -> None:
    members = np.array([[[0.9, 0.1], [1.0, 0.0]], [[0.9, 0.1], [0.0, 1.0]]])  # (E, N, K)
    assert uncertainty.mutual_information(members) == pytest.approx([0.0, np.log(2)], abs=1e-9)


def test_methods_agree_if_all_members_do(uncertainty: ModuleType) -> None:
    source = np.random.default_rng(0)
    logits, true = source.normal(size=(1, 40, 3)), source.integers(3, size=40)
    same = {"true": true, "mixed": logits, "heads": logits.repeat(4, 0), "experts": logits.repeat(4, 0)}
    metrics = {name: uncertainty.metrics_of(method(same, same), true) for name, method in uncertainty.METHODS.items()}
    for name, values in metrics.items():
        reference = metrics[uncertainty.BASE if "temperature" in name or "information" in name else "one expert"]
        assert values[:2] == pytest.approx(reference[:2])


@pytest.mark.slow
def test_uncertainty_runs_and_prints_from_logits(
    uncertainty: ModuleType, run: Callable[..., str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncertainty, "DRAWS", 20)
    out = tmp_path / "out"
    run(uncertainty, data, "--out", out / "a", "--seeds", 13, "--domains", "fpb")
    run(uncertainty, data, "--out", out / "b", "--seeds", 42, "--domains", "fpb")
    output = run(uncertainty, data, "--out", out, "--print-only")
    assert "fpb: seeds 13, 42" in output
    for name in uncertainty.METHODS:
        assert name in output

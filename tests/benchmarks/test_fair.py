"""Tests of `benchmarks/fair.py`: settings of equal size and passes, and a tiny run of both parts."""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from moe.config.run import load_run

Import = Callable[[str], ModuleType]
SHORT = ["stages.warmup.steps=7", "stages.shared.min_steps=1", "stages.expert.min_steps=1"]


@pytest.fixture
def fair(benchmark: Import) -> ModuleType:
    return benchmark("fair")


def test_settings_of_the_grid_have_equal_total_ranks(fair: ModuleType, data: Path, tmp_path: Path) -> None:
    rank = 120
    args = argparse.Namespace(data=data, out=tmp_path, config=fair.CONFIG, sets=[], prepared=None)
    mixture = fair.workspace(args, fair.Setting("mixture", rank, 2e-3), 13).run
    pooled = fair.workspace(args, fair.Setting("pooled", rank, 2e-3), 13).run
    assert mixture.shared.r + mixture.lora.r * len(mixture.domains) == pooled.shared.r == rank
    assert mixture.stages.shared.lr == pooled.stages.shared.lr == 2e-3
    default = load_run(fair.CONFIG)
    assert mixture.stages.expert.lr == pytest.approx(2 * default.stages.expert.lr)
    assert mixture.shared.alpha / mixture.shared.r == default.shared.alpha / default.shared.r


def test_pooled_lora_reads_the_rows_of_all_stages(fair: ModuleType, data: Path, tmp_path: Path) -> None:
    args = argparse.Namespace(data=data, out=tmp_path, config=fair.CONFIG, sets=SHORT, prepared=None)
    work = fair.workspace(args, fair.Setting("mixture", 60, 1e-3), 13)
    stages, sizes = work.run.stages, [len(work.rows("train", [name])) for name in work.run.domains]
    batches = [-(-size // 32) for size in sizes]
    expected = 3 * -(-sum(sizes) // 32) + sum(batches) + 7 + -(-sum(sizes) // 32)
    assert fair.pooled_steps(work) == (expected, sum(stage.evals for stage in _trained(stages)))


def _trained(stages: object) -> list[object]:
    return [getattr(stages, name) for name in ("shared", "expert", "warmup", "joint")]


def test_best_setting_is_the_best_on_validation_rows_of_the_tuning_seed(fair: ModuleType) -> None:
    low, high = fair.GRID[0], fair.GRID[1]
    results = [
        {"model": low.name, "seed": 13, "validation": 0.7},
        {"model": high.name, "seed": 13, "validation": 0.8},
        {"model": low.name, "seed": 42, "validation": 0.9},
    ]
    assert fair.best_setting(results, "mixture") == high
    assert fair.best_setting(results, "pooled") is None


@pytest.mark.slow
def test_fair_tunes_and_compares(
    fair: ModuleType, run: Callable[..., str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(fair, data, "--part", "prepare", "--prepared", tmp_path / "rows")
    settings = ["--rank", "60", "--lr", "0.001", "--prepared", tmp_path / "rows"]
    run(fair, data, "--out", out / "a", "--part", "tune", *settings, "--model", "mixture")
    run(fair, data, "--out", out / "b", "--part", "tune", *settings, "--model", "pooled")
    run(fair, data, "--out", out / "c", "--part", "main", "--tuned", out, "--seeds", "42", *settings[4:])
    assert not list(out.glob("*/rows"))
    monkeypatch.setattr(fair, "measure", None)
    output = run(fair, data, "--out", out, "--print-only")
    assert "mixture, r 60, lr 0.001" in output
    assert "seeds: 13, 42" in output
    assert "preliminary" in output
    assert "mean without" in output

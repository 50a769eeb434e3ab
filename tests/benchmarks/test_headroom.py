"""Tests of `benchmarks/headroom.py`: oracle and disagreement of given answers, and a tiny run."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from experts.domain import Domain, LabelSpace


@pytest.fixture
def headroom(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("headroom")


def result(model: str, seed: int, predicted: str) -> dict[str, object]:
    """A model's predictions of four rows, a letter each, whose labels are a, b, a, b."""
    return {"model": model, "seed": seed, "predictions": {"news": (list("abab"), list(predicted))}}


def test_oracle_is_right_where_a_member_is(headroom: ModuleType) -> None:
    members = [result("expert x", 1, "aaaa"), result("expert y", 1, "abba")]
    oracle = headroom.apply(headroom.any_right, [members])["news"]
    assert (oracle.predicted == oracle.true).tolist() == [[True, True, True, False]]
    differ = headroom.apply(headroom.not_unanimous, [members])["news"]
    assert (differ.predicted == differ.true).mean() == 0.5
    assert np.mean(headroom.apply(headroom.mean_right, [members])["news"].predicted == 0) == 0.5


def test_headroom_compares_oracles_of_as_many_members(headroom: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    space = LabelSpace.from_domains([Domain("news", {"news": ("a", "b")})])
    experts = [result("expert x", 1, "aaaa"), result("expert y", 1, "bbbb")]
    pooled = [result("pooled", seed, "abbb") for seed in (1, 2, 3)]
    headroom.print_headroom([*experts, *pooled], space)
    output = capsys.readouterr().out
    assert "100.0" in output, "each text has an expert that is right"
    assert "+25.00" in output, "the pooled seeds agree, so their oracle is their accuracy"


def test_headroom_waits_for_enough_seeds(headroom: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    space = LabelSpace.from_domains([Domain("news", {"news": ("a", "b")})])
    headroom.print_headroom([result("expert x", 1, "aaaa"), result("expert y", 1, "bbbb")], space)
    assert "0 so far" in capsys.readouterr().out


@pytest.mark.slow
def test_headroom_runs_in_parts(headroom: ModuleType, run: Callable[..., str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(headroom, data, "--out", out / "a", "--part", "experts", "--seeds", 13)
    run(headroom, data, "--out", out / "b", "--part", "pooled", "--seeds", 13, 42, 87, 1, 2)
    output = run(headroom, data, "--out", out, "--print-only")
    assert "mean without" in output
    assert "quant" in output

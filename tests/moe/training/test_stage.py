"""Tests of a stage: messages if it has too few steps for DWA, or for its epochs."""

import re

import pytest
from conftest import Make

from moe.training.expert_steps import train_domain


@pytest.mark.parametrize(("every", "warned"), [(100, True), (2, False)])
def test_stage_warns_of_too_few_steps_for_dwa(
    make_work: Make, capsys: pytest.CaptureFixture[str], every: int, warned: bool
) -> None:
    over = {"losses": {"inner": "dwa"}, "comparators": {"dwa_every": every}}
    train_domain(make_work("run", **over), "news")
    assert ("news: DWA weights all losses equally in its first 200 steps" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(("most", "limited"), [(1, True), (50, False)])
def test_stage_says_after_how_many_epochs_the_most_steps_end_it(
    make_work: Make, capsys: pytest.CaptureFixture[str], most: int, limited: bool
) -> None:
    stage = {"steps": None, "epochs": 2, "min_steps": 1, "max_steps": most, "evals": 1}
    train_domain(make_work("run", stages={"expert": stage}), "news")
    errors = " ".join(capsys.readouterr().err.split())
    message = (
        r"news: max_steps 1 ends the stage after 0\.\d\d of 2 epochs: raise stages\.expert\.max_steps to train longer"
    )
    assert (re.search(message, errors) is not None) == limited

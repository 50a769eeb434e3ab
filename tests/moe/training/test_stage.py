"""Tests of a stage: a warning if it has too few steps for DWA."""

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

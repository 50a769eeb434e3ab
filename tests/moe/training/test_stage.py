"""Claims about one stage: a balance that its steps are too few for is told."""

import pytest
from conftest import Make

from moe.training.steps import train_domain


@pytest.mark.parametrize(("every", "told"), [(100, True), (2, False)])
def test_too_few_steps_for_dwa_are_told(
    make_work: Make, capsys: pytest.CaptureFixture[str], every: int, told: bool
) -> None:
    over = {"losses": {"inner": "dwa"}, "comparators": {"dwa_every": every}}
    train_domain(make_work("run", **over), "news")
    assert ("news: DWA weighs all losses alike for its first 200 steps" in capsys.readouterr().err) == told

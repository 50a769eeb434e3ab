"""Tests of a stage: a warning if it has too few steps for DWA, and the number of trained parameters."""

import pytest
from conftest import Make

from experts.expert_io import read_expert
from moe.training.expert_steps import train_domain


@pytest.mark.parametrize(("every", "warned"), [(100, True), (2, False)])
def test_stage_warns_of_too_few_steps_for_dwa(
    make_work: Make, capsys: pytest.CaptureFixture[str], every: int, warned: bool
) -> None:
    over = {"losses": {"inner": "dwa"}, "comparators": {"dwa_every": every}}
    train_domain(make_work("run", **over), "news")
    assert ("news: DWA weights all losses equally in its first 200 steps" in capsys.readouterr().err) == warned


def test_stage_counts_the_copies_of_adamix_among_the_trained_parameters(
    make_work: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {}
    for copies in (1, 3):
        work = make_work(f"run-{copies}", lora={"adamix": copies})
        train_domain(work, "news")
        printed = capsys.readouterr().err.split("trainable parameters: experts ")[1]
        counts[copies] = int(printed.split(", heads")[0].replace(",", ""))
    weights = read_expert(work.expert_folder("news")).weights
    side_b = sum(tensor.numel() for key, tensor in weights.items() if ".lora_B" in key)
    assert counts == {1: sum(tensor.numel() for tensor in weights.values()), 3: counts[1] + 2 * side_b}

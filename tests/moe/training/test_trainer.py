"""Claims about the loop: Ctrl-C leaves a checkpoint that goes on, unused experts stay put."""

from pathlib import Path

import pytest
import torch
from conftest import Make
from safetensors.torch import load_file
from signals import LONG, interrupt_at

from moe.config.stages import EXPERT
from moe.errors import Fault, Interrupted
from moe.training.job import TrainJob
from moe.training.steps import train_domain
from moe.training.trainer import fit


def test_ctrl_c_saves_and_resume_ends_as_if_nothing_had_happened(
    make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_work("whole", **LONG)
    train_domain(whole, "news")
    work = make_work("stopped", **LONG)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Interrupted):
            train_domain(work, "news")
    assert [p.name for p in work.checkpoints("news").glob("checkpoint-*") if p.name.endswith("-6")]
    assert not work.expert_folder("news").exists()
    train_domain(work, "news", resume=True)
    first, second = (load_file(one.expert_folder("news") / "adapter_model.safetensors") for one in (whole, work))
    for key, tensor in first.items():
        assert torch.equal(second[key], tensor)
    assert not work.checkpoints("news").exists()


def test_early_stopping_keeps_the_best_evaluation(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.9, 0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr("moe.training.steps.validate", lambda *_: {"macro_f1": next(scores)})
    work = make_work(stages={"expert": {"steps": 12, "evals": 6, "patience": 2}})
    train_domain(work, "news")
    from experts.expert_io import read_expert

    card = read_expert(work.expert_folder("news")).card
    assert card is not None
    assert card.metrics["macro_f1"] == 0.9
    assert card.steps == 8, "stopped two evaluations after the best"


def test_a_domain_without_training_rows_says_so(make_work: Make, tmp_path: Path) -> None:
    work = make_work(domains={"news": {"split": {"own": False, "ratios": [1, 0, 0]}}})
    object.__setattr__(work, "_prepared", {})
    rows = work.rows("train", ["news"])
    assert len(rows) == 90
    empty = rows.select([])
    with pytest.raises(Fault, match="training rows"):
        fit(None, TrainJob(EXPERT, None, None, empty, None, None, tmp_path, tmp_path, 0, "news"))

"""Claims about checkpoints: halves are passed over, a full disk is a sentence, SIGTERM saves."""

import errno
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Make
from safetensors.torch import load_file
from signals import LONG, interrupt_at

from experts.atomic_io import write_manifest
from moe.errors import Fault, Interrupted
from moe.runs.workspace import Workspace
from moe.training.checkpoints import last_complete_checkpoint, get_rng_state, set_rng_state
from moe.training.steps import train_domain
from moe.training.trainer import _StageTrainer


def weights(work: Workspace) -> dict[str, torch.Tensor]:
    return load_file(work.expert_folder("news") / "adapter_model.safetensors")


def test_the_newest_whole_checkpoint_is_taken_and_halves_are_taken_away(tmp_path: Path) -> None:
    for step in (4, 10, 12, 14):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "weights").write_text(f"{step}")
    for step in (4, 10, 12):
        write_manifest(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-12" / "weights").write_text("cut")
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4"]
    assert last_complete_checkpoint(tmp_path / "none") is None


def test_resume_goes_on_before_a_checkpoint_that_was_cut(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_work("whole", **LONG)
    train_domain(whole, "news")
    work = make_work("cut", **LONG)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 9)
        with pytest.raises(Interrupted):
            train_domain(work, "news")
    (work.checkpoints("news") / "checkpoint-10" / "optimizer.safetensors").write_bytes(b"cut")
    train_domain(work, "news", resume=True)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(work)[name], tensor)


def test_a_checkpoint_holds_tensors_and_json_alone(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(**LONG)
    interrupt_at(monkeypatch, 5)
    with pytest.raises(Interrupted):
        train_domain(work, "news")
    found = {path.suffix for path in (work.checkpoints("news") / "checkpoint-6").iterdir()}
    assert found == {".safetensors", ".json"}


def test_random_numbers_go_on_where_they_stood() -> None:
    random.gauss(0, 1)
    np.random.normal()
    state = get_rng_state()

    def draws() -> list[float]:
        return [random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.rand(()).item()]

    expected = draws()
    set_rng_state(state)
    assert draws() == expected


def test_sigterm_saves_and_tells_its_number(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work, before = make_work(**LONG), signal.getsignal(signal.SIGTERM)
    interrupt_at(monkeypatch, 5, signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        train_domain(work, "news")
    assert stopped.value.number == signal.SIGTERM
    assert last_complete_checkpoint(work.checkpoints("news")) == work.checkpoints("news") / "checkpoint-6"
    assert signal.getsignal(signal.SIGTERM) == before, "the handler of before is back"


def test_a_stop_where_an_evaluation_is_due_measures_first(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_work("whole", **LONG)
    train_domain(whole, "news")
    for step in (3, 11):  # the step that runs is the next: 4, where one is due, and the last
        work = make_work(f"stopped{step}", **LONG)
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            with pytest.raises(Interrupted):
                train_domain(work, "news")
        train_domain(work, "news", resume=True)
        one, other = (run.expert_folder("news") / "metrics.json" for run in (whole, work))
        assert one.read_text() == other.read_text()


def test_a_stage_that_was_stopped_early_and_killed_before_its_folder_was_written_takes_no_step_more(
    make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(stages={"expert": {"steps": 12, "evals": 6, "patience": 2}})
    scores = [0.5, 0.9, 0.4, 0.3]
    left = iter(scores)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moe.training.steps.validate", lambda *_: {"macro_f1": next(left)})
    with monkeypatch.context() as patch:
        patch.setattr("moe.training.steps.write_expert", killed)
        with pytest.raises(KeyboardInterrupt):
            train_domain(work, "news")
    monkeypatch.setattr(_StageTrainer, "training_step", lambda *_: pytest.fail("it goes on"))
    train_domain(work, "news", resume=True)
    from experts.expert_io import read_expert

    card = read_expert(work.expert_folder("news")).card
    assert card is not None
    assert (card.metrics["macro_f1"], card.steps) == (0.9, 8)


def test_evaluations_without_gain_are_counted_across_a_stop(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(stages={"expert": {"steps": 12, "evals": 6, "patience": 3}})
    scores = iter([0.9, 0.4, 0.3, 0.2, 0.1, 0.0])
    monkeypatch.setattr("moe.training.steps.validate", lambda *_: {"macro_f1": next(scores)})
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        with pytest.raises(Interrupted):
            train_domain(work, "news")
    train_domain(work, "news", resume=True)
    from experts.expert_io import read_expert

    card = read_expert(work.expert_folder("news")).card
    assert card is not None
    assert card.steps == 8, "two before the stop and one after it"


@pytest.mark.parametrize("what", ["save_tensors", "write_manifest"])
def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoint_before_whole(
    what: str, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_work("whole", **LONG)
    train_domain(whole, "news")
    work = make_work("full", **LONG)
    place = "moe.training.trainer.save_tensors" if what == "save_tensors" else "moe.training.checkpoints.write_manifest"
    plain = __import__(place.rpartition(".")[0], fromlist=["x"]).__dict__[what]

    def full(path: Path, *args: object) -> None:
        if "checkpoint-8" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(Fault, match=r"checkpoint-8.*No space left.*--resume"):
            train_domain(work, "news")
    assert [path.name for path in work.checkpoints("news").iterdir()] == ["checkpoint-4"]
    train_domain(work, "news", resume=True)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(work)[name], tensor)


def test_a_run_folder_may_be_moved_while_a_stage_is_stopped(
    make_work: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work = make_work("before", **LONG)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Interrupted):
            train_domain(work, "news")
    work.out.rename(tmp_path / "after")
    moved = make_work("after", **LONG)
    train_domain(moved, "news", resume=True)
    assert weights(moved)

"""Tests of checkpoints: incomplete ones are ignored, a full disk is a clear fault, SIGTERM saves one."""

import errno
import os
import random
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Make
from safetensors.torch import load_file, save_file
from signals import LONG_STAGE, interrupt_at

from experts.atomic_io import write_json, write_manifest
from moe.errors import Fault, Interrupted
from moe.runs.workspace import Workspace
from moe.training.checkpoints import get_rng_state, last_complete_checkpoint, set_rng_state
from moe.training.expert_steps import train_domain
from moe.training.trainer import _StageTrainer


def weights(work: Workspace) -> dict[str, torch.Tensor]:
    return load_file(work.expert_folder("news") / "adapter_model.safetensors")


def test_newest_complete_checkpoint_is_used_and_incomplete_ones_are_deleted(tmp_path: Path) -> None:
    names = ("trained.safetensors", "objective.safetensors", "optimizer.safetensors", "random.safetensors")
    for step in (4, 10, 12, 14, 16, 18):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for name in (*names, "schedule.json", "trainer_state.json"):
            (tmp_path / f"checkpoint-{step}" / name).write_text(f"{step}")
    for step in (4, 10, 12, 14, 16):
        write_manifest(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-12" / "trained.safetensors").write_text("cut")
    write_json(tmp_path / "checkpoint-14" / "manifest.json", {"sha256": {}})
    write_manifest(tmp_path / "checkpoint-16", unlisted=["optimizer.safetensors"])
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4"]
    assert last_complete_checkpoint(tmp_path / "none") is None


def test_resume_ignores_a_truncated_checkpoint(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = make_work("whole", **LONG_STAGE)
    train_domain(undisturbed, "news")
    work = make_work("cut", **LONG_STAGE)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 9)
        with pytest.raises(Interrupted):
            train_domain(work, "news")
    (work.checkpoints("news") / "checkpoint-10" / "optimizer.safetensors").write_bytes(b"cut")
    train_domain(work, "news", resume=True)
    for name, tensor in weights(undisturbed).items():
        assert torch.equal(weights(work)[name], tensor)


def test_checkpoint_holds_only_tensors_and_json(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(**LONG_STAGE)
    interrupt_at(monkeypatch, 5)
    with pytest.raises(Interrupted):
        train_domain(work, "news")
    suffixes = {path.suffix for path in (work.checkpoints("news") / "checkpoint-6").iterdir()}
    assert suffixes == {".safetensors", ".json"}


def test_rng_state_is_restored() -> None:
    random.gauss(0, 1)
    np.random.normal()
    state = get_rng_state()

    def draws() -> list[float]:
        return [random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.rand(()).item()]

    expected = draws()
    set_rng_state(state)
    assert draws() == expected


def test_sigterm_saves_a_checkpoint_and_raises_with_its_number(
    make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, before = make_work(**LONG_STAGE), signal.getsignal(signal.SIGTERM)
    interrupt_at(monkeypatch, 5, signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        train_domain(work, "news")
    assert stopped.value.number == signal.SIGTERM
    assert last_complete_checkpoint(work.checkpoints("news")) == work.checkpoints("news") / "checkpoint-6"
    assert signal.getsignal(signal.SIGTERM) == before, "the previous handler is restored"


def test_stop_at_a_step_with_an_evaluation_evaluates_first(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = make_work("whole", **LONG_STAGE)
    train_domain(undisturbed, "news")
    for step in (3, 11):  # interrupts the following step: 4, which has an evaluation, and the last one
        work = make_work(f"stopped{step}", **LONG_STAGE)
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            with pytest.raises(Interrupted):
                train_domain(work, "news")
        train_domain(work, "news", resume=True)
        expected, resumed = (run.expert_folder("news") / "metrics.json" for run in (undisturbed, work))
        assert expected.read_text() == resumed.read_text()


def test_resume_of_a_finished_stage_without_its_output_takes_no_further_step(
    make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(stages={"expert": {"steps": 12, "evals": 6, "patience": 2}})
    scores = iter([0.5, 0.9, 0.4, 0.3])

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moe.training.expert_steps.validate", lambda *_: {"macro_f1": next(scores)})
    with monkeypatch.context() as patch:
        patch.setattr("moe.training.expert_folder.write_expert", killed)
        with pytest.raises(KeyboardInterrupt):
            train_domain(work, "news")
    monkeypatch.setattr(_StageTrainer, "training_step", lambda *_: pytest.fail("another step is trained"))
    train_domain(work, "news", resume=True)
    from experts.expert_io import read_expert

    card = read_expert(work.expert_folder("news")).card
    assert card is not None
    assert (card.metrics["macro_f1"], card.steps) == (0.9, 8)


def test_patience_counts_evaluations_across_a_stop(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(stages={"expert": {"steps": 12, "evals": 6, "patience": 3}})
    scores = iter([0.9, 0.4, 0.3, 0.2, 0.1, 0.0])
    monkeypatch.setattr("moe.training.expert_steps.validate", lambda *_: {"macro_f1": next(scores)})
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        with pytest.raises(Interrupted):
            train_domain(work, "news")
    train_domain(work, "news", resume=True)
    from experts.expert_io import read_expert

    card = read_expert(work.expert_folder("news")).card
    assert card is not None
    assert card.steps == 8, "two before the stop and one after it"


@pytest.mark.parametrize("umask", [0o027, 0o022])
def test_rights_of_all_files_of_a_run_follow_the_umask(
    umask: int, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(umask)
    try:
        work = make_work(**LONG_STAGE)
        train_domain(work, "forum")
        with monkeypatch.context() as patch:
            interrupt_at(patch, 9)
            with pytest.raises(Interrupted):
                train_domain(work, "news")
    finally:
        os.umask(before)
    paths = list(work.out.rglob("*"))
    assert {"manifest.json", "trained.safetensors", "adapter_model.safetensors"} <= {path.name for path in paths}
    assert any(path.suffix == ".arrow" for path in paths)
    for path in paths:
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_best_checkpoint_that_was_changed_is_not_loaded(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(**LONG_STAGE)
    load = _StageTrainer.load_best

    def change_and_load(trainer: _StageTrainer) -> None:
        for path in work.checkpoints("news").glob("*/trained.safetensors"):
            tensors = load_file(path)
            save_file({name: -tensor for name, tensor in tensors.items()}, path)
        load(trainer)

    monkeypatch.setattr(_StageTrainer, "load_best", change_and_load)
    with pytest.raises(Fault, match=r"trained\.safetensors with sha256"):
        train_domain(work, "news")


@pytest.mark.parametrize("function", ["save_tensors", "finish_folder"])
def test_full_disk_is_a_fault_that_leaves_the_previous_checkpoint_intact(
    function: str, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = make_work("whole", **LONG_STAGE)
    train_domain(undisturbed, "news")
    work = make_work("full", **LONG_STAGE)
    module = "moe.training.trainer" if function == "save_tensors" else "moe.training.checkpoints"
    original = __import__(module, fromlist=["x"]).__dict__[function]

    def fail_at_step_8(path: Path, *args: object, **options: object) -> None:
        if "checkpoint-8" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{function}", fail_at_step_8)
        with pytest.raises(Fault, match=r"checkpoint-8.*No space left.*--resume"):
            train_domain(work, "news")
    assert [path.name for path in work.checkpoints("news").iterdir()] == ["checkpoint-4"]
    train_domain(work, "news", resume=True)
    for name, tensor in weights(undisturbed).items():
        assert torch.equal(weights(work)[name], tensor)


def test_run_folder_may_be_moved_before_resuming(
    make_work: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work = make_work("before", **LONG_STAGE)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Interrupted):
            train_domain(work, "news")
    work.out.rename(tmp_path / "after")
    moved = make_work("after", **LONG_STAGE)
    train_domain(moved, "news", resume=True)
    assert weights(moved)

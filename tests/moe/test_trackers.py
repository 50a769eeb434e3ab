"""Claims about trackers: one setting names them, a missing library is told before training, each stage is one run."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import Make
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from moe.errors import Fault
from moe.trackers import check_trackers, tracker_run
from moe.training.job import TrainJob, training_arguments
from moe.training.steps import train_domain
from moe.training.trainer import fit


class Told(TrainerCallback):
    """Stands for a tracker's callback and keeps what it was told."""

    heard: list[Any] = []  # noqa: RUF012 — emptied by the fixture

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.heard.append((args.run_name, state.global_step, logs))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A made-up wandb, and our callback in place of its own."""
    wandb: Any = ModuleType("wandb")
    wandb.run, wandb.ended = None, 0

    def finish() -> None:
        wandb.run, wandb.ended = None, wandb.ended + 1

    wandb.finish, wandb.__spec__ = finish, object()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Told)
    Told.heard.clear()
    return wandb


def test_the_setting_reaches_transformers_and_the_callback_hears_every_step(
    make_work: Make, library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainJob] = []
    monkeypatch.setattr("moe.training.stage.fit", lambda model, job: seen.append(job) or fit(model, job))
    work = make_work(track=["wandb"])
    train_domain(work, "news")
    (job,) = seen
    assert (job.track, job.name) == (("wandb",), "run/news")
    steps = [number for name, number, logs in Told.heard if name == "run/news" and "classes" in logs]
    assert steps == list(range(1, 7))
    assert not list(work.logs("news").glob("events*"))


def test_report_to_holds_what_is_not_ours_to_write(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    def caught(model: Any, job: TrainJob) -> Any:
        for track in ((), ("tensorboard",), ("tensorboard", "wandb", "mlflow")):
            found.append(training_arguments(model, replace(job, track=track), 4).report_to)
        return fit(model, job)

    monkeypatch.setattr("moe.training.stage.fit", caught)
    work = make_work()
    train_domain(work, "news")
    assert found == [[], [], ["wandb", "mlflow"]]
    assert list(work.logs("news").glob("events.out.tfevents*")), "TensorBoard is there by default"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_is_a_fault_before_training(
    make_work: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    work = make_work(track=[name])
    with pytest.raises(Fault, match=f"pip install {name}"):
        train_domain(work, "news")
    assert not work.out.exists()


def test_what_is_there_is_not_refused() -> None:
    check_trackers(("tensorboard",))
    check_trackers(())


def test_a_stage_ends_the_run_that_it_began_and_no_other(library: Any, tmp_path: Path) -> None:
    with tracker_run(("wandb",)):
        library.run = object()
    assert (library.run, library.ended) == (None, 1)
    library.run = mine = object()
    with tracker_run(("wandb",)):
        pass
    assert (library.run, library.ended) == (mine, 1)

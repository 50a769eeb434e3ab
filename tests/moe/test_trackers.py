"""Tests of trackers: a setting selects them, a missing library is reported before training, each stage is one run."""

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
from moe.training.expert_steps import train_domain
from moe.training.job import TrainJob, training_arguments
from moe.training.trainer import fit


class RecordingCallback(TrainerCallback):
    """Replaces a tracker's callback, and records what is logged."""

    logged: list[Any] = []  # noqa: RUF012 — emptied by the fixture

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logged.append((args.run_name, state.global_step, logs))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Fake wandb module, with `RecordingCallback` in place of its callback."""
    wandb: Any = ModuleType("wandb")
    wandb.run, wandb.finished = None, 0

    def finish() -> None:
        wandb.run, wandb.finished = None, wandb.finished + 1

    wandb.finish, wandb.__spec__ = finish, object()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", RecordingCallback)
    RecordingCallback.logged.clear()
    return wandb


def test_track_setting_logs_every_step_to_the_tracker(
    make_work: Make, library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[TrainJob] = []
    monkeypatch.setattr("moe.training.stage.fit", lambda model, job: jobs.append(job) or fit(model, job))
    work = make_work(track=["wandb"])
    train_domain(work, "news")
    (job,) = jobs
    assert (job.track, job.run_name) == (("wandb",), "run/news")
    steps = [number for name, number, logs in RecordingCallback.logged if name == "run/news" and "classes" in logs]
    assert steps == list(range(1, 7))
    assert not list(work.logs("news").glob("events*"))


def test_report_to_excludes_tensorboard_which_has_its_own_callback(
    make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_to: list[Any] = []

    def intercepted_fit(model: Any, job: TrainJob) -> Any:
        for track in ((), ("tensorboard",), ("tensorboard", "wandb", "mlflow")):
            report_to.append(training_arguments(model, replace(job, track=track), 4).report_to)
        return fit(model, job)

    monkeypatch.setattr("moe.training.stage.fit", intercepted_fit)
    work = make_work()
    train_domain(work, "news")
    assert report_to == [[], [], ["wandb", "mlflow"]]
    assert list(work.logs("news").glob("events.out.tfevents*")), "TensorBoard is the default"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_tracker_library_is_a_fault_before_training(
    make_work: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    work = make_work(track=[name])
    with pytest.raises(Fault, match=f"pip install {name}"):
        train_domain(work, "news")
    assert not work.out.exists()


def test_check_trackers_accepts_tensorboard_and_no_tracker() -> None:
    check_trackers(("tensorboard",))
    check_trackers(())


def test_tracker_run_finishes_only_the_run_that_it_started(library: Any, tmp_path: Path) -> None:
    with tracker_run(("wandb",)):
        library.run = object()
    assert (library.run, library.finished) == (None, 1)
    library.run = outer = object()
    with tracker_run(("wandb",)):
        pass
    assert (library.run, library.finished) == (outer, 1)

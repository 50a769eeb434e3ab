"""Tests of the selection of a run's best mixture: the joint one only if its gain exceeds the noise."""

from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, Make

from moe.evaluation.rows import PredictedRow
from moe.inference.predictor import Prediction
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.selection import select_best_mixture

ROWS = 60


def predicted(right: int) -> list[PredictedRow]:
    """Predictions of `ROWS` rows in turn negative, neutral and positive, of which the first `right` are correct."""
    rows = []
    for i in range(ROWS):
        answer = np.roll([0.8, 0.1, 0.1], i if i < right else i + 1)  # (K,)
        prediction = Prediction("news", LABELS, answer, None, np.ones(1), entropy=0.0, truncated=False)
        rows.append(PredictedRow({"task": "news", "domain": "news"}, LABELS[i % 3], prediction, prediction))
    return rows


def select(work: Workspace, monkeypatch: pytest.MonkeyPatch, **right: int) -> str:
    """Select among mixtures whose first `right` predictions are correct, by the name of the stage."""
    folders = {"moe-init": "init", "router-warmup": "warmup", "moe-joint": "joint"}

    def predict(_: Workspace, folder: Path) -> tuple[dict[str, float], list[PredictedRow]]:
        correct = right[folders[folder.name]]
        return {"macro_f1": correct / ROWS}, predicted(correct)

    monkeypatch.setattr("moe.training.selection._predict_validation", predict)
    return select_best_mixture(work)


def test_merged_mixture_is_never_selected_as_best(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work()
    verdict = select(work, monkeypatch, init=54, warmup=42, joint=36)
    assert verdict.startswith("best by validation macro-F1: router-warmup (moe-init 0.900")
    assert "the joint phase made it worse" in verdict
    assert verdict.endswith("with a router that knows nothing, it was better")
    assert best_model(work.out).name == "router-warmup"


@pytest.mark.parametrize("joint", [43, 44])
def test_gain_that_may_be_chance_keeps_the_warm_start(
    make_work: Make, monkeypatch: pytest.MonkeyPatch, joint: int
) -> None:
    # Of 44 right rows, two more than before, the gain exceeds one standard error but not its 95 % interval.
    work = make_work()
    verdict = select(work, monkeypatch, init=30, warmup=42, joint=joint)
    assert best_model(work.out).name == "router-warmup"
    assert "may be chance (95 %:" in verdict


def test_clear_gain_of_the_joint_mixture_selects_it(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work()
    select(work, monkeypatch, init=30, warmup=42, joint=54)
    assert best_model(work.out).name == "moe-joint"


def test_joint_mixture_that_kept_its_start_is_said_to_bring_nothing(
    make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work()
    assert "brought nothing" in select(work, monkeypatch, init=30, warmup=42, joint=42)
    assert best_model(work.out).name == "router-warmup"

"""Tests for sweeps over folds: one option runs them all, with spans, baselines and drift, and resumes."""

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from conftest import made_up_rows, tiny_settings, write_csv
from rich.console import Console

from experts.errors import Fault
from moe.sweep import folds as folds_module
from moe.sweep.fold_view import fold_view
from moe.sweep.grid import is_sweep, read_plan
from moe.sweep.results import SweepSummary
from moe.sweep.run import run_sweep
from moe.sweep.settings import SweepSettings

START = datetime(2024, 1, 1, 12, tzinfo=UTC)
WALK = {"own": False, "walk_forward": {"folds": 2, "train": "5m", "test": "2m"}}
EXPERTS = "run: tiny.yaml\nuntil: expert\ndomains: [news]\nfolds: true\n"


def prepare_folder(folder: Path, backbone: Path, *, split: object = WALK, **domain: object) -> Path:
    """Write two rows a day of 2024 and a run config whose news walk forward."""
    rows = made_up_rows("news", 600)
    for number, row in enumerate(rows):
        row["published_at"] = (START + timedelta(days=number // 2)).isoformat()
    write_csv(folder / "data" / "news.csv", rows)
    write_csv(folder / "data" / "forum.csv", made_up_rows("forum"))
    settings = tiny_settings(backbone, folder / "data")
    settings["domains"]["news"] |= {"columns": {"time": "published_at"}, "split": split} | domain
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (folder / "sweep.yaml").write_text(EXPERTS, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def workdir(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with data and configs."""
    return prepare_folder(tmp_path_factory.mktemp("folds"), tiny_folder)


@pytest.fixture(scope="module")
def swept(workdir: Path) -> SweepSummary:
    """Finished sweep over both folds."""
    return run_sweep(workdir / "sweep.yaml", workdir / "out")


def test_every_fold_is_a_trial_with_its_spans_rows_baselines_and_drift(swept: SweepSummary) -> None:
    assert [row.measures.fold for row in swept.folds] == [0, 1]
    for row in swept.folds:
        measures = row.measures
        assert measures.periods is not None
        assert measures.periods["train"][1] < measures.periods["validation"][0] < measures.periods["test"][0]
        assert measures.rows["test"] > 50
        assert 0 <= row.test["macro_f1"].mean <= 1
        assert measures.tfidf.macro_f1 is not None
        assert measures.tfidf.macro_f1 > 0.5  # single verbs decide the label
        assert measures.majority.accuracy == pytest.approx(1 / 3, abs=0.1)
        assert list(measures.drift) == ["news"]
        assert measures.drift["news"].rows == measures.rows["test"]
    first, second = (row.measures.periods["test"] for row in swept.folds if row.measures.periods)
    assert first[1] < second[0]
    assert second[1][:10] == "2024-10-26"


def test_folds_are_one_table_and_one_picture(swept: SweepSummary) -> None:
    folder = Path(swept.folder)
    assert [Path(chart).name for chart in swept.charts] == ["folds.png"]
    assert (folder / "folds.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "folds.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [row["fold"] for row in table] == ["0", "1"]
    assert [float(row["macro_f1"]) for row in table] == [row.test["macro_f1"].mean for row in swept.folds]
    assert {"train_from", "test_to", "macro_f1_tfidf", "accuracy_majority", "drift", "verdict"} <= set(table[0])
    assert len(json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["folds"]) == 2


def test_view_has_means_and_counts_folds_above_the_baseline(
    swept: SweepSummary, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(width=150, no_color=True)
    console.print(fold_view(swept))
    shown = capsys.readouterr().out
    above = sum(row.test["macro_f1"].mean > (row.measures.tfidf.macro_f1 or 0) for row in swept.folds)
    assert f"macro-F1 above that of TF-IDF in {above} of 2 folds" in shown
    for part in ("2024-10-26", "mean", "TF-IDF", "majority", "drift"):
        assert part in shown


def test_second_call_measures_nothing_again(
    workdir: Path, swept: SweepSummary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(folds_module, "_drift", refuse)
    assert run_sweep(workdir / "sweep.yaml", workdir / "out").folds == swept.folds


def test_option_and_file_plan_the_same_trials(workdir: Path) -> None:
    plan = read_plan(workdir / "tiny.yaml", folds=True)
    assert plan.fold_keys == ("domains.news.split.fold",)
    assert [list(trial.values.values()) for trial in plan.trials(plan.grid())] == [[0], [1]]
    assert is_sweep(workdir / "sweep.yaml")
    assert read_plan(workdir / "sweep.yaml").settings.over == plan.settings.over
    more = read_plan(workdir / "tiny.yaml", over=["lora.r=2,4"], folds=True)
    assert [tuple(values.values()) for values in more.grid()] == [(2, 0), (2, 1), (4, 0), (4, 1)]


def test_folds_of_several_tasks_move_together(tiny_folder: Path, tmp_path: Path) -> None:
    task = {"file": "news.csv", "labels": ["negative", "neutral", "positive"], "split": {"folds": 3}}
    tasks = {"a": task, "b": task | {"split": {"ratios": [8, 1, 1]}}}
    prepare_folder(tmp_path, tiny_folder, split={}, file=None, labels=[], columns={}, tasks=tasks)
    plan = read_plan(tmp_path / "tiny.yaml", ["domains.forum.split.folds=3"], folds=True)
    assert plan.fold_keys == ("domains.forum.split.fold", "domains.news.tasks.a.split.fold")
    assert [tuple(values.values()) for values in plan.grid()] == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(Fault, match="as many folds in every domain"):
        read_plan(tmp_path / "tiny.yaml", ["domains.forum.split.folds=4"], folds=True)


def test_folds_that_are_missing_or_swept_twice_are_refused(workdir: Path) -> None:
    none = ["domains.news.split={}"]
    with pytest.raises(Fault, match=r"a domain with split\.walk_forward or split\.folds"):
        read_plan(workdir / "tiny.yaml", none, folds=True)
    with pytest.raises(Fault, match=r"folds that are not swept otherwise; found domains\.news\.split\.fold under over"):
        read_plan(workdir / "tiny.yaml", over=["domains.news.split.fold=0,1"], folds=True)
    with pytest.raises(ValueError, match="folds are for a grid"):
        SweepSettings.model_validate({"folds": True, "search": {"ranges": {"lora.r": {"low": 1, "high": 9}}}})

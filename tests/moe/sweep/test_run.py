"""Claims about sweeps that run: what is measured, what is shared, what is kept and what goes on."""

import csv
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml
from conftest import NOUNS, made_up_rows, tiny_settings, write_csv

from experts.errors import Fault
from moe.errors import Interrupted
from moe.sweep.grid import read_plan
from moe.sweep.run import run_sweep
from moe.sweep.search import JOURNAL
from moe.sweep.trials import average_figures, selection_score
from moe.training.trainer import _StageTrainer

FIGURES = {"accuracy", "macro_f1", "weighted_precision", "weighted_recall", "weighted_f1", "mse", "mae", "rmse", "r2"}
EXPERTS = "run: tiny.yaml\nuntil: expert\ndomains: [news]\n"


def place_of(folder: Path, backbone: Path) -> Path:
    """A folder with data and a run's config."""
    for domain in NOUNS:
        write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_settings(backbone, folder / "data")))
    return folder


@pytest.fixture
def place(tiny_folder: Path, tmp_path: Path) -> Path:
    """Such a folder for each test."""
    return place_of(tmp_path, tiny_folder)


@pytest.fixture(scope="module")
def swept(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sweep of two ranks and two seeds, for the tests that only look."""
    place = place_of(tmp_path_factory.mktemp("sweep"), tiny_folder)
    run_sweep(written(place, EXPERTS + "over: {lora.r: [2, 4]}\nseeds: [1, 2]"), place / "out")
    return place / "out"


def written(place: Path, text: str) -> Path:
    """A sweep file."""
    (place / "sweep.yaml").write_text(text, encoding="utf-8")
    return place / "sweep.yaml"


def lines(out: Path) -> list[dict]:
    """What `results.jsonl` holds."""
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_each_point_and_seed_is_a_line_with_figures_weights_seconds_and_memory(swept: Path) -> None:
    rows = lines(swept)
    assert [(one["settings"]["lora.r"], one["seed"]) for one in rows] == [(2, 1), (2, 2), (4, 1), (4, 2)]
    for one in rows:
        assert set(one["validation"]) == set(one["test"]) == FIGURES | {"tasks"}
        assert one["seconds"] > 0
        assert one["peak_mib"] > 1
    heads = 2 * rows[0]["parameters"] - rows[2]["parameters"]
    assert 0 < heads < rows[0]["parameters"] < rows[2]["parameters"]
    assert rows[0]["validation"] != rows[1]["validation"], "seeds are told apart"


def test_the_table_has_a_line_a_point_with_mean_and_spread(swept: Path) -> None:
    with (swept / "sweep.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    own = [one["test"]["macro_f1"] for one in lines(swept) if one["settings"]["lora.r"] == 2]
    assert [row["lora.r"] for row in table] == ["2", "4"]
    assert float(table[0]["test.macro_f1.mean"]) == pytest.approx(sum(own) / 2)
    assert float(table[0]["test.macro_f1.sd"]) == pytest.approx(abs(own[0] - own[1]) / 2**0.5)


def test_the_best_is_so_by_validation_and_never_by_test(swept: Path) -> None:
    content = json.loads((swept / "sweep.json").read_text())
    means = {row["point"]: row["validation"]["macro_f1"]["mean"] for row in content["points"]}
    assert content["best"] == max(means, key=lambda key: means[key])


def test_a_chart_is_drawn_and_points_share_their_rows(swept: Path) -> None:
    assert (swept / "lora.r.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(swept.glob("rows/*/data/news/*/prepared.json"))) == 1
    assert not list(swept.rglob("points/*/*/data"))
    assert not list(swept.rglob("points/*/*/cache"))


@pytest.mark.slow
def test_a_second_call_trains_nothing_and_new_values_and_seeds_add_points(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_sweep(written(place, EXPERTS + "over: {lora.r: [2]}\nseeds: [1]"), place / "out")
    trained: list[str] = []
    plain = _StageTrainer.train
    monkeypatch.setattr(_StageTrainer, "train", lambda self, **kw: trained.append(self.args.output_dir) or plain(self, **kw))
    assert run_sweep(place / "sweep.yaml", place / "out") == first
    assert not trained
    run_sweep(written(place, EXPERTS + "over: {lora.r: [4, 2]}\nseeds: [1, 2]"), place / "out")
    assert len(trained) == 3
    assert len(lines(place / "out")) == 4
    run_sweep(place / "sweep.yaml", place / "out", ["lora.dropout=0.2"])
    assert len(trained) == 7, "another setting under all points makes other points"


def test_ctrl_c_leaves_what_is_finished_and_the_next_call_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps = written(place, EXPERTS + "over: {lora.r: [2, 4]}"), []
    plain = _StageTrainer.training_step

    def pressed(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(_StageTrainer, "training_step", pressed)
        with pytest.raises(Interrupted):
            run_sweep(path, place / "out")
        assert len(lines(place / "out")) == 1
        spent = [json.loads(one.read_text())["seconds"] for one in sorted((place / "out").rglob("spent.json"))]
        run_sweep(path, place / "out")
    assert len(steps) == 12, "no step is done twice"
    assert len(lines(place / "out")) == 2
    assert all(one["seconds"] >= min(spent) for one in lines(place / "out"))


def test_until_router_measures_the_best_mixture_and_merge_the_merged(place: Path) -> None:
    text = "run: tiny.yaml\nover: {gate.kind: [soft]}\nuntil: "
    whole = run_sweep(written(place, text + "router"), place / "router")
    merged = run_sweep(written(place, text + "merge"), place / "merge")
    assert lines(place / "router")[0]["test"]["tasks"].keys() == {"news", "forum"}
    assert whole["points"][0]["parameters"] == merged["points"][0]["parameters"]
    assert len(list((place / "router").glob("points/*/*/moe-joint"))) == 1
    assert not list((place / "merge").glob("points/*/*/router-warmup"))
    assert whole["charts"] == [], "no setting of it is a number"


def test_until_shared_trains_the_shared_expert_alone(place: Path) -> None:
    text = "run: tiny.yaml\nuntil: shared\nover: {shared.r: [2, 3]}"
    run_sweep(written(place, text), place / "out")
    assert lines(place / "out")[0]["test"]["tasks"].keys() == {"news", "forum"}
    assert {one.name for one in (place / "out").glob("points/*/*/experts/*")} == {"shared"}


def test_an_expert_on_top_of_a_shared_one_has_it_trained_first(place: Path) -> None:
    text = EXPERTS + "over: {shared.r: [2]}"
    run_sweep(written(place, text), place / "out")
    assert {one.name for one in (place / "out").glob("points/*/*/experts/*")} == {"shared", "news"}


def test_a_point_whose_training_fails_is_told_and_the_others_go_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = _StageTrainer.training_step

    def broken(self, *args, **kwargs):
        if self.settings.lr == 1.0:
            raise Fault("a finite loss", "nan", "lower the stage's lr")
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(_StageTrainer, "training_step", broken)
    content = run_sweep(written(place, EXPERTS + "over: {stages.expert.lr: [1.0, 0.01]}"), place / "out")
    assert len(content["points"]) == 1
    assert "a finite loss" in next(iter(content["failed"].values()))
    with pytest.raises(Fault, match="a finite loss"):
        run_sweep(written(place, EXPERTS + "over: {stages.expert.lr: [1.0]}"), place / "none")


SEARCH = EXPERTS + (
    "over: {gate.kind: [soft, hard], lora.alpha: [8]}\n"
    "search: {trials: TRIALS, ranges: {lora.r: {low: 2, high: 8, log: true, int: true},"
    " stages.expert.lr: {low: 1e-4, high: 1e-2, log: true}}}"
)


def test_a_search_draws_points_within_its_ranges_and_goes_on_to_more(place: Path) -> None:
    run_sweep(written(place, SEARCH.replace("TRIALS", "2")), place / "out")
    first = lines(place / "out")
    assert len(first) == 2
    for one in first:
        assert 2 <= one["settings"]["lora.r"] <= 8
        assert isinstance(one["settings"]["lora.r"], int)
        assert 1e-4 <= one["settings"]["stages.expert.lr"] <= 1e-2
        assert one["settings"]["gate.kind"] in ("soft", "hard")
        assert one["settings"]["lora.alpha"] == 8
    content = run_sweep(written(place, SEARCH.replace("TRIALS", "3")), place / "out")
    assert lines(place / "out")[:2] == first
    assert len(lines(place / "out")) == 3
    assert [Path(chart).name for chart in content["charts"]] == ["lora.r.png", "stages.expert.lr.png"]


def test_a_search_takes_up_the_trial_that_was_stopped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(place, SEARCH.replace("TRIALS", "1"))
    plain = _StageTrainer.training_step

    def pressed(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return plain(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(_StageTrainer, "training_step", pressed)
        with pytest.raises(Interrupted):
            run_sweep(path, place / "out")
    run_sweep(path, place / "out")
    assert len(lines(place / "out")) == len(list((place / "out" / "points").iterdir())) == 1
    assert (place / "out" / JOURNAL).is_file()


def test_a_search_without_optuna_says_what_to_install(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(Fault, match=r"pip install 'finmoe\[sweep\]'"):
        run_sweep(written(place, SEARCH.replace("TRIALS", "1")), place / "out")


def test_a_fault_of_any_point_stops_before_anything_is_written(place: Path) -> None:
    with pytest.raises(Fault, match=r"lora.r"):
        run_sweep(written(place, EXPERTS + "over: {lora.r: [4, 0]}"), place / "out")
    assert not (place / "out").exists()


def test_a_sweep_is_named_after_its_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    content = run_sweep(written(place, EXPERTS + "over: {lora.r: [2]}"))
    assert content["folder"] == "runs/sweeps/sweep"
    assert read_plan(place / "sweep.yaml").name == "sweep"


def test_quality_is_macro_f1_or_the_least_error_where_nothing_has_labels() -> None:
    label = dict.fromkeys(("accuracy", "macro_f1", "weighted_precision", "weighted_recall", "weighted_f1"), 0.5)
    errors = {"mse": 0.4, "mae": 0.3, "rmse": 0.6}
    both = average_figures({"a": label}, {"a": {"mse": 0.2, "mae": 0.1, "rmse": 0.4}, "b": errors})
    assert selection_score(both) == 0.5
    assert both["mse"] == pytest.approx(0.3)
    assert both["tasks"]["b"] == errors
    assert selection_score(average_figures({}, {"b": {"mse": 0.4}})) == -0.4

"""Claims about label sets: the quantile is split conformal's, sets cover the true label, the report says what lacks."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Make
from logits import overconfident
from mapie.classification import SplitConformalClassifier
from mixtures import TEXTS, save_random_mixture
from rich.console import Console, RenderableType
from sklearn.base import BaseEstimator, ClassifierMixin

from experts.errors import Fault
from moe.data.formats.readers import read_records
from moe.evaluation.calibration.calibrate import calibrate, calibration_view, fit_calibration
from moe.evaluation.calibration.conformal import fit_label_sets, label_set_report, with_label_sets
from moe.evaluation.calibration.temperature import TaskLogits
from moe.evaluation.evaluate import evaluate_folder
from moe.inference.bulk.shards import shard_schema
from moe.inference.calibration import CALIBRATION, read_calibration, rows_for_sets
from moe.inference.load import LoadOptions, load
from moe.inference.stream import predict_rows
from moe.inference.text_io import OutputTarget
from moe.model.backbone import load_backbone
from moe.report.label_sets import label_set_table
from moe.report.terminal import answers_table, evaluation_view
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace


def render(view: RenderableType) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


def members(task: TaskLogits, calibration_rows: TaskLogits, level: float) -> list[set[int]]:
    """The sets of a task's rows, as indices of labels."""
    sets = fit_label_sets(calibration_rows, level)
    assert sets is not None
    labels = [str(i) for i in range(task.logits.shape[1])]
    return [{int(label) for label in sets.select(labels, row.tolist())} for row in task.probabilities(1.0)]


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_quantile_is_the_corrected_order_statistic_from_the_fewest_rows_on(level: float) -> None:
    fewest = rows_for_sets(level)
    for rows in (fewest, fewest + 1, 2 * fewest + 1, 500):
        task = overconfident(rows, seed=rows)
        scores = np.sort(1 - task.probabilities(1.0)[np.arange(rows), task.true])
        rank = int(np.ceil(round((rows + 1) * level, 9)))
        sets = fit_label_sets(task, level)
        assert sets is not None
        assert sets.quantile == pytest.approx(scores[rank - 1], abs=1e-12)
    assert fewest == 1 or fit_label_sets(overconfident(fewest - 1), level) is None


class Prefit(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose inputs are its probabilities."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Prefit":
        self.classes_, self.is_fitted_ = np.arange(x.shape[1]), True
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return x

    def predict(self, x: np.ndarray) -> np.ndarray:
        labels: np.ndarray = x.argmax(1)
        return labels


def test_sets_are_mapies_with_the_most_probable_label_in_empty_ones() -> None:
    validation, test = overconfident(200).cooled(2.5), overconfident(300, seed=1).cooled(2.5)
    probabilities = validation.probabilities(1.0)
    classifier = SplitConformalClassifier(Prefit().fit(probabilities, validation.true), confidence_level=0.6)
    classifier.conformalize(probabilities, validation.true)
    _, inside = classifier.predict_set(test.probabilities(1.0))  # (N, K, 1)
    theirs = [set(np.flatnonzero(row)) for row in inside[:, :, 0]]
    assert not all(theirs)
    filled = [own or {int(row.argmax())} for own, row in zip(theirs, test.probabilities(1.0), strict=True)]
    assert members(test, validation, 0.6) == filled


def test_sets_cover_unseen_rows_at_their_level_on_average_even_with_few_validation_rows() -> None:
    for level, rows in ((0.8, 9), (0.9, 30), (0.95, 60)):
        covered = []
        for seed in range(60):
            both = overconfident(rows + 50, seed=seed)
            sets = members(both[np.arange(rows, rows + 50)], both[np.arange(rows)], level)
            covered += [int(true) in own for true, own in zip(both.true[rows:], sets, strict=True)]
        assert np.mean(covered) > level - 2 * np.sqrt(level * (1 - level) / len(covered) * (1 + 50 / rows))


def test_report_has_coverage_and_size_by_task_and_domain_beside_abstaining() -> None:
    validation = {"a": overconfident(900), "b": overconfident(900, seed=1), "few": overconfident(8, seed=2)}
    test = {"a": overconfident(900, seed=3), "b": overconfident(100, seed=4)}
    fitted = with_label_sets({task: fit_calibration(logits) for task, logits in validation.items()}, validation, 0.9)
    rows = {task: logits.cooled(fitted[task].temperature) for task, logits in test.items()}
    report = label_set_report(fitted, rows, {"a": "news", "b": "news", "few": "forum"})
    assert report is not None
    assert (list(report.tasks), list(report.domains), report.too_few_rows) == (["a", "b"], ["news"], {"few": 8})
    news, tasks = report.domains["news"], report.tasks
    assert news.rows == 1000
    assert news.coverage == pytest.approx(0.9 * tasks["a"].coverage + 0.1 * tasks["b"].coverage)
    assert news.mean_size == pytest.approx(0.9 * tasks["a"].mean_size + 0.1 * tasks["b"].mean_size)
    low, high = news.coverage_interval
    assert 0.85 < low < news.coverage < high < 0.97
    assert 1 < news.mean_size < 3
    assert news.abstain.coverage < 1
    assert news.abstain.accuracy > news.coverage - 0.05
    table = label_set_table(report)
    assert "few: 8 validation rows, fewer than the 9 that sets at level 0.9 need." in table.title
    assert [row[0] for row in table.rows] == ["a", "b", "domain news"]
    assert all(len(row) == len(table.header) for row in table.rows)
    assert label_set_report({task: fit_calibration(test[task]) for task in test}, rows, {}) is None


def test_level_that_no_task_has_rows_for_is_refused_with_their_number() -> None:
    validation = {"a": overconfident(40), "b": overconfident(80)}
    fitted = {task: fit_calibration(logits) for task, logits in validation.items()}
    with pytest.raises(Fault, match=r"at least 999 labelled validation rows .*0\.999; found at most 80, of b"):
        with_label_sets(fitted, validation, 0.999)


def test_multi_label_task_gets_no_sets_and_is_not_called_short_of_rows() -> None:
    single, random = overconfident(200), np.random.default_rng(0)
    sets = TaskLogits(random.normal(size=(200, 3)), random.integers(0, 8, 200), "multi_label", ("a", "b", "c"))
    validation = {"headlines": single, "topics": sets}
    fitted = with_label_sets({task: fit_calibration(rows) for task, rows in validation.items()}, validation, 0.9)
    assert (fitted["headlines"].label_sets is None, fitted["topics"].label_sets) == (False, None)
    report = label_set_report(fitted, validation, {"headlines": "news", "topics": "news"})
    assert report is not None
    assert (report.tasks.keys(), report.too_few_rows) == ({"headlines"}, {})
    with pytest.raises(Fault, match="one label per row"):
        with_label_sets({"topics": fit_calibration(sets)}, {"topics": sets}, 0.9)


@pytest.fixture
def work(make_work: Make) -> Workspace:
    return make_work(
        domains={name: {"split": {"own": False, "ratios": [40, 40, 20]}} for name in ("news", "forum")},
    )


def test_sets_of_calibrate_are_measured_by_evaluate_and_given_by_infer(work: Workspace, tmp_path: Path) -> None:
    folder = save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work)
    fitted = calibrate(work, folder, conformal=0.8)
    assert fitted.label_sets is not None
    calibration = read_calibration(folder)
    assert calibration is not None
    assert calibration.sets_level == 0.8
    report = evaluate_folder(work, folder, (), None, None, "soft", False)
    assert report.label_sets == fitted.label_sets
    for text in (render(calibration_view(fitted)), render(evaluation_view(report))):
        assert "a set holds the true label in at least 0.8 of cases" in text
        assert f"{report.label_sets.tasks['forum'].coverage:.3f}" in text
    predictor = load(resolve(folder), LoadOptions(label_sets=True))
    rows = list(predict_rows([{"text": text} for text in TEXTS], predictor))
    for row in rows:
        sets = calibration.require_sets(row["task"])
        expected = sets.select(list(row["probabilities"]), list(row["probabilities"].values()))
        assert row["label_set"] == list(expected)
    assert ", ".join(max((row["label_set"] for row in rows), key=len)) in render(answers_table(rows))
    for name in ("answers.csv", "answers.parquet", "answers.jsonl"):
        OutputTarget(tmp_path / name).write(rows)
        records = [record.values["label_set"] for record in read_records(tmp_path / name, others=None)]
        given = [json.loads(str(its)) if name.endswith("csv") else its for its in records]
        assert given == [row["label_set"] for row in rows]
    assert shard_schema(predictor).field("label_set").type == pa.list_(pa.string())
    assert "label_set" not in shard_schema(load(resolve(folder))).names
    assert calibrate(work, folder).label_sets is None
    assert "label_sets" not in (folder / CALIBRATION).read_text()
    with pytest.raises(Fault, match=r"found a calibration without them\. Run moe calibrate .*model --conformal 0\.9"):
        load(resolve(folder), LoadOptions(label_sets=True))
    (folder / CALIBRATION).unlink()
    with pytest.raises(Fault, match="label sets in its calibration; found no calibration"):
        load(resolve(folder), LoadOptions(label_sets=True))


def test_level_of_sets_out_of_range_is_refused_before_anything_is_loaded(work: Workspace, tmp_path: Path) -> None:
    for level in (0.49, 1.0, float("nan")):
        with pytest.raises(Fault, match=r"--conformal of at least 0\.5 and below 1"):
            calibrate(work, tmp_path / "no such model", conformal=level)

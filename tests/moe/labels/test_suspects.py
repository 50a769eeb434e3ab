"""Suspects: a flipped label is found, training texts change the features, and the file stays as it is."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, Make, made_up_rows, write_csv
from mixtures import save_random_mixture
from rich.console import Console

from experts.errors import Fault
from experts.json_io import to_json
from moe import extras
from moe.inference.text_io import OutputTarget, TextSource
from moe.labels import suspects
from moe.labels.suspects import find_suspects, rank_suspects, suspects_view
from moe.model.backbone import load_backbone
from moe.runs.model_ref import ModelRef, resolve
from moe.runs.workspace import Workspace

FLIPPED = (4, 31)


@pytest.fixture
def work(make_work: Make) -> Workspace:
    """A run on the tiny backbone."""
    return make_work()


@pytest.fixture
def mixture(work: Workspace) -> ModelRef:
    """A random mixture in the folder of its run."""
    return resolve(save_random_mixture(work.out / "moe-joint", load_backbone(work.run.backbone), work))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Labelled rows that no run has trained on; two labels are flipped, one is missing, and one text is missing."""
    rows = made_up_rows("news", 60, seed=5)
    for i in FLIPPED:
        rows[i]["label"] = LABELS[(i % 3 + 1) % 3]
    rows[7]["label"], rows[8]["text"] = "", ""
    return write_csv(tmp_path / "rows.csv", rows)


def test_rank_puts_the_least_probable_given_label_first() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    probabilities = random.dirichlet([1, 1, 1], 90) * 0.2 + np.eye(3)[labels] * 0.8
    flipped = np.arange(10, 70, 10)
    probabilities[flipped] = np.eye(3)[(labels[flipped] + 1) % 3] * 0.8 + 0.2 / 3
    probabilities[50] = [0.9, 0.05, 0.05] if labels[50] != 0 else [0.05, 0.9, 0.05]
    order, scores = rank_suspects(labels, probabilities)
    assert order[0] == 50
    assert set(order) <= set(flipped)
    assert len(order) >= 4
    assert scores == pytest.approx(probabilities[np.arange(90), labels])


def test_suspects_are_reported_and_written_and_the_file_is_unchanged(
    mixture: ModelRef, file: Path, tmp_path: Path
) -> None:
    before = file.read_bytes()
    out = tmp_path / "suspects.jsonl"
    report = find_suspects(TextSource(file=file), mixture, OutputTarget(out))
    assert file.read_bytes() == before
    assert (report.rows, report.unlabelled, report.rejected) == (58, 1, {"missing text": 1})
    assert [row.score for row in report.suspects] == sorted(row.score for row in report.suspects)
    assert all(row.suggested != row.label for row in report.suspects)
    assert {row.line for row in report.suspects} & {i + 2 for i in FLIPPED}
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert lines == to_json(report.suspects)
    fewer = find_suspects(TextSource(file=file), mixture, most=1)
    assert fewer.suspects == report.suspects[:1]


def test_texts_that_trained_the_model_use_features_of_the_backbone(
    work: Workspace, mixture: ModelRef, file: Path
) -> None:
    work.rows("train")  # prepares the run's rows, as training does
    own = find_suspects(TextSource(file=work.run.data.path("news.csv")), mixture)
    assert own.features == "backbone"
    assert own.trained_on == len(work.rows("train", ["news"]))
    other = find_suspects(TextSource(file=file), mixture)
    assert (other.features, other.trained_on) == ("mixture", 0)


def test_view_lists_the_first_rows_and_what_was_skipped(mixture: ModelRef, file: Path) -> None:
    console = Console(file=io.StringIO(), width=400)
    console.print(suspects_view(find_suspects(TextSource(file=file), mixture)))
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]  # the title wraps after a long path
    assert "of 58 labelled rows are suspects" in text
    assert "1 rows without a label were skipped" in text
    assert "missing text (1)" in text


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["positive"] * 9, "at least two labels; found only positive"), (["", ""], "found no labelled row")],
)
def test_files_without_two_labels_are_refused(
    mixture: ModelRef, tmp_path: Path, labels: list[str], message: str
) -> None:
    path = write_csv(tmp_path / "few.csv", [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)])
    with pytest.raises(Fault, match=message):
        find_suspects(TextSource(file=path), mixture, OutputTarget(tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()


def test_missing_cleanlab_is_told_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    def missing(module: str, extra: extras.Extra) -> None:
        raise extras.missing_extra(extra, [module])

    monkeypatch.setattr(suspects, "require", missing)
    with pytest.raises(Fault, match=r"pip install 'finmoe\[labels\]'"):
        find_suspects(TextSource(file=file), ModelRef(Path("nowhere"), "mixture"))

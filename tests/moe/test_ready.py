"""Tests of the ready mixture: how it is found, what it refuses, and that it labels plain sentences correctly."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import CommandLine
from plain_sentences import SENTENCES

from experts.atomic_io import MANIFEST, check_manifest, sha256_of
from experts.errors import Fault
from moe import MixtureClassifier
from moe.config.run import load_run
from moe.runs import model_ref as ready

MAX_BYTES = 10_000_000
MIN_CORRECT = 38


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the ready mixture, in its place."""
    shutil.copytree(ready.READY_FOLDER, tmp_path / "ready")
    monkeypatch.setattr(ready, "READY_FOLDER", tmp_path / "ready")
    return tmp_path / "ready"


def test_ready_folder_is_the_pinned_one(folder: Path) -> None:
    assert ready.ready_folder() == folder


@pytest.mark.parametrize("name", ready.READY_HASHES)
def test_ready_folder_with_a_changed_or_missing_file_is_refused_by_its_name(folder: Path, name: str) -> None:
    (folder / name).write_text('{"changed": 1}')
    with pytest.raises(Fault, match=f"the ready mixture of this release, with {name}"):
        ready.ready_folder()
    (folder / name).unlink()
    with pytest.raises(Fault, match=f"the ready mixture at .*, with {name}"):
        ready.ready_folder()


def test_ready_hashes_cover_every_file(folder: Path) -> None:
    pinned = {folder / name for name in ready.READY_HASHES}
    texts = "".join(path.read_text(encoding="utf-8") for path in pinned)
    others = {path for path in folder.rglob("*") if path.is_file()} - pinned
    assert len(others) > 10
    assert {path.name for path in others if sha256_of(path) not in texts} <= {"manifest.json"}


def test_ready_module_imports_no_torch() -> None:
    code = "import sys, moe.runs.model_ref; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def model() -> MixtureClassifier:
    return MixtureClassifier.load("ready")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line in a folder without a run."""
    return CommandLine(tmp_path, monkeypatch, capsys)


def whole_number(text: str) -> int:
    """Read a number with separators of thousands."""
    return int(text.replace(",", ""))


def wrong_answers(model: MixtureClassifier, sentences: Sequence[tuple[str, str]]) -> list[tuple[str, str, str | None]]:
    predicted = model.predict([text for text, _ in sentences])
    return [(text, label, own) for (text, label), own in zip(sentences, predicted, strict=True) if own != label]


def test_ready_mixture_labels_at_least_38_of_40_plain_sentences_correctly(model: MixtureClassifier) -> None:
    assert len(SENTENCES) == 40
    wrong = wrong_answers(model, SENTENCES)
    assert len(wrong) <= len(SENTENCES) - MIN_CORRECT, wrong


def test_ready_mixture_labels_two_companies_of_one_headline_differently(model: MixtureClassifier) -> None:
    text = "Apple gains as Microsoft slips"
    assert model.predict([text, text], targets=["Apple", "Microsoft"]) == ["positive", "negative"]


def test_ready_mixture_gives_posts_more_of_the_forum_expert_than_sentences_of_the_news(
    model: MixtureClassifier,
) -> None:
    answers = model.answers([text for text, _ in SENTENCES])
    posts = [answer["experts"]["forum"] for answer in answers if "$" in answer["text"] and answer["text"][-1] != "."]
    news = [answer["experts"]["forum"] for answer in answers if answer["text"].endswith(".")]
    assert len(posts) > 7 < len(news)
    assert sum(posts) / len(posts) > sum(news) / len(news) + 0.3


def test_ready_mixture_is_small_and_holds_safetensors_and_text_only() -> None:
    files = [path for path in ready.ready_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".yaml", ".md", ".onnx"}


def test_ready_mixture_has_intact_files_a_calibration_a_drift_reference_and_a_graph() -> None:
    folder = ready.ready_folder()
    check_manifest(folder, "a mixture")
    assert {"calibration.json", "drift.json", "drift.safetensors", "graph"} <= {path.name for path in folder.iterdir()}
    for name in ("calibration.json", "drift.json"):
        assert json.loads((folder / name).read_text())["model"] == ready.READY_HASHES[MANIFEST]


def test_ready_card_names_data_licences_seed_figures_and_what_it_never_saw() -> None:
    card = (ready.ready_folder() / "README.md").read_text(encoding="utf-8")
    for words in (
        "SEntFiN",
        "FinEntity",
        "TAT-QA",
        "**Teacher:** one LoRA",
        "ODC-BY",
        "MIT",
        "never saw",
        "Financial PhraseBank",
        "Seed 13",
        "Intended use and limits",
    ):
        assert words in card
    assert "/work" not in card
    assert "/work" not in (ready.ready_folder() / "config.yaml").read_text(encoding="utf-8")


def test_ready_mixture_was_trained_for_the_steps_of_its_recipe() -> None:
    folder, run = ready.ready_folder(), load_run(Path(__file__).parents[2] / "configs" / "ready.yaml")
    card = (folder / "README.md").read_text("utf-8")
    labelled = dict(re.findall(r"^\| `(\w+)` .* \| ([\d,]+) \| `\w+…` \|$", card, re.MULTILINE))
    texts = re.findall(r"^\| – \| texts that the teacher labelled: .* \| ([\d,]+) \| \|$", card, re.MULTILINE)
    origins = json.loads((folder / "mixture.json").read_text())["origins"]
    rows = {
        name: sum(whole_number(labelled[task]) for task in domain.tasks or ())
        + whole_number(count) * sum(not task.has_target for task in run.tasks_of(name).values())
        for (name, domain), count in zip(run.domains.items(), texts, strict=True)
    }
    rows["shared"] = sum(rows.values())
    assert origins.keys() == rows.keys()
    for name, count in rows.items():
        stage = run.stages.shared if name == "shared" else run.stages.expert
        assert origins[name]["steps"] == stage.count_steps(math.ceil(count / stage.batch_size)), name


def test_ready_mixture_answers_without_a_run_and_says_so(empty: CommandLine) -> None:
    code, out, err = empty("infer", "The company raised its full-year outlook after record sales.")
    assert code == 0
    assert json.loads(out)["label"] == "positive"
    assert "no mixture in runs/demo, so the ready mixture answers" in err


def test_ready_mixture_is_known_by_name(empty: CommandLine) -> None:
    code, out, _ = empty("infer", "--model", "ready", "The airline filed for bankruptcy.")
    assert (code, json.loads(out)["label"]) == (0, "negative")


def test_ready_mixture_is_verified_by_its_name(empty: CommandLine) -> None:
    code, out, _ = empty("verify", "ready", "--json")
    assert code == 0
    assert (json.loads(out)["faults"], json.loads(out)["folders"][0]["folder"]) == (0, str(ready.READY_FOLDER))


def test_ready_mixture_with_a_changed_weight_is_refused_by_its_name(empty: CommandLine, folder: Path) -> None:
    weights = folder / "experts" / "news" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for runtime in ("auto", "onnx", "torch"):
        assert "experts/news/adapter_model.safetensors" in empty.refused("infer", "--runtime", runtime, "Profit rose.")

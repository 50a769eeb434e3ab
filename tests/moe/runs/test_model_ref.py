"""Tests of `moe.runs.model_ref`: where a model is found, and what is no model."""

import subprocess
import sys
from pathlib import Path

import pytest

from experts.atomic_io import write_json
from experts.errors import Fault
from moe.runs import model_ref
from moe.runs.best import write_result
from moe.runs.model_ref import READY_FOLDER, ModelRef, resolve


def write_model(folder: Path, card: str = "mixture.json", language: bool = False) -> Path:
    """Write a folder that holds only a card."""
    write_json(folder / card, {"language": language})
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run with two mixtures and an expert, below the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("moe-init", "router-warmup"):
        write_model(tmp_path / "runs" / "demo" / name)
    write_model(tmp_path / "runs" / "demo" / "experts" / "news", "expert.json")
    return tmp_path / "runs" / "demo"


def test_resolve_finds_ready_a_mixture_an_expert_and_the_default_model_of_a_run(run: Path) -> None:
    assert resolve("ready") == ModelRef(READY_FOLDER, "mixture", "ready")
    assert resolve(run / "moe-init") == ModelRef(run / "moe-init", "mixture", "folder")
    assert resolve(run / "experts" / "news") == ModelRef(run / "experts" / "news", "expert", "folder")
    assert resolve(run) == ModelRef(run / "router-warmup", "mixture", "run")
    write_result(run, {}, "moe-init", "it won")
    assert resolve(str(run)).folder == run / "moe-init"
    write_model(run / "moe-instruct")
    assert resolve(run).folder == run / "moe-instruct"
    assert resolve(ref := resolve(run)) is ref


def test_resolve_without_a_model_is_that_of_the_run_and_without_a_run_the_ready_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resolve().folder == Path("runs/demo/router-warmup")
    assert resolve(run=run).folder == run / "router-warmup"
    assert "model: " in capsys.readouterr().err
    with pytest.raises(Fault, match="a mixture in runs/ready"):
        resolve(config=Path("configs/ready.yaml"))
    monkeypatch.chdir(tmp_path / "runs")
    assert resolve().source == "ready"
    assert "no mixture in runs/demo, so the ready mixture answers" in " ".join(capsys.readouterr().err.split())


def test_resolve_parses_no_training_config(run: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("backbone: [")
    write_model(tmp_path / "runs" / "broken" / "moe-joint")
    assert resolve(config=Path("broken.yaml")).folder == Path("runs/broken/moe-joint")


def test_resolve_downloads_a_model_from_the_hub(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []

    def download(name: str, **options: object) -> str:
        requests.append((name, options["revision"]))
        return str(run / "moe-init")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve("owner/name", revision="v1") == ModelRef(run / "moe-init", "mixture", "hub")
    assert requests == [("owner/name", "v1")]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("runs/none", "the folder of a model or a run at runs/none; found no such folder"),
        ("nothing", "the folder of a model or a run at nothing; found no such folder"),
        ("runs", "a mixture in runs; found none"),
        ("adapter", "found a plain PEFT adapter.*moe merge"),
    ],
)
def test_resolve_refuses_what_is_no_model_without_asking_the_hub(run: Path, model: str, message: str) -> None:
    write_json(Path("adapter/adapter_config.json"), {})
    with pytest.raises(Fault, match=message):
        resolve(model)
    with pytest.raises(Fault, match="a revision of a model on the Hub"):
        resolve(run, revision="main")


def test_card_says_whether_it_is_a_language_model_and_is_read_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = resolve(write_model(run / "language", language=True))
    assert ref.language
    monkeypatch.setattr(model_ref, "read_json", lambda path: pytest.fail(f"{path} was read again"))
    assert ref.language
    (run / "list").mkdir()
    (run / "list" / "mixture.json").write_text("[]")
    monkeypatch.undo()
    with pytest.raises(Fault, match="found a list"):
        _ = resolve(run / "list").language


def test_resolve_needs_no_torch() -> None:
    code = "import sys; from moe.runs.model_ref import resolve; resolve('ready'); print('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "False\n"

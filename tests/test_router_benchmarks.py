"""Tests of `benchmarks/silos.py` and `benchmarks/left_out.py`: every part runs, resumes, and is printed."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from conftest import made_up_rows, tiny_settings, write_csv

from experts.yaml_scalars import dump_yaml

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
DOMAINS = ("news", "forum", "macro")


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and the config of a tiny run with a shared expert."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    domains = {name: {"file": f"{name}.csv", "labels": ["negative", "neutral", "positive"]} for name in DOMAINS}
    for name in DOMAINS:
        write_csv(tmp_path / "data" / f"{name}.csv", made_up_rows(name))
    settings = tiny_settings(tiny_folder, tmp_path / "data", domains=domains, shared={"r": 4, "alpha": 8})
    (tmp_path / "tiny.yaml").write_text(dump_yaml(settings), encoding="utf-8")
    return tmp_path


def run(module: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    common = [str(folder / "data"), "--config", str(folder / "tiny.yaml"), "--out", str(folder / "out"), "--seeds", "7"]
    monkeypatch.setattr(sys, "argv", [module.__name__, *common, *options])
    module.main()


@pytest.mark.slow
def test_silos_measures_every_part_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silos = import_module("silos")

    few = ("--rounds", "1", "--set", "stages.expert.steps=3", "--set", "stages.expert.min_steps=1")
    for _ in range(2):
        run(silos, folder, monkeypatch, *few)
    lines = (folder / "out" / "results-7.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == sum(map(len, silos.MODELS.values()))
    assert len((folder / "out" / "unfamiliar-7.jsonl").read_text(encoding="utf-8").splitlines()) == len(DOMAINS)
    printed = capsys.readouterr().out
    assert "seeds: 7" in printed
    assert "AUROC" in printed


@pytest.mark.slow
def test_left_out_measures_every_start_and_gate_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left_out = import_module("left_out")

    few = ("--set", "stages.expert.steps=3", "--set", "stages.warmup.steps=3", "--set", "stages.expert.min_steps=1")
    for _ in range(2):
        run(left_out, folder, monkeypatch, "--domains", "macro", "--counts", "0", "16", *few)
    lines = (folder / "out" / "results-macro-7.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == sum(map(len, left_out.GATES_BY_START.values()))
    printed = capsys.readouterr().out
    assert "left-out domain" in printed
    assert "(" in printed.split("nearest")[1].splitlines()[0], "a difference with its interval"

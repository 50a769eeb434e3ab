"""Fixtures for tests of `benchmarks/`: its modules by name, and tiny data folders."""

import importlib
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import BAD, FLAT, GOOD, NOUNS, write_csv

from moe.labels.classifier import ClassifierInputs, word_vectors

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
THREE = ("negative", "neutral", "positive")
FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "fpb": ("news", THREE),
    "sentfin": ("news", THREE),
    "stockemotions": ("forum", ("negative", "positive")),
    "twitter_fin_news": ("forum", THREE),
    "fomc": ("macro", ("dovish", "neutral", "hawkish")),
    "gold_headlines": ("macro", THREE),
    "numclaim": ("news", ("outofclaim", "inclaim")),
    "stocknet_movement": ("forum", ("fall", "rise")),
}
"""By name of a file: a domain of `NOUNS` for its words, and its labels."""
STAGES = ("shared", "expert", "warmup", "joint")
Run = Callable[..., str]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of `benchmarks/`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_folder: Path) -> Run:
    """Run a benchmark on the tiny backbone with a few steps a stage, and return what it prints."""

    def call(module: ModuleType, *arguments: object) -> str:
        sets = [f"backbone.name={tiny_folder}", "backbone.max_length=16"]
        sets += [f"stages.{stage}.{key}=2" for stage in STAGES for key in ("steps", "batch_size")]
        command = ["benchmark", *map(str, arguments), *(word for pair in sets for word in ("--set", pair))]
        monkeypatch.setattr(sys, "argv", command)
        capsys.readouterr()
        module.main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the files of configs/real/five_domains.yaml, of 60 rows each."""
    for name, (domain, labels) in FILES.items():
        source = random.Random(name)
        rows = []
        for i in range(60):
            label = i % len(labels)
            words = [*source.sample(NOUNS[domain], 4), *source.sample(["the", "today", "again", "and", "of"], 3)]
            words.append(source.choice((BAD, GOOD, FLAT)[label]))
            source.shuffle(words)
            split = "validation" if i % 10 > 7 or (name == "twitter_fin_news" and i % 10 > 5) else "train"
            split = "test" if i % 10 in (6, 7) and name != "twitter_fin_news" else split
            row = {"id": f"{name}{i}", "text": " ".join(words), "label": labels[label], "score": ""}
            rows.append(row | {"domain": domain, "lang": "en", "split": split})
        write_csv(tmp_path / "data" / f"{name}.csv", rows)
    return tmp_path / "data"


@pytest.fixture
def separable_texts(benchmark: Callable[[str], ModuleType]) -> Callable[[int], Any]:
    """Make a number of texts of three labels, whose features say the label with little noise."""

    def make(rows: int) -> Any:
        labels = np.arange(rows) % 3
        states = np.eye(3)[labels] + 0.1 * np.random.default_rng(0).normal(size=(rows, 3))  # (N, 3)
        texts = [f"text {i}" for i in range(rows)]
        return benchmark("labelling").LabelledTexts(
            texts=texts,
            labels=labels,
            names=["a", "b", "c"],
            inputs=ClassifierInputs(states, word_vectors(texts, [None] * rows)),
            states=states,
            probabilities=np.full((rows, 3), 1 / 3),
            experts=None,
        )

    return make

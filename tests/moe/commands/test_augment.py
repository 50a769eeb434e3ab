"""Tests for `moe data augment`: output, files, errors, and its old name `moe augment`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import CommandLine, moe, workdir
from model_server import MODEL, ModelServer, serving

__all__ = ["moe", "workdir"]
WORDS = ("data", "augment", "-c", "tiny.yaml", "--set", "data.augment.variants=1")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """Server of a language model."""
    with serving() as model:
        yield model


def test_augment_writes_rows_that_can_be_inspected_and_trained_on(
    moe: CommandLine, workdir: Path, server: ModelServer
) -> None:
    code, out, err = moe(*WORDS, "--all", "-o", "complete", "--base-url", server.url, "--model", MODEL)
    assert code == 0, err
    report = json.loads(out)
    assert report["model"] == MODEL
    assert [task["task"] for task in report["tasks"]] == ["news", "forum"]
    assert all(sum(task["kept"].values()) == task["rows"] for task in report["tasks"])
    assert "--set data.augmented=true" in err
    file = report["tasks"][0]["file"]
    assert file == "complete/data/news/news/augmented.jsonl"
    origins = json.loads(moe("data", "inspect", file)[1])["origins"]
    assert origins == report["tasks"][0]["kept"]
    validated = json.loads(moe("data", "inspect", file, "-c", "tiny.yaml", "--domain", "news")[1])
    assert validated["rejected"]["rows"] == 0
    training = ("train-expert", "--domain", "news", "-c", "tiny.yaml", "-o", "complete", "--set", "data.augmented=true")
    code, _, err = moe(*training)
    assert code == 0, err
    assert f"{validated['rows']} augmented training rows added" in err
    card = json.loads((workdir / "complete" / "experts" / "news" / "expert.json").read_text())
    assert card["data_sha256"].keys() == {"news", "news augmented"}


def test_augment_dry_run_prints_three_prompts_without_an_endpoint(moe: CommandLine, workdir: Path) -> None:
    code, out, err = moe(*WORDS, "--domain", "news", "--run", "dry", "--dry-run")
    assert code == 0, err
    report = json.loads(out)
    assert len(report["prompts"]) == 3
    assert report["tasks"][0]["wanted"]["synonym"] > 0
    assert not (workdir / "dry" / "data" / "news" / "news" / "augmented.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "either --domain NAME or --all; found neither"),
        (("--all", "--domain", "news"), "found both"),
        (("--all",), "no --base-url and --model"),
        (("--domain", "news", "--base-url", "localhost", "--model", "m"), "full address"),
        (("--domain", "nws", "--dry-run"), "Did you mean news"),
        (("--domain", "news", "--dry-run", "--set", "data.augment.variant=2"), "did you mean variants"),
        (
            (
                "--domain",
                "news",
                "--set",
                "data.augment.retries=0",
                "--base-url",
                "http://127.0.0.1:9/v1",
                "--model",
                "m",
            ),
            "an endpoint that responds at http://127.0.0.1:9/v1",
        ),
    ],
)
def test_augment_refuses_unusable_options_in_one_line(moe: CommandLine, words: tuple[str, ...], message: str) -> None:
    assert message in moe.refused(*WORDS, "--run", "refused", *words)


def test_augment_under_its_old_name_works_with_one_deprecation_note(moe: CommandLine) -> None:
    arguments = ("-c", "tiny.yaml", "--domain", "news", "--run", "dry", "--dry-run")
    _, current, notes = moe("data", "augment", *arguments)
    assert "deprecated" not in notes
    code, out, err = moe("augment", *arguments)
    assert (code, out) == (0, current)
    (note,) = (line for line in err.splitlines() if "deprecated" in line)
    assert "Use 'moe data augment' instead" in note


def test_training_without_the_requested_augmented_rows_is_refused(moe: CommandLine) -> None:
    words = ("train-expert", "--domain", "news", "-c", "tiny.yaml", "-o", "bare", "--set", "data.augmented=true")
    assert "Write them with `moe data augment`" in moe.refused(*words)

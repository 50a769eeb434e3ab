"""Claims about `moe data augment` as typed: what it prints, what it writes, and one sentence for what it cannot use."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import CommandLine, moe, place
from model_server import MODEL, ModelServer, serving

__all__ = ["moe", "place"]
WORDS = ("data", "augment", "-c", "tiny.yaml", "--set", "data.augment.variants=1")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model to ask."""
    with serving() as model:
        yield model


def test_augmented_rows_are_written_counted_inspected_and_trained_on(
    moe: CommandLine, place: Path, server: ModelServer
) -> None:
    code, out, err = moe(*WORDS, "--all", "-o", "whole", "--base-url", server.url, "--model", MODEL)
    assert code == 0, err
    report = json.loads(out)
    assert report["model"] == MODEL
    assert [one["task"] for one in report["tasks"]] == ["news", "forum"]
    assert all(sum(one["kept"].values()) == one["rows"] for one in report["tasks"])
    assert "--set data.augmented=true" in err
    file = report["tasks"][0]["file"]
    assert file == "whole/data/news/news/augmented.jsonl"
    origins = json.loads(moe("data", "inspect", file)[1])["origins"]
    assert origins == report["tasks"][0]["kept"]
    held = json.loads(moe("data", "inspect", file, "-c", "tiny.yaml", "--domain", "news")[1])
    assert held["rejected"]["rows"] == 0
    trained = ("train-expert", "--domain", "news", "-c", "tiny.yaml", "-o", "whole", "--set", "data.augmented=true")
    code, _, err = moe(*trained)
    assert code == 0, err
    assert f"{held['rows']} augmented training rows added" in err
    card = json.loads((place / "whole" / "experts" / "news" / "expert.json").read_text())
    assert card["data_sha256"].keys() == {"news", "news augmented"}


def test_a_dry_run_needs_no_endpoint_and_prints_three_prompts(moe: CommandLine, place: Path) -> None:
    code, out, err = moe(*WORDS, "--domain", "news", "-o", "dry", "--dry-run")
    assert code == 0, err
    found = json.loads(out)
    assert len(found["prompts"]) == 3
    assert found["tasks"][0]["wanted"]["synonym"] > 0
    assert not (place / "dry" / "data" / "news" / "news" / "augmented.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--domain NAME, --all"),
        (("--all", "--domain", "news"), "none or both"),
        (("--all",), "no --base-url and --model"),
        (("--domain", "news", "--base-url", "localhost", "--model", "m"), "whole address"),
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
            "an endpoint that answers at http://127.0.0.1:9/v1",
        ),
    ],
)
def test_what_cannot_be_used_is_told_in_one_sentence(moe: CommandLine, words: tuple[str, ...], told: str) -> None:
    assert told in moe.refused(*WORDS, "-o", "refused", *words)


def test_training_on_augmented_rows_that_are_not_there_is_refused(moe: CommandLine) -> None:
    words = ("train-expert", "--domain", "news", "-c", "tiny.yaml", "-o", "bare", "--set", "data.augmented=true")
    assert "Write them by moe augment" in moe.refused(*words)

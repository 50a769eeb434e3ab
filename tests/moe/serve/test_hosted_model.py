"""Tests of the models on the command line: their names and folders."""

from pathlib import Path

import pytest

from experts.errors import Fault
from moe.serve.hosted_model import ModelSource, parse_sources


def test_model_is_named_by_the_last_part_of_its_path() -> None:
    assert parse_sources(["runs/demo"]) == [ModelSource("demo", Path("runs/demo"))]
    assert parse_sources([]) == [ModelSource(None, None)], "the folder that is found names it"


def test_several_models_are_named_by_what_was_given() -> None:
    expected = [ModelSource("a", Path("runs/a")), ModelSource("news", Path("runs/b"))]
    assert parse_sources(["runs/a", "news=runs/b"]) == expected


def test_path_that_exists_is_a_model_whatever_its_characters(tmp_path: Path) -> None:
    (tmp_path / "x=y").mkdir()
    assert parse_sources([str(tmp_path / "x=y")]) == [ModelSource("x=y", tmp_path / "x=y")]


@pytest.mark.parametrize("words", [["a/m", "b/m"], ["n=a", "n=b"], ["=a"], ["n="]])
def test_models_without_a_name_of_their_own_are_rejected(words: list[str]) -> None:
    with pytest.raises(Fault, match=r"NAME=MODEL|ame the folder"):
        parse_sources(words)

"""Claims about the log of answers: what was added is there, whatever a crash left at its end."""

from pathlib import Path

import pytest

from experts.errors import Fault
from moe.augment.response_log import LoggedResponse, open_log, read_log


def test_answers_come_back_by_their_key_the_last_one_first(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    with open_log(path) as log:
        log.add("a", LoggedResponse("one", False))
        log.add("b", LoggedResponse("利好 \ud800", True))
        log.add("a", LoggedResponse("two", False))
        assert len(read_log(path)) == 2, "on disk before the log is closed"
    assert read_log(path) == {"a": LoggedResponse("two", False), "b": LoggedResponse("利好 \ud800", True)}


@pytest.mark.parametrize("torn", ['{"key": "b", "te', "[1]\n", '{"key": "b"}', "null", "\n\n"])
def test_a_torn_line_costs_itself_alone(torn: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with open_log(path) as log:
        log.add("a", LoggedResponse("one", False))
    with path.open("a") as stream:
        stream.write(torn)
    with open_log(path) as log:
        log.add("c", LoggedResponse("three", False))
    assert read_log(path) == {"a": LoggedResponse("one", False), "c": LoggedResponse("three", False)}


def test_no_log_is_no_answer(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none.jsonl") == {}


def test_a_log_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").mkdir()
    with pytest.raises(Fault, match="can be written"), open_log(tmp_path / "answers.jsonl"):
        pass

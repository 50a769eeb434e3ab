"""Response log: added responses are read back, whatever a crash left at the end of the file."""

from pathlib import Path

import pytest

from experts.errors import Fault
from moe.augment.response_log import LoggedResponse, open_log, read_log


def test_read_log_returns_the_last_response_of_each_key(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    with open_log(path) as log:
        log.add("a", LoggedResponse("one", truncated=False))
        log.add("b", LoggedResponse("利好 \ud800", truncated=True))
        log.add("a", LoggedResponse("two", truncated=False))
        assert len(read_log(path)) == 2, "on disk before the log is closed"
    assert read_log(path) == {
        "a": LoggedResponse("two", truncated=False),
        "b": LoggedResponse("利好 \ud800", truncated=True),
    }


@pytest.mark.parametrize("line", ['{"key": "b", "te', "[1]\n", '{"key": "b"}', "null", "\n\n"])
def test_read_log_ignores_only_the_incomplete_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with open_log(path) as log:
        log.add("a", LoggedResponse("one", truncated=False))
    with path.open("a") as stream:
        stream.write(line)
    with open_log(path) as log:
        log.add("c", LoggedResponse("three", truncated=False))
    assert read_log(path) == {
        "a": LoggedResponse("one", truncated=False),
        "c": LoggedResponse("three", truncated=False),
    }


def test_read_log_without_a_file_is_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none.jsonl") == {}


def test_open_log_refuses_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").mkdir()
    with pytest.raises(Fault, match="can be written"), open_log(tmp_path / "answers.jsonl"):
        pass

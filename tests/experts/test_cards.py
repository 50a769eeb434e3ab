"""Claims about records: what is read is of the known format and whole, anything else is one sentence."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from experts.cards import read_record
from experts.errors import Fault


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 2
    words: tuple[str, ...]


def read(path: Path) -> Note:
    return read_record(path, Note, 2, "note", "write it again")


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    note = Note(words=("rates", "rise"))
    (tmp_path / "note.json").write_text(note.model_dump_json())
    assert read(tmp_path / "note.json") == note


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"format": 3, "words": []}, r"a note of format 2 at .*found format 3.*Update finmoe"),
        ({"format": 1, "words": []}, r"found format 1.*not carried over: write it again"),
        ({"words": []}, r"a note with its format.*no format in it"),
        ([2], "no format in it"),
        ({"format": 2}, r"a whole note at .*words: Field required.*Write it again"),
        ({"format": 2, "words": ["rise"], "more": 1}, r"a whole note at .*more: Extra inputs"),
    ],
    ids=str,
)
def test_any_other_is_refused_with_what_to_do(tmp_path: Path, content: object, told: str) -> None:
    (tmp_path / "note.json").write_text(json.dumps(content))
    with pytest.raises(Fault, match=told):
        read(tmp_path / "note.json")

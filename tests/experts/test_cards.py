"""Tests of `experts.cards`: a record of the known format is read, anything else is a fault."""

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


def test_record_is_read_as_written(tmp_path: Path) -> None:
    note = Note(words=("rates", "rise"))
    (tmp_path / "note.json").write_text(note.model_dump_json())
    assert read(tmp_path / "note.json") == note


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 3, "words": []}, r"a note of format 2 at .*found format 3.*Update finmoe"),
        ({"format": 1, "words": []}, r"found format 1.*no longer supported: write it again"),
        ({"words": []}, r"a note with a format version.*no key `format`"),
        ([2], "no key `format`"),
        ({"format": 2}, r"a valid note at .*words: Field required.*Write it again"),
        ({"format": 2, "words": ["rise"], "more": 1}, r"a valid note at .*more: Extra inputs"),
    ],
    ids=str,
)
def test_invalid_record_is_refused_with_a_remedy(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "note.json").write_text(json.dumps(content))
    with pytest.raises(Fault, match=message):
        read(tmp_path / "note.json")

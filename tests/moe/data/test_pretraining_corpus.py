"""Claims about `moe.data.pretraining_corpus`.

Packed rows hold every token once and in order, and the last share is held out.
"""

import json
from pathlib import Path

import pytest
from conftest import tiny_tokenizer

from experts.errors import Fault
from moe.data import pretraining_corpus as corpus
from moe.data.pretraining_corpus import Corpus, CorpusTokenizer, prepare_corpus

SENTENCE = "profit rose today"  # five tokens with the ends


def tokens(size: int = 8, packed: bool = True, ends: bool = False) -> CorpusTokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "of"
    return CorpusTokenizer(tokenizer, "tiny", size, ends, packed)


def written(path: Path, count: int = 20) -> Path:
    path.write_text("".join(f"{SENTENCE}{' again' * (i % 3)}\n" for i in range(count)), encoding="utf-8")
    return path


def prepare(path: Path, how: CorpusTokenizer, held_out: float = 0.1) -> Corpus:
    return prepare_corpus([path], "macro", how, held_out, path.parent / "out")


def test_packed_rows_are_full_and_hold_every_token_in_order(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt")
    how = tokens()
    made = prepare(path, how)
    rows = list(made.train)
    assert {len(row["input_ids"]) for row in rows[:-1]} == {8}
    assert all(sum(row["lengths"]) == len(row["input_ids"]) for row in rows)
    expected = [i for ids in how.documents(path.read_text().splitlines()[:18]) for i in ids]
    assert [i for row in rows for i in row["input_ids"]] == expected
    assert set(made.train["domain"]) == {"macro"}


def test_unpacked_documents_begin_rows_of_their_own(tmp_path: Path) -> None:
    rows = list(prepare(written(tmp_path / "a.txt"), tokens(size=6, packed=False)).train)
    assert [row["lengths"] for row in rows[:4]] == [[5], [6], [6], [1]]


def test_the_last_documents_are_held_out_and_only_they(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join([SENTENCE] * 9 + ["moon bags fell"]) + "\n", encoding="utf-8")
    made, words = prepare(path, tokens(size=5)), tiny_tokenizer()
    assert words.decode(made.held_out[0]["input_ids"], skip_special_tokens=True) == "moon bags fell"
    assert len(made.held_out) == 1
    assert not any("moon" in words.decode(row["input_ids"]) for row in made.train)


def test_a_decoders_documents_end_with_its_end_of_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("profit rose\nsales fell of\nbank\n", encoding="utf-8")
    how = tokens(ends=True)
    how.tokenizer.backend_tokenizer.post_processor = None
    ended = [how.tokenizer.decode(ids) for ids in how.documents(path.read_text().splitlines())]
    assert ended == ["profit rose of", "sales fell of", "bank of"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "folder"])
def test_other_kinds_of_file_give_the_same_rows(tmp_path: Path, ending: str) -> None:
    from datasets import Dataset

    plain = prepare(written(tmp_path / "a.txt"), tokens()).train
    content = [{"text": line} for line in (tmp_path / "a.txt").read_text().splitlines()]
    path = tmp_path / "other" / f"a.{ending}"
    path.parent.mkdir()
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    elif ending == "parquet":
        Dataset.from_list(content).to_parquet(str(path))
    else:
        Dataset.from_list(content).save_to_disk(str(path))
    assert prepare(path, tokens()).train[:] == plain[:]


def test_broken_and_empty_lines_are_passed_over_and_the_broken_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"profit rose\n\n\xff\xfe\n" + b"sales fell\n" * 4)
    report = prepare(path, tokens()).report[str(path)]
    assert (report["documents"], report["broken"]) == (5, 1)


def test_a_very_long_line_is_read_as_several_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_CHARS", 12)
    path = tmp_path / "a.txt"
    path.write_text("profit rose " * 5 + "\nbank\n", encoding="utf-8")
    assert prepare(path, tokens()).report[str(path)]["documents"] == 6


def test_what_was_prepared_is_used_again_until_file_or_shape_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.txt")
    first = prepare(path, tokens())

    def never(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as closed:
        closed.setattr(corpus, "_one_file", never)
        assert prepare(path, tokens()).train[:] == first.train[:]
        with pytest.raises(AssertionError):
            prepare(path, tokens(size=4))
    assert len(prepare(written(path, 40), tokens()).train) > len(first.train)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "empty file"), (b"one line\n", "at least two documents"), (bytes(range(256)) * 40, "UTF-8 text")],
)
def test_what_is_no_corpus_is_one_sentence(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(Fault, match=told) as caught:
        prepare(path, tokens())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_corpus_without_files_or_with_a_missing_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"corpus for macro.*no file named"):
        prepare_corpus([], "macro", tokens(), 0.1, tmp_path / "out")
    with pytest.raises(Fault, match="nothing there"):
        prepare(tmp_path / "none.txt", tokens())

"""Pre-training corpora: packed rows hold every token once and in order, and the end of a file is held out."""

import json
from pathlib import Path

import pytest
from conftest import tiny_tokenizer

from experts.errors import Fault
from moe.data import pretraining_corpus as corpus
from moe.data.pretraining_corpus import Corpus, CorpusTokenizer, prepare_corpus

SENTENCE = "profit rose today"  # five tokens including the special ones


def corpus_tokenizer(row_length: int = 8, packed: bool = True, append_eos: bool = False) -> CorpusTokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "of"
    return CorpusTokenizer(tokenizer, "tiny", row_length, append_eos, packed)


def written(path: Path, count: int = 20) -> Path:
    path.write_text("".join(f"{SENTENCE}{' again' * (i % 3)}\n" for i in range(count)), encoding="utf-8")
    return path


def prepare(path: Path, tokenizer: CorpusTokenizer, held_out: float = 0.1) -> Corpus:
    return prepare_corpus([path], "macro", tokenizer, held_out, path.parent / "out")


def test_corpus_packs_full_rows_with_every_token_in_order(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt")
    tokenizer = corpus_tokenizer()
    prepared = prepare(path, tokenizer)
    rows = list(prepared.train)
    assert {len(row["input_ids"]) for row in rows[:-1]} == {8}
    assert all(sum(row["lengths"]) == len(row["input_ids"]) for row in rows)
    expected = [i for ids in tokenizer.documents(path.read_text().splitlines()[:18]) for i in ids]
    assert [i for row in rows for i in row["input_ids"]] == expected
    assert set(prepared.train["domain"]) == {"macro"}


def test_corpus_without_packing_starts_a_row_for_each_document(tmp_path: Path) -> None:
    rows = list(prepare(written(tmp_path / "a.txt"), corpus_tokenizer(row_length=6, packed=False)).train)
    assert [row["lengths"] for row in rows[:4]] == [[5], [6], [6], [1]]


def test_corpus_holds_out_only_the_last_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join([SENTENCE] * 9 + ["moon bags fell"]) + "\n", encoding="utf-8")
    prepared, tokenizer = prepare(path, corpus_tokenizer(row_length=5)), tiny_tokenizer()
    assert tokenizer.decode(prepared.held_out[0]["input_ids"], skip_special_tokens=True) == "moon bags fell"
    assert len(prepared.held_out) == 1
    assert not any("moon" in tokenizer.decode(row["input_ids"]) for row in prepared.train)


def test_corpus_of_a_decoder_appends_the_end_of_text_token(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("profit rose\nsales fell of\nbank\n", encoding="utf-8")
    tokenizer = corpus_tokenizer(append_eos=True)
    tokenizer.tokenizer.backend_tokenizer.post_processor = None
    documents = [tokenizer.tokenizer.decode(ids) for ids in tokenizer.documents(path.read_text().splitlines())]
    assert documents == ["profit rose of", "sales fell of", "bank of"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "folder"])
def test_corpus_is_the_same_for_all_kinds_of_files(tmp_path: Path, ending: str) -> None:
    from datasets import Dataset

    plain = prepare(written(tmp_path / "a.txt"), corpus_tokenizer()).train
    content = [{"text": line} for line in (tmp_path / "a.txt").read_text().splitlines()]
    path = tmp_path / "other" / f"a.{ending}"
    path.parent.mkdir()
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    elif ending == "parquet":
        Dataset.from_list(content).to_parquet(str(path))
    else:
        Dataset.from_list(content).save_to_disk(str(path))
    assert prepare(path, corpus_tokenizer()).train[:] == plain[:]


def test_corpus_skips_broken_and_empty_lines_and_counts_broken_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"profit rose\n\n\xff\xfe\n" + b"sales fell\n" * 4)
    report = prepare(path, corpus_tokenizer()).report[str(path)]
    assert (report.documents, report.broken) == (5, 1)


def test_corpus_splits_a_very_long_line_into_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_CHARS", 12)
    path = tmp_path / "a.txt"
    path.write_text("profit rose " * 5 + "\nbank\n", encoding="utf-8")
    assert prepare(path, corpus_tokenizer()).report[str(path)].documents == 6


def test_corpus_is_reused_until_file_or_shape_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.txt")
    first = prepare(path, corpus_tokenizer())

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "_tokenize_file", never)
        assert prepare(path, corpus_tokenizer()).train[:] == first.train[:]
        with pytest.raises(AssertionError):
            prepare(path, corpus_tokenizer(row_length=4))
    assert len(prepare(written(path, 40), corpus_tokenizer()).train) > len(first.train)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty file"), (b"one line\n", "at least two documents"), (bytes(range(256)) * 40, "UTF-8 text")],
)
def test_corpus_refuses_unusable_files_in_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(Fault, match=message) as caught:
        prepare(path, corpus_tokenizer())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_corpus_refuses_no_files_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"corpus for macro.*no file"):
        prepare_corpus([], "macro", corpus_tokenizer(), 0.1, tmp_path / "out")
    with pytest.raises(Fault, match="nothing there"):
        prepare(tmp_path / "none.txt", corpus_tokenizer())

"""Corpora for pre-training: documents → rows of tokens, packed to full length, with the end of each file held out."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerBase

from experts.atomic_io import (
    atomic_folder,
    os_errors_as_faults,
    read_json,
    sha256_of,
    write_json,
)
from experts.errors import Fault
from experts.json_io import Json
from experts.reused import check_manifest_once
from moe.data.formats.readers import read_texts
from moe.data.formats.refusals import check_regular_file

MAX_DOCUMENT_CHARS = 100_000
"""Most characters of a document; a longer one is read as several."""
REPORT = "corpus.json"
SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("lengths", pa.list_(pa.int32())), ("domain", pa.string())])
_BATCH = 256


@dataclass(frozen=True)
class TokenBlock:
    """One row: token ids (T,), and the number of tokens of each document in it; they sum to T."""

    ids: list[int]
    lengths: list[int]


@dataclass(frozen=True)
class PartSize:
    """Size of one part of a tokenized file.

    Args:
        rows: rows of tokens.
        tokens: all their tokens.
    """

    rows: int
    tokens: int


@dataclass(frozen=True)
class CorpusFileReport:
    """Size of a tokenized file.

    Args:
        documents: readable documents.
        broken: documents that cannot be read.
        train: size of the training part.
        held_out: size of the part for evaluation.
    """

    documents: int
    broken: int
    train: PartSize
    held_out: PartSize


_FILE_REPORTS = TypeAdapter(dict[str, CorpusFileReport])


@dataclass(frozen=True)
class Corpus:
    """A domain's text as rows of tokens.

    Args:
        train: columns `input_ids`, `lengths`, `domain`; memory-mapped.
        held_out: the same columns, for the last share of each file.
        report: size of each file, by its path.
        key: what the rows were made from: the files' hashes, the tokenizer and the shape of rows.
    """

    train: Dataset
    held_out: Dataset
    report: Mapping[str, CorpusFileReport] = field(repr=False)
    key: Mapping[str, Json] = field(repr=False)


@dataclass(frozen=True)
class CorpusTokenizer:
    """Converts text to rows of tokens.

    Args:
        tokenizer: of the backbone.
        fingerprint: hash that identifies the tokenizer: that of the backbone's weights.
        row_length: tokens per row.
        append_eos: whether every document ends with the end-of-text token, as decoders need it.
        packed: whether a row holds several documents; otherwise each document starts a new row.
    """

    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    row_length: int
    append_eos: bool
    packed: bool

    def documents(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """Yield the token ids of each document, in order."""
        stream = iter(texts)
        eos = self.tokenizer.eos_token_id if self.append_eos else None
        while batch := list(islice(stream, _BATCH)):
            for ids in self.tokenizer(batch, return_attention_mask=False)["input_ids"]:
                yield ids if eos is None or ids[-1:] == [eos] else [*ids, eos]

    def blocks(self, texts: Iterable[str]) -> Iterator[TokenBlock]:
        """Yield rows of full length; only the last one, or if not packed the last one of each document, is shorter."""
        ids: list[int] = []
        lengths: list[int] = []
        for document in self.documents(texts):
            while document:
                room = self.row_length - len(ids)
                part, document = document[:room], document[room:]
                ids, lengths = ids + part, [*lengths, len(part)]
                if len(ids) == self.row_length or not self.packed:
                    yield TokenBlock(ids, lengths)
                    ids, lengths = [], []
        if ids:
            yield TokenBlock(ids, lengths)


def prepare_corpus(
    files: Sequence[Path], domain: str, tokenizer: CorpusTokenizer, held_out: float, out: Path
) -> Corpus:
    """Tokenize a domain's files into a folder, or load the rows from there if files and settings are unchanged.

    Args:
        files: text, one document per line; or csv, jsonl, Parquet or a `datasets` folder with a column `text`.
        domain: domain of the text.
        tokenizer: converts documents to rows.
        held_out: share of each file's documents, taken from its end, that is held out for evaluation.
        out: folder to write.

    Raises:
        Fault: if a file cannot be read or has fewer than two documents, or the folder cannot be written.
    """
    if not files:
        raise Fault(f"a corpus for {domain}", "no file", f"set domains.{domain}.corpus")
    key = _cache_key(files, domain, tokenizer, held_out)
    if (cached := _load(out, key)) is not None:
        return cached
    with atomic_folder(out, overwrite=True) as temporary, os_errors_as_faults(out.parent):
        report = {}
        for index, path in enumerate(files):
            report[str(path)] = _tokenize_file(path, domain, tokenizer, held_out, out=temporary, index=index)
        write_json(temporary / REPORT, {"key": key, "report": report})
    corpus = _load(out, key)
    assert corpus is not None
    return corpus


def _tokenize_file(
    path: Path, domain: str, tokenizer: CorpusTokenizer, held_out: float, out: Path, index: int
) -> CorpusFileReport:
    reader = DocumentReader(path)
    count = sum(1 for _ in reader)
    if count < 2:
        raise Fault(
            f"at least two documents in {path}", str(count), "put each document on its own line, or use another file"
        )
    train = count - max(1, round(held_out * count))
    stream = iter(DocumentReader(path))
    return CorpusFileReport(
        documents=count,
        broken=reader.broken,
        train=_write(out / f"train-{index}.arrow", tokenizer.blocks(islice(stream, train)), domain),
        held_out=_write(out / f"held_out-{index}.arrow", tokenizer.blocks(stream), domain),
    )


def _write(path: Path, blocks: Iterator[TokenBlock], domain: str) -> PartSize:
    rows = tokens = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as stream:
        while batch := list(islice(blocks, _BATCH)):
            content = [{"input_ids": block.ids, "lengths": block.lengths, "domain": domain} for block in batch]
            stream.write_batch(pa.RecordBatch.from_pylist(content, schema=SCHEMA))
            rows, tokens = rows + len(batch), tokens + sum(len(block.ids) for block in batch)
    return PartSize(rows=rows, tokens=tokens)


class DocumentReader:
    """Iterates over the documents of a file, in order; empty and broken ones are skipped, and the broken counted."""

    def __init__(self, path: Path) -> None:
        self.path, self.broken = path, 0

    def __iter__(self) -> Iterator[str]:
        self.broken = 0
        for record in read_texts(self.path):
            if record.error is None:
                text = str(record.values["text"]).strip()
                yield from (text[at : at + MAX_DOCUMENT_CHARS] for at in range(0, len(text), MAX_DOCUMENT_CHARS))
            elif record.error != "missing text":
                self.broken += 1


def corpus_digest(files: Sequence[Path], domain: str) -> str:
    """SHA-256 over the hashes of the files of a domain's corpus.

    Raises:
        Fault: if a file is missing.
    """
    return hashlib.sha256(repr(_hash_files(files, domain)).encode()).hexdigest()


def _hash_files(files: Sequence[Path], domain: str) -> list[list[str]]:
    for path in files:
        if not path.exists():
            raise Fault(
                f"a corpus of {domain} at {path}",
                "nothing there",
                f"correct domains.{domain}.corpus, or set data.folder",
            )
        check_regular_file(path)
    contents = [sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] for path in files]
    return [[sha256_of(file) for file in content] for content in contents]


def _cache_key(files: Sequence[Path], domain: str, tokenizer: CorpusTokenizer, held_out: float) -> dict[str, Json]:
    return {
        "files": _hash_files(files, domain),
        "domain": domain,
        "tokenizer": tokenizer.fingerprint,
        "shape": [tokenizer.row_length, tokenizer.append_eos, tokenizer.packed, held_out],
    }


def _load(out: Path, key: Mapping[str, Json]) -> Corpus | None:
    try:
        content = read_json(out / REPORT)
        if content["key"] != key:
            return None
        report = _FILE_REPORTS.validate_python(content["report"])
        files = [f"{part}-{index}.arrow" for part in ("train", "held_out") for index in range(len(report))]
        check_manifest_once(out, "a tokenized corpus", [REPORT, *files])
        train, held_out = (_rows(out, part, len(report)) for part in ("train", "held_out"))
    except (Fault, OSError, ValueError, LookupError, TypeError, pa.ArrowException):
        return None
    return Corpus(train, held_out, report, key)


def _rows(out: Path, part: str, files: int) -> Dataset:
    parts = [Dataset.from_file(str(out / f"{part}-{index}.arrow")) for index in range(files)]
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]

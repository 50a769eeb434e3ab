"""Plain text for pre-training: documents → rows of tokens, packed to full length, the last share of each file held out.

How documents in one row are kept apart is `moe.model.packing`'s; what is learned of them, `moe.model.lm_head`'s.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from experts.atomic_io import atomic_folder, os_errors_as_faults, read_json, sha256_of, write_json
from experts.errors import Fault
from moe.data.readers import read_texts

MAX_DOCUMENT_CHARS = 100_000
"""Characters of a document that become tokens at once; a longer one is read as several."""
REPORT = "corpus.json"
SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("lengths", pa.list_(pa.int32())), ("domain", pa.string())])
_BATCH = 256


@dataclass(frozen=True)
class TokenBlock:
    """One row: token ids (T,), and how many of them each document has; they sum to T."""

    ids: list[int]
    lengths: list[int]


@dataclass(frozen=True)
class Corpus:
    """A role's text as rows of tokens.

    Args:
        train: columns `input_ids`, `lengths`, `domain`; mapped from disk.
        held_out: the same of the last share of each file.
        report: documents, broken ones, tokens and rows, by file and part.
        key: what it was made of: the files' hashes, tokenizer and shape.
    """

    train: Dataset
    held_out: Dataset
    report: dict[str, Any] = field(repr=False)
    key: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class CorpusTokenizer:
    """How text becomes rows.

    Args:
        tokenizer: the backbone's.
        name: what tells its tokens from another's: the hash of the backbone's weights.
        size: tokens a row.
        ends: whether every document ends with the tokenizer's end-of-text token, as decoders need it.
        packed: several documents a row; otherwise each begins a row of its own.
    """

    tokenizer: PreTrainedTokenizerBase
    name: str
    size: int
    ends: bool
    packed: bool

    def documents(self, some: Iterable[str]) -> Iterator[list[int]]:
        """Token ids of each document, in order."""
        stream = iter(some)
        while batch := list(islice(stream, _BATCH)):
            for ids in self.tokenizer(batch, return_attention_mask=False)["input_ids"]:
                last = self.tokenizer.eos_token_id if self.ends else None
                yield ids if last is None or ids[-1:] == [last] else [*ids, last]

    def blocks(self, some: Iterable[str]) -> Iterator[TokenBlock]:
        """Rows of a full length, but for the last, or for every document's last where they are not packed."""
        ids: list[int] = []
        lengths: list[int] = []
        for document in self.documents(some):
            while document:
                part, document = document[: self.size - len(ids)], document[self.size - len(ids) :]
                ids, lengths = ids + part, [*lengths, len(part)]
                if len(ids) == self.size or not self.packed:
                    yield TokenBlock(ids, lengths)
                    ids, lengths = [], []
        if ids:
            yield TokenBlock(ids, lengths)


def prepare_corpus(files: Sequence[Path], domain: str, tokens: CorpusTokenizer, held_out: float, out: Path) -> Corpus:
    """Make rows of some files, in a folder of their own; or take what is there of the same files and settings.

    Args:
        files: text, one document a line; or csv, jsonl, Parquet or a `datasets` folder with a column `text`.
        domain: whose text it is.
        held_out: the last share of each file's documents, contiguous, that is kept for measuring.
        out: the folder to fill.

    Raises:
        Fault: when a file cannot be read, has fewer than two documents, or the folder cannot be written.
    """
    if not files:
        raise Fault(f"a corpus for {domain}", "no file named", f"set domains.{domain}.corpus")
    key = _key(files, domain, tokens, held_out)
    if (there := _load(out, key)) is not None:
        return there
    with atomic_folder(out, overwrite=True) as temporary, os_errors_as_faults(out.parent):
        report = {}
        for place, path in enumerate(files):
            report[str(path)] = _one_file(path, domain, tokens, held_out, temporary, place)
        write_json(temporary / REPORT, {"key": key, "report": report})
    made = _load(out, key)
    assert made is not None
    return made


def _one_file(
    path: Path, domain: str, tokens: CorpusTokenizer, held_out: float, out: Path, place: int
) -> dict[str, Any]:
    found = DocumentReader(path)
    count = sum(1 for _ in found)
    if count < 2:
        raise Fault(f"at least two documents in {path}", str(count), "put one document on a line, or name another file")
    kept = count - max(1, round(held_out * count))
    stream = iter(DocumentReader(path))
    report: dict[str, Any] = {"documents": count, "broken": found.broken}
    for part, some in (("train", islice(stream, kept)), ("held_out", stream)):
        rows, size = _write(out / f"{part}-{place}.arrow", tokens.blocks(some), domain)
        report[part] = {"rows": rows, "tokens": size}
    return report


def _write(path: Path, blocks: Iterator[TokenBlock], domain: str) -> tuple[int, int]:
    rows = size = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as stream:
        while batch := list(islice(blocks, _BATCH)):
            content = [{"input_ids": one.ids, "lengths": one.lengths, "domain": domain} for one in batch]
            stream.write_batch(pa.RecordBatch.from_pylist(content, schema=SCHEMA))
            rows, size = rows + len(batch), size + sum(len(one.ids) for one in batch)
    return rows, size


class DocumentReader:
    """The documents of a file in order; broken and empty ones are passed over, and the broken counted."""

    def __init__(self, path: Path) -> None:
        self.path, self.broken = path, 0

    def __iter__(self) -> Iterator[str]:
        self.broken = 0
        for record in read_texts(self.path):
            if record.error is None:
                text = str(record.values["text"]).strip()
                yield from (
                    text[start : start + MAX_DOCUMENT_CHARS] for start in range(0, len(text), MAX_DOCUMENT_CHARS)
                )
            elif record.error != "missing text":
                self.broken += 1


def _key(files: Sequence[Path], domain: str, tokens: CorpusTokenizer, held_out: float) -> dict[str, Any]:
    for path in files:
        if not path.exists():
            raise Fault(f"a corpus of {domain} at {path}", "nothing there", "mend domains.*.corpus or data.folder")
    inner = [sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] for path in files]
    return {
        "files": [[sha256_of(one) for one in some] for some in inner],
        "domain": domain,
        "tokenizer": tokens.name,
        "shape": [tokens.size, tokens.ends, tokens.packed, held_out],
    }


def _load(out: Path, key: dict[str, Any]) -> Corpus | None:
    try:
        content = read_json(out / REPORT)
        if content["key"] != key:
            return None
        train, held_out = (_rows(out, part, len(content["report"])) for part in ("train", "held_out"))
    except (Fault, OSError, ValueError, LookupError, TypeError, pa.ArrowException):
        return None
    return Corpus(train, held_out, content["report"], key)


def _rows(out: Path, part: str, files: int) -> Dataset:
    parts = [Dataset.from_file(str(out / f"{part}-{place}.arrow")) for place in range(files)]
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]

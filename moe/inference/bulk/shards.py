"""A dataset cut into parts: rows staged beside the answers, each part answered and written whole by itself.

Who works the parts off, and what is told meanwhile, is `moe.inference.bulk.engine`'s.
"""

import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from experts.atomic_io import MANIFEST, sha256_of
from experts.errors import Fault
from moe.console import bar
from moe.data.readers import read_texts
from moe.data.schema import Columns
from moe.inference.bulk.storage import RemoteFolder, list_files, local_copy
from moe.inference.loading import ModelLoader
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_rows

PLAN, STAGED = "plan.json", "staged"
FORMAT = 1
Row = dict[str, Any]


@dataclass(frozen=True)
class BulkJob:
    """One dataset to answer.

    Args:
        source: a file, a folder or a pattern; local, or a URL of a store.
        out: the folder of the answers, likewise.
        opening: the model.
        domain: pins the texts to a domain's experts.
        task: the task to answer.
        rows: of a part.
    """

    source: str
    out: str
    opening: ModelLoader
    columns: Columns = Columns()
    domain: str | None = None
    task: str | None = None
    rows: int = 10_000

    @cached_property
    def store(self) -> RemoteFolder:
        """Where answers go."""
        return RemoteFolder(self.out)

    def check(self) -> None:
        """Refuse what cannot work before anything heavy is loaded.

        Raises:
            Fault: as `Opening.check` and `list_files` do.
        """
        self.opening.check()
        list_files(self.source)

    def name(self, part: int) -> str:
        """The file of a part."""
        return f"part-{part:05}.parquet"


def _job(bulk: BulkJob) -> Row:
    """What makes one job differ from another, as plain JSON values."""
    manifest = bulk.opening.folder / MANIFEST
    said = {
        "files": [[name, size] for name, size in list_files(bulk.source)],
        "columns": bulk.columns.model_dump(),
        "model": sha256_of(manifest) if manifest.is_file() else str(bulk.opening.folder),
        "opening": {key: value for key, value in asdict(bulk.opening).items() if key != "folder"},
        "domain": bulk.domain,
        "task": bulk.task,
        "rows_a_part": bulk.rows,
    }
    return dict(json.loads(json.dumps(said)))


def read_plan(bulk: BulkJob) -> Row | None:
    """The plan of this very job, if its rows were staged before.

    Raises:
        Fault: when the folder is another job's, or holds other things.
    """
    if not bulk.store.has(PLAN):
        if others := bulk.store.names() - {STAGED}:
            raise Fault(f"an empty folder at {bulk.out}", f"{sorted(others)[0]} in it", "name another --out")
        return None
    try:
        plan = json.loads(bulk.store.read(PLAN))
        same = plan["format"] == FORMAT and plan["job"]
    except (ValueError, KeyError, TypeError) as error:
        raise Fault(f"a plan of moe infer in {bulk.out}", f"{PLAN} that is none", "name another --out") from error
    job = _job(bulk)
    if same != job:
        other = [key for key in job if not isinstance(same, dict) or same.get(key) != job[key]]
        raise Fault(f"the job that {bulk.out} was begun with", f"other {', '.join(other)}", "name another --out")
    return dict(plan)


def stage_shards(bulk: BulkJob) -> Row:
    """Cut the dataset into parts of numbered rows beside the answers, so that each can be worked off by itself."""
    files, parts, total = list_files(bulk.source), 0, 0
    rows = _read(bulk, [name for name, _ in files])
    with bar("read", None, "row") as meter:
        while some := list(itertools.islice(rows, bulk.rows)):
            table = pa.Table.from_pylist(some, _STAGED)
            bulk.store.write(f"{STAGED}/{bulk.name(parts)}", _parquet(table))
            parts, total = parts + 1, total + len(some)
            meter.advance(len(some))
    plan = {"format": FORMAT, "job": _job(bulk), "rows": total, "parts": parts}
    bulk.store.write(PLAN, json.dumps(plan, indent=2).encode())
    return plan


_STAGED = pa.schema(
    [("file", pa.string()), ("id", pa.string()), ("line", pa.int64()), ("text", pa.string()), ("error", pa.string())]
)


def _read(bulk: BulkJob, names: Sequence[str]) -> Iterator[Row]:
    """Every row of every file, in order; those that cannot be answered say why."""
    paths = [name.split("://")[-1] for name in names]
    above = os.path.commonpath([path.rpartition("/")[0] or "/" for path in paths])
    with tempfile.TemporaryDirectory(prefix="moe-infer-") as folder:
        for name, path in zip(names, paths, strict=True):
            place = local_copy(name, Path(folder))
            for record in read_texts(place, bulk.columns):
                own, text = record.values.get("id"), record.values.get("text")
                yield {
                    "file": path.removeprefix(above).lstrip("/"),
                    "id": None if own is None else str(own),
                    "line": record.line,
                    "text": text if record.error is None else None,
                    "error": record.error,
                }


def count_rows(plan: Row, parts: Iterable[int]) -> int:
    """How many rows parts hold: all alike but the last."""
    size, last = plan["job"]["rows_a_part"], plan["parts"] - 1
    return sum(plan["rows"] - size * last if part == last else size for part in parts)


def load_predictor(bulk: BulkJob) -> Predictor:
    """The model, ready; a task or domain that it has not is refused."""
    predictor = bulk.opening.load()
    predictor.check(bulk.task, bulk.domain)
    return predictor


def read_staged_rows(bulk: BulkJob, part: int) -> list[Row]:
    """The rows of a part that is to be answered."""
    table = pq.read_table(pa.BufferReader(bulk.store.read(f"{STAGED}/{bulk.name(part)}")))
    return [row if row["error"] else {k: v for k, v in row.items() if k != "error"} for row in table.to_pylist()]


def predict_shard(bulk: BulkJob, predictor: Predictor, part: int) -> int:
    """Answer one part and write it whole; gives its rows."""
    rows = list(predict_rows(read_staged_rows(bulk, part), predictor, bulk.domain, bulk.task))
    bulk.store.write(bulk.name(part), _parquet(pa.Table.from_pylist(rows, shard_schema(predictor))))
    return len(rows)


def shard_schema(predictor: Predictor) -> pa.Schema:
    """The columns of every part, alike whatever its rows are: probabilities of all labels, shares of all experts."""
    labels = dict.fromkeys(label for own in predictor.model.labels.tasks.values() for label in own)
    real = pa.float64()
    return pa.schema(
        [
            *_STAGED,
            ("label", pa.string()),
            ("probabilities", pa.struct([(label, real) for label in labels])),
            *((name, real) for name in ("polarity", "confidence")),
            ("experts", pa.struct([(name, real) for name in predictor.model.bank.routed_experts])),
            ("routing_entropy", real),
            ("truncated", pa.bool_()),
            ("task", pa.string()),
            *([("abstained", pa.bool_())] if predictor.abstain is not None else []),
        ]
    )


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()

"""Shards of a dataset: rows are staged in the output folder, then each shard is predicted and written separately."""

import itertools
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from experts.atomic_io import MANIFEST, sha256_of
from experts.errors import Fault
from experts.json_io import Json, json_object, parse_json
from moe.console import progress_bar
from moe.data.formats.readers import columns_of_texts, read_column_names, read_texts
from moe.data.formats.text_format import TextFormat
from moe.data.schema import Columns
from moe.data.text_checks import is_blank, replace_surrogates
from moe.inference.bulk.storage import RemoteFolder, list_files, local_copy
from moe.inference.load import LoadOptions, load
from moe.inference.predictor import Predictor
from moe.inference.rows import Row
from moe.inference.stream import predict_rows
from moe.inference.text_io import ADDED, CARRIED, PREDICTED, InputColumns
from moe.inference.windows import RoutingCount
from moe.runs.model_ref import ModelRef

PLAN, STAGED = "plan.json", "staged"
FORMAT = 1


@dataclass(frozen=True)
class BulkJob:
    """A dataset to predict, the model and the output folder.

    Args:
        source: a file, a folder or a glob pattern; local, or a URL that fsspec knows.
        out: the output folder, local or a URL.
        model: predicts the rows.
        options: how the model is loaded.
        text_column: text column of the files.
        target_column: target column of the files; by default `target`, in files that have it.
        domain: restricts the texts to the experts of this domain.
        task: the task to predict.
        rows_per_shard: number of rows of every shard but the last.
        text_format: encoding and separator of the files, if they cannot be detected.
    """

    source: str
    out: str
    model: ModelRef
    options: LoadOptions = LoadOptions()
    text_column: str = "text"
    target_column: str | None = None
    domain: str | None = None
    task: str | None = None
    rows_per_shard: int = 10_000
    text_format: TextFormat = TextFormat()

    @cached_property
    def output(self) -> RemoteFolder:
        """The output folder."""
        return RemoteFolder(self.out)

    def check(self) -> None:
        """Check the options, before anything slow is loaded.

        Raises:
            Fault: as `LoadOptions.check` and `list_files`; if the output folder holds an input, or is in the input
                folder.
        """
        self.options.check()
        files = [_local(name) for name, _ in list_files(self.source)]
        out, source = _local(self.out), _local(self.source)
        holds_input = out is not None and any(path is not None and path.is_relative_to(out) for path in files)
        is_inside = out is not None and source is not None and source.is_dir() and out.is_relative_to(source)
        if holds_input or is_inside:
            raise Fault(
                "an output folder apart from the input", f"{self.out} for {self.source}", "choose another --out-dir"
            )

    def shard_name(self, shard: int) -> str:
        """File name of a shard."""
        return f"part-{shard:05}.parquet"


@dataclass(frozen=True)
class BulkPlan:
    """The shards of a job whose rows are staged, as `plan.json` holds them.

    Args:
        format: version of the file.
        job: everything that the predictions depend on; two equal ones are the same job.
        rows: rows of the dataset.
        parts: number of shards.
        columns: names of all columns of the files.
    """

    format: int
    job: dict[str, Json]
    rows: int
    parts: int
    columns: Sequence[str]


def _local(url: str) -> Path | None:
    """The resolved path of a local file or folder; None for a URL of another storage."""
    path = url.removeprefix("file://")
    return None if "://" in path else Path(path).resolve()


def _identity(job: BulkJob) -> dict[str, Json]:
    """Everything that the predictions depend on, as plain JSON values; two equal identities are the same job."""
    options, folder = job.options, job.model.folder
    manifest = folder / MANIFEST
    identity = {
        "files": [[name, size] for name, size in list_files(job.source)],
        "columns": Columns(text=job.text_column, target=job.target_column).model_dump(),
        "model": sha256_of(manifest) if manifest.is_file() else str(folder),
        "opening": {
            "sets": options.sets,
            "routing": options.routing,
            "windows": options.windows,
            "tokens": options.batch_tokens,
            "abstain": options.abstain,
            **({"label_sets": True} if options.label_sets else {}),
        },
        "domain": job.domain,
        "task": job.task,
        "rows_a_part": job.rows_per_shard,
        **job.text_format.model_dump(exclude_none=True),
    }
    return dict(parse_json(json.dumps(identity)))


def read_plan(job: BulkJob) -> BulkPlan | None:
    """The plan of a job whose rows were staged by an earlier call; None if there is none.

    Raises:
        Fault: if the folder holds another job or other files.
    """
    if not job.output.has(PLAN):
        if others := job.output.names() - {STAGED}:
            raise Fault(f"an empty folder at {job.out}", f"{sorted(others)[0]} in it", "choose another --out-dir")
        return None
    try:
        plan = parse_json(job.output.read(PLAN))
        earlier = plan["format"] == FORMAT and plan["job"]
        stored = BulkPlan(FORMAT, earlier, int(plan["rows"]), int(plan["parts"]), list(plan.get("columns", ())))
    except (ValueError, KeyError, TypeError) as error:
        raise Fault(f"a plan of moe infer in {job.out}", f"an invalid {PLAN}", "choose another --out-dir") from error
    identity = _identity(job)
    if earlier != identity:
        changed = [key for key in identity if not isinstance(earlier, dict) or earlier.get(key) != identity[key]]
        raise Fault(
            f"the job that {job.out} was started with",
            f"different values of {', '.join(changed)}",
            "choose another --out-dir",
        )
    return stored


def stage_shards(job: BulkJob) -> BulkPlan:
    """Copy the dataset's rows into shards below the output folder, so that each can be predicted on its own."""
    files, shards, total = list_files(job.source), 0, 0
    names = set[str]()
    rows = _read(job, [name for name, _ in files], names)
    with progress_bar("read", None, "row") as meter:
        while shard_rows := list(itertools.islice(rows, job.rows_per_shard)):
            table = pa.Table.from_pylist(shard_rows, _STAGED_SCHEMA)
            job.output.write(f"{STAGED}/{job.shard_name(shards)}", _to_parquet(table))
            shards, total = shards + 1, total + len(shard_rows)
            meter.advance(len(shard_rows))
    plan = BulkPlan(FORMAT, _identity(job), rows=total, parts=shards, columns=sorted(names))
    job.output.write(PLAN, json.dumps(plan, indent=2, default=json_object).encode())
    return plan


_STAGED_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("id", pa.string()),
        ("line", pa.int64()),
        ("text", pa.string()),
        ("target", pa.string()),
        ("error", pa.string()),
        (CARRIED, pa.string()),
    ]
)


def _input_columns(job: BulkJob, names: Collection[str]) -> InputColumns:
    """Columns of the files (`names`) that the shards would otherwise replace."""
    used = {"id": "id", "text": job.text_column, "target": job.target_column or "target"}
    return InputColumns.of(names, ("file", *PREDICTED, *ADDED), used)


def _read(job: BulkJob, files: Sequence[str], names: set[str]) -> Iterator[Row]:
    """Every row of every file, in order; a row that cannot be read has an `error` instead of a text.

    Args:
        names: the names of all columns are added.
    """
    paths = [name.split("://")[-1] for name in files]
    parent = os.path.commonpath([path.rpartition("/")[0] or "/" for path in paths])
    with tempfile.TemporaryDirectory(prefix="moe-infer-") as folder:
        for name, path in zip(files, paths, strict=True):
            copy = local_copy(name, Path(folder))
            file_columns = columns_of_texts(copy, job.text_column, job.target_column, job.text_format)
            columns = read_column_names(copy, file_columns.required(), job.text_format)
            names.update(columns)
            clashes = _input_columns(job, columns)
            for record in read_texts(copy, file_columns, job.text_format, carried=clashes.carried):
                row_id, text = record.values.get("id"), record.values.get("text")
                target = record.values.get("target")
                yield {
                    "file": replace_surrogates(path.removeprefix(parent).lstrip("/")),
                    "id": None if row_id is None else str(row_id),
                    "line": record.line,
                    "text": text if record.error is None else None,
                    "target": None if is_blank(target) else str(target),
                    "error": record.error,
                    CARRIED: _carried({name: record.values.get(name) for name in clashes.carried}),
                }


def _carried(values: Mapping[str, object]) -> str | None:
    """Values of columns to carry over, as JSON of strings; files may hold other types under one name."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        for name, value in values.items()
        if value is not None
    }
    return json.dumps(texts) if texts else None


def count_rows(job: BulkJob, plan: BulkPlan, shards: Iterable[int]) -> int:
    """Total number of rows of some shards; all shards but the last have the same size."""
    size, last = job.rows_per_shard, plan.parts - 1
    return sum(plan.rows - size * last if shard == last else size for shard in shards)


def load_predictor(job: BulkJob, threads: int | None) -> Predictor:
    """Load a job's model.

    Args:
        threads: CPU threads of a forward pass; None leaves the choice to the runtime.

    Raises:
        Fault: as `load`; if the model does not know the job's task or domain.
    """
    predictor = load(job.model, replace(job.options, threads=threads))
    predictor.check(job.task, job.domain, None if job.target_column is None else True)
    return predictor


def read_staged_rows(job: BulkJob, shard: int) -> list[Row]:
    """Read the staged rows of a shard, as `predict_rows` takes them."""
    table = pq.read_table(pa.BufferReader(job.output.read(f"{STAGED}/{job.shard_name(shard)}")))
    rows = [row if row["error"] else {k: v for k, v in row.items() if k != "error"} for row in table.to_pylist()]
    return [row | {CARRIED: parse_json(row.get(CARRIED) or "{}")} for row in rows]


@dataclass(frozen=True)
class ShardCount:
    """A predicted shard.

    Args:
        rows: number of its rows.
        routing: how they were routed.
        experts: of all windows together, as in `RoutingCount`.
        skipped: those of them that were not computed.
    """

    rows: int
    routing: str
    experts: int
    skipped: int

    @property
    def routed(self) -> RoutingCount:
        """The experts that were computed."""
        return RoutingCount(self.routing, self.experts, self.skipped)


def predict_shard(job: BulkJob, predictor: Predictor, shard: int) -> ShardCount:
    """Predict one shard, write it atomically, and return what was counted."""
    before = predictor.routing_count
    rows = list(predict_rows(read_staged_rows(job, shard), predictor, job.domain, job.task))
    columns = _input_columns(job, parse_json(job.output.read(PLAN)).get("columns", ()))
    table = pa.Table.from_pylist(list(columns.restore(rows)), shard_schema(predictor, columns))
    job.output.write(job.shard_name(shard), _to_parquet(table))
    routed = predictor.routing_count - before
    return ShardCount(len(rows), routed.routing, routed.experts, routed.skipped)


def shard_schema(predictor: Predictor, columns: InputColumns = InputColumns()) -> pa.Schema:
    """Schema of every shard; it lists all labels and all experts, so that all shards have the same one.

    Args:
        columns: of the files, with the columns that are carried over and those that are renamed.
    """
    labels, targets = predictor.spec.labels, bool(predictor.spec.target_tasks)
    real = pa.float64()
    staged = [field for field in _STAGED_SCHEMA if field.name != CARRIED and (field.name != "target" or targets)]
    schema = pa.schema(
        [
            *staged,
            ("label", pa.string()),
            *([("probabilities", pa.struct([(label, real) for label in labels]))] if labels else []),
            *((name, real) for name in ("polarity", "confidence")),
            ("experts", pa.struct([(name, real) for name in predictor.experts])),
            ("routing_entropy", real),
            ("truncated", pa.bool_()),
            ("task", pa.string()),
            *([("labels", pa.list_(pa.string()))] if predictor.spec.has_sets else []),
            *([("abstained", pa.bool_())] if predictor.abstain is not None else []),
            *([("label_set", pa.list_(pa.string()))] if predictor.label_sets else []),
            *([("windows", pa.int64())] if predictor.window_limit != 1 else []),
            *([("target_missing", pa.bool_()), ("target_truncated", pa.bool_())] if targets else []),
            *([("unfamiliar", pa.bool_())] if predictor.marks_unfamiliar else []),
        ]
    )
    renamed = columns.renamed or {}
    fields = [field.with_name(renamed.get(field.name, field.name)) for field in schema]
    return pa.schema([*fields, *((name, pa.string()) for name in columns.carried)])


def _to_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content

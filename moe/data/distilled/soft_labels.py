"""Soft labels: the answers of teachers for a task's texts, their file, and training rows that carry them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value

from experts.atomic_io import atomic_file
from experts.errors import Fault
from experts.json_io import parse_json
from moe.data.distilled.columns import TEACHER, TEACHER_SCORE
from moe.data.ingest import FEATURES

DISTILLED = "distilled"
"""Origin of rows without labels that a teacher has answered."""
SOFT_FEATURES = Features({**FEATURES, TEACHER: List(Value("float32")), TEACHER_SCORE: Value("float32")})
_COLUMNS = ("text", "target", "labelled", "probabilities", "score")
_ORIGIN = b"distilled_from"


@dataclass(frozen=True)
class SoftLabels:
    """Answers of teachers for N texts.

    Args:
        probabilities: (N, K) float32, of the task's labels; a row of NaN where no teacher gave an answer.
        scores: (N,) float32, polarity in [-1, 1]; NaN without one.
    """

    probabilities: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: np.ndarray | slice) -> "SoftLabels":
        """The answers of some texts."""
        return SoftLabels(self.probabilities[rows], self.scores[rows])

    @property
    def answered(self) -> np.ndarray:
        """(N,) bool, whether there is a class distribution or a polarity."""
        answered: np.ndarray = ~np.isnan(self.probabilities).any(1) | ~np.isnan(self.scores)
        return answered

    @classmethod
    def empty(cls, rows: int, labels: int) -> "SoftLabels":
        """No answers for some texts, for a task of K labels."""
        return cls(np.full((rows, labels), np.nan, np.float32), np.full(rows, np.nan, np.float32))


@dataclass(frozen=True)
class SoftRows:
    """Texts of one task with the teachers' answers.

    Args:
        texts: the texts (N).
        targets: for each text the entity that its answer is about; None in a task without a target.
        labelled: (N,) bool, whether a text, with its target, is that of a labelled training row.
        answers: of the teachers.
    """

    texts: Sequence[str]
    targets: Sequence[str | None]
    labelled: np.ndarray
    answers: SoftLabels


def write_soft_rows(path: Path, rows: SoftRows, origin: str) -> None:
    """Write texts with answers as parquet, completely or not at all.

    Args:
        origin: everything that the rows depend on, as JSON; `read_origin` returns it.
    """
    values = [
        pa.array(rows.texts, pa.string()),
        pa.array(rows.targets, pa.string()),
        pa.array(rows.labelled.tolist(), pa.bool_()),
        pa.array(list(rows.answers.probabilities), pa.list_(pa.float32())),
        pa.array(rows.answers.scores, pa.float32()),
    ]
    table = pa.table(dict(zip(_COLUMNS, values, strict=True))).replace_schema_metadata({_ORIGIN: origin.encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_origin(path: Path) -> str | None:
    """What the soft rows at a path depend on; None if there is no such file, or it holds something else."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid):
        return None
    metadata = schema.metadata or {}
    complete = _ORIGIN in metadata and set(_COLUMNS) <= set(schema.names)  # an earlier version wrote no targets
    return metadata[_ORIGIN].decode() if complete else None


def read_soft_rows(path: Path, settings: Mapping[str, object]) -> SoftRows:
    """Read what `write_soft_rows` wrote.

    Args:
        settings: with which the soft labels must have been made, see `DistillSettings.of_labels`.

    Raises:
        Fault: if there is no such file, it holds something else, or it was made with other settings.
    """
    remedy = "label the texts with `moe distill --label-only`, or remove `distill` from the config"
    if not path.is_file():
        raise Fault(f"the teachers' answers at {path}, since the config has `distill`", "no such file", remedy)
    try:
        table = pq.read_table(path, columns=list(_COLUMNS))
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise Fault(f"the teachers' answers at {path}", f"another file ({error})", remedy) from error
    origin = read_origin(path)
    if origin is None or parse_json(origin)["of"]["settings"] != settings:
        raise Fault(f"soft labels made with the settings of `distill` at {path}", "those of other settings", remedy)
    texts = table.column("text").to_pylist()
    flat = table.column("probabilities").combine_chunks().flatten().to_numpy()
    probabilities = flat.reshape(len(texts), -1 if len(texts) else 0).astype(np.float32)  # (N, K)
    scores = table.column("score").to_numpy(zero_copy_only=False).astype(np.float32)  # (N,)
    labelled = np.asarray(table.column("labelled").to_pylist(), dtype=bool)  # (N,)
    return SoftRows(texts, table.column("target").to_pylist(), labelled, SoftLabels(probabilities, scores))


def with_soft_labels(train: Dataset, soft: SoftRows, domain: str, task: str) -> Dataset:
    """Return a task's training rows with the teachers' answers, followed by the texts that only teachers have labelled.

    Args:
        train: labelled rows of the task.
        soft: answers for its texts.
    """
    answered = soft.answers.answered
    places = {(soft.texts[i], soft.targets[i]): i for i in np.flatnonzero(soft.labelled & answered).tolist()}
    keys = zip(train["text"], train["target"], strict=True)
    indices = np.array([places.get(key, -1) for key in keys], dtype=int)  # (N,)
    known = train.select_columns(list(FEATURES)).with_format("arrow")[:]
    free = np.flatnonzero(~soft.labelled & answered)  # (M,)
    columns: dict[str, list[Any]] = {name: [None] * len(free) for name in FEATURES}
    columns |= {"id": [f"{task}-{DISTILLED}-{i}" for i in free.tolist()]}
    columns |= {"text": [soft.texts[i] for i in free.tolist()], "target": [soft.targets[i] for i in free.tolist()]}
    columns |= {"line": (free + 1).tolist(), "choices": [[]] * len(free)}
    constants = {"label": -1, "task": task, "domain": domain, "origin": DISTILLED}
    columns |= {name: [value] * len(free) for name, value in constants.items()}
    parts = [
        _with_answers(known, soft.answers, indices),
        _with_answers(pa.table(columns, schema=FEATURES.arrow_schema), soft.answers, free),
    ]
    return Dataset(pa.concat_tables(parts).cast(SOFT_FEATURES.arrow_schema))


def _with_answers(rows: pa.Table, answers: SoftLabels, indices: np.ndarray) -> pa.Table:
    """Rows with the two columns of answers, given the index of each row's answer, or -1 (N,)."""
    none = SoftLabels.empty(1, answers.probabilities.shape[1])
    probabilities = np.concatenate([answers.probabilities, none.probabilities])[indices]  # (N, K)
    scores = np.concatenate([answers.scores, none.scores])[indices]  # (N,)
    unknown = (indices < 0) | np.isnan(probabilities).any(1)  # (N,)
    offsets = pa.array(np.arange(len(indices) + 1, dtype=np.int32) * probabilities.shape[1])
    lists = pa.ListArray.from_arrays(offsets, pa.array(probabilities.ravel(), pa.float32()), mask=pa.array(unknown))
    polarity = pa.array(scores, pa.float32(), mask=np.isnan(scores))
    return rows.append_column(TEACHER, lists).append_column(TEACHER_SCORE, polarity)

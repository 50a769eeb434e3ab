"""The teachers' answers on disk: one parquet file per part of texts, found again by teacher, request and text."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from experts.atomic_io import atomic_file
from experts.errors import Fault
from moe.console import Meter, info, progress_bar
from moe.data.distilled.soft_labels import SoftLabels
from moe.data.distilled.teacher_settings import TeacherSettings
from moe.distill.request import TaskRequest, Teacher, TeacherInput
from moe.distill.teacher import load_teacher
from moe.inference.bulk.ray import ray_is_installed, run_on_actors

PART_ROWS, PAID_ROWS = 4096, 64
"""Texts of a part, each of which is written when all of it is answered; fewer where a lost answer costs money."""


@dataclass
class AnswerStore:
    """Answers of one teacher to one request.

    Args:
        folder: of all answers.
        teacher: fingerprint of the teacher.
        key: see `Teacher.answer_key`.
        request: the task.
    """

    folder: Path
    teacher: str
    key: str
    request: TaskRequest
    _rows: dict[str, int] = field(default_factory=dict)
    _answers: list[SoftLabels] = field(default_factory=list)
    _read: set[str] = field(default_factory=set)

    @property
    def parts(self) -> Path:
        """Folder of this teacher's answers to this request."""
        return self.folder / f"{self.teacher}-{hashlib.sha256(self.key.encode()).hexdigest()[:8]}"

    def refresh(self) -> None:
        """Read the parts that were written since; a damaged one is deleted, and its texts are answered again."""
        for path in sorted(self.parts.glob("*.parquet")):
            if path.name in self._read:
                continue
            self._read.add(path.name)
            try:
                table = pq.read_table(path, columns=["text", "probabilities", "score"])
                texts, scores = table.column("text").to_pylist(), table.column("score").to_numpy()
                flat = table.column("probabilities").combine_chunks().flatten().to_numpy(zero_copy_only=False)
                probabilities = flat.reshape(len(texts), len(self.request.labels))  # (N, K)
            except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
                info(f"{path}: not a part of answers ({error}); its texts are answered again")
                path.unlink(missing_ok=True)
                self._read.discard(path.name)  # it is written again under the same name
                continue
            start = len(self)
            self._answers.append(SoftLabels(probabilities.astype(np.float32), scores.astype(np.float32)))
            self._rows |= {key: start + i for i, key in enumerate(texts)}

    def __len__(self) -> int:
        return sum(map(len, self._answers))

    def missing(self, inputs: Sequence[TeacherInput]) -> list[TeacherInput]:
        """Return the inputs without an answer, each once."""
        return [each for each in dict.fromkeys(inputs) if input_key(each) not in self._rows]

    def of(self, inputs: Sequence[TeacherInput]) -> SoftLabels:
        """Return the answers for inputs that all have one."""
        if not inputs:
            return SoftLabels.empty(0, len(self.request.labels))
        places = np.array([self._rows[input_key(each)] for each in inputs])  # (N,)
        probabilities = np.concatenate([part.probabilities for part in self._answers])  # (M, K)
        return SoftLabels(probabilities[places], np.concatenate([part.scores for part in self._answers])[places])

    def write(self, inputs: Sequence[TeacherInput], answers: SoftLabels) -> None:
        """Write the answers for some inputs as a part, completely or not at all."""
        keys = list(map(input_key, inputs))
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        table = pa.table(
            {
                "text": pa.array(keys, pa.string()),
                "probabilities": pa.array(list(answers.probabilities), pa.list_(pa.float32())),
                "score": pa.array(answers.scores, pa.float32()),
            }
        )
        with atomic_file(self.parts / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")


def input_key(given: TeacherInput) -> str:
    """Hash under which the answer for a text, or for an entity of it, is stored."""
    content = given.text if given.target is None else json.dumps(given)  # the pair, without a separator to imitate
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:24]


@dataclass(frozen=True)
class Labelling:
    """How texts are labelled.

    Args:
        folder: of all answers.
        engine: `local` or `ray`.
        workers: number of Ray actors.
        threads: of each actor.
    """

    folder: Path
    engine: str = "local"
    workers: int = 1
    threads: int | None = None


def answer_texts(
    settings: TeacherSettings, teacher: Teacher, request: TaskRequest, inputs: Sequence[TeacherInput], how: Labelling
) -> SoftLabels:
    """Return a teacher's answers for inputs; those that were answered before are read from disk.

    Args:
        settings: of the teacher, with which other processes load it.
        teacher: loaded in this process.
    """
    store = AnswerStore(how.folder, teacher.fingerprint, teacher.answer_key(request), request)
    store.refresh()
    if todo := store.missing(inputs):
        size = PART_ROWS if settings.endpoint is None else PAID_ROWS
        parts = [todo[start : start + size] for start in range(0, len(todo), size)]
        with_ray = how.engine == "ray" and ray_is_installed()
        predict = partial(_answer_with_ray, settings, how) if with_ray else partial(_answer_here, teacher)
        with progress_bar(f"{teacher.name} on {request.task}", len(todo), "text") as meter:
            _advance(predict(store, parts), meter)
        store.refresh()
    return store.of(inputs)


def _advance(counts: Iterator[int], meter: Meter) -> None:
    for count in counts:
        meter.advance(count)


def _answer_here(teacher: Teacher, store: AnswerStore, parts: Sequence[Sequence[TeacherInput]]) -> Iterator[int]:
    for part in parts:
        _answer_part(teacher, store, part)
        yield len(part)


def _answer_part(teacher: Teacher, store: AnswerStore, part: Sequence[TeacherInput]) -> None:
    texts, targets = [each.text for each in part], [each.target for each in part]
    store.write(part, teacher.answer(texts, store.request, targets if store.request.targeted else None))


def _answer_with_ray(
    settings: TeacherSettings, how: Labelling, store: AnswerStore, parts: Sequence[Sequence[TeacherInput]]
) -> Iterator[int]:
    items = [{"texts": [each.text for each in part], "targets": [each.target or "" for each in part]} for part in parts]
    arguments = (settings, AnswerStore(store.folder, store.teacher, store.key, store.request))
    return run_on_actors(PartAnswerer, arguments, items, how.workers, how.threads or 1, _row_count)


def _row_count(rows: int) -> int:
    return rows


class PartAnswerer:
    """Ray actor that loads the teacher once and answers parts.

    Args:
        settings: of the teacher.
        store: where the answers are written.
        threads: of the actor.
    """

    def __init__(self, settings: TeacherSettings, store: AnswerStore, threads: int) -> None:
        torch.set_num_threads(threads)
        self.store, self.teacher = store, load_teacher(settings)
        if self.teacher.fingerprint != store.teacher:
            raise Fault("the same teacher in every worker", "another one", "use a folder that all workers share")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[int]]:
        """Answer the part of a batch, which holds one, and return its number of texts."""
        counts = []
        for texts, targets in zip(batch["texts"], batch["targets"], strict=True):
            part = [
                TeacherInput(str(text), str(target) if self.store.request.targeted else None)
                for text, target in zip(texts, targets, strict=True)
            ]
            _answer_part(self.teacher, self.store, part)
            counts.append(len(part))
        return {"rows": counts}

"""A mixture, an expert or a run of this toolkit as a teacher: raw probabilities, without calibration."""

from collections.abc import Mapping, Sequence

import numpy as np

from experts.atomic_io import MANIFEST
from experts.reading import sha256_of
from moe.data.distilled.soft_labels import SoftLabels
from moe.data.distilled.teacher_settings import TeacherSettings
from moe.distill.request import (
    TaskRequest,
    Teacher,
    check_mapping,
    covers,
    fingerprint_of,
    label_matrix,
    no_scores,
    polarity_of,
    softmax,
    to_task_labels,
    uncovered_fault,
)
from moe.inference.load import LoadOptions, load
from moe.inference.predictor import Predictor
from moe.inference.spec import TaskInferenceSpec
from moe.inference.windows import Scores
from moe.kinds.registry import task_kind
from moe.runs.model_ref import ModelRef


class OwnTeacher(Teacher):
    """Answers with the task of the same name and labels, else with another one whose labels cover the request's.

    A request about entities is answered by a task with a target, if the model has one. If the model has a domain of the
    request's name, texts are restricted to its experts. The polarity is that of the model's head, else
    p(positive) − p(negative).

    Args:
        name: shown to users.
        fingerprint: see `Teacher`.
        predictor: scores the texts; its calibration is not used.
        mapping: the model's labels → the task's.

    Raises:
        Fault: if the mapping has a label that the model lacks.
    """

    def __init__(self, name: str, fingerprint: str, predictor: Predictor, mapping: Mapping[str, str]) -> None:
        super().__init__(name, fingerprint)
        self._predictor, self._mapping = predictor, mapping
        check_mapping(mapping, predictor.spec.labels, name)

    def can_answer(self, request: TaskRequest) -> bool:
        """Whether a task of the model has such labels, for a request about entities; otherwise True."""
        return not request.targeted or bool(self._matrices(request))

    def answer_key(self, request: TaskRequest) -> str:
        """The head that answers, how its labels map, and the experts: tasks that share all of them share answers."""
        task, matrix = self._choose_task(request)
        spec = self._predictor.spec.tasks[task]
        return repr((self._pin(request), spec.head, spec.columns, matrix.tolist(), request.scored, request.targeted))

    def answer(
        self, texts: Sequence[str], request: TaskRequest, targets: Sequence[str | None] | None = None
    ) -> SoftLabels:
        """Return soft labels of texts (N); see `Teacher.answer`."""
        task, matrix = self._choose_task(request)
        size = self._predictor.chunk_size
        parts = []
        for start in range(0, len(texts), size):
            rows = slice(start, start + size)
            entities = None if targets is None else targets[rows]
            parts.append(self._soft_labels(texts[rows], entities, task, matrix, request))
        empty = np.empty((0, len(request.labels)), dtype=np.float32)
        return SoftLabels(
            probabilities=np.concatenate([empty, *(part.probabilities for part in parts)]),
            scores=np.concatenate([no_scores(0), *(part.scores for part in parts)]),
        )

    def _pin(self, request: TaskRequest) -> str | None:
        """The domain to whose experts the texts are restricted."""
        domains = [domain.name for domain in self._predictor.spec.domains]
        return request.domain if request.domain in domains else None

    def _tasks(self, targeted: bool) -> dict[str, TaskInferenceSpec]:
        """The tasks of one label a text, either those about an entity of it or the others."""
        spec, trained = self._predictor.spec, {domain.name for domain in self._predictor.spec.trained_domains}
        return {
            name: task
            for name, task in spec.tasks.items()
            if task.domain in trained
            and task.target == targeted
            and task_kind(task.kind).has_labels
            and not task_kind(task.kind).is_set
        }

    def _matrices(self, request: TaskRequest) -> dict[str, np.ndarray]:
        """The label matrix (L, K) of each task that covers the request's labels."""
        matrices = {
            name: label_matrix(task.labels, request.labels, self._mapping)
            for name, task in self._tasks(request.targeted).items()
        }
        return {name: matrix for name, matrix in matrices.items() if covers(matrix)}

    def _choose_task(self, request: TaskRequest) -> tuple[str, np.ndarray]:
        """The task that answers, and its label matrix (L, K): by name, then by equal labels, then by domain."""
        tasks, matrices = self._tasks(request.targeted), self._matrices(request)
        if not matrices:
            known = dict.fromkeys(label for task in tasks.values() for label in task.labels)
            raise uncovered_fault(self.name, tuple(known), request)
        best = max(
            matrices,
            key=lambda name: (
                name == request.task,
                bool((matrices[name].sum(1) == 1).all()),  # each of its labels is one of the request's
                tasks[name].domain == request.domain,
            ),
        )
        return best, matrices[best]

    def _soft_labels(
        self,
        texts: Sequence[str],
        targets: Sequence[str | None] | None,
        task: str,
        matrix: np.ndarray,
        request: TaskRequest,
    ) -> SoftLabels:
        spec, pin = self._predictor.spec.tasks[task], self._pin(request)
        scores = self._predictor.score(texts, None if pin is None else [pin] * len(texts), targets)
        assert spec.head is not None  # its labels were compared with the request's
        own = softmax(scores.logits[spec.head][:, list(spec.columns)])  # (N, L)
        probabilities = to_task_labels(own, matrix)  # (N, K)
        return SoftLabels(probabilities, _polarity(scores, own, spec.labels) if request.scored else no_scores(len(own)))


def _polarity(scores: Scores, probabilities: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Polarity (N,) by the model's head, else by the probabilities of its labels (N, L)."""
    if scores.polarity is None:
        return polarity_of(probabilities, labels)
    finite: np.ndarray = np.where(np.isfinite(scores.polarity), scores.polarity, np.nan).astype(np.float32)
    return finite


def load_own_teacher(settings: TeacherSettings, ref: ModelRef, device: str = "auto") -> OwnTeacher:
    """Load a mixture or an expert as a teacher.

    Args:
        settings: its label mapping and length; without one, texts are truncated as in the model's training.
        ref: where it is.
        device: such as `cpu` or `cuda:1`; `auto` is the device of the model's settings.

    Raises:
        Fault: as `moe.inference.load.load`, or if the mapping has a label that the model lacks.
    """
    sets = [] if device == "auto" else [f"backbone.device={device}"]
    sets += [] if settings.max_length is None else [f"backbone.max_length={settings.max_length}"]
    predictor = load(ref, LoadOptions(sets=tuple(sets), large=True))
    fingerprint = fingerprint_of(
        kind="own",
        files=sha256_of(ref.folder / MANIFEST),  # with the hashes of weights, template and backbone
        length=predictor.max_length,
        labels=settings.labels,
    )
    return OwnTeacher(settings.model, fingerprint, predictor, settings.labels)

"""What is requested from a teacher and what it answers: soft labels in the order of the task's labels.

A teacher's own labels are matched with those of the task by name or by a mapping in its settings.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from experts.errors import Fault, suggest
from moe.data.distilled.soft_labels import SoftLabels
from moe.data.polarity import find_sign


@dataclass(frozen=True)
class TaskRequest:
    """What is requested from a teacher.

    Args:
        domain: of the texts; a mixture with a domain of this name answers with its experts.
        task: name of the task.
        labels: its K labels, in the order of the probabilities.
        scored: whether a polarity is requested, too.
        targeted: whether the labels are about an entity, which each text comes with.
    """

    domain: str
    task: str
    labels: tuple[str, ...]
    scored: bool
    targeted: bool = False


class TeacherInput(NamedTuple):
    """What a teacher answers: a text, and the entity that its labels are about in a task with a target."""

    text: str
    target: str | None = None


class Teacher(ABC):
    """A classifier whose probabilities a student learns.

    Args:
        name: shown to users.
        fingerprint: 16 hex digits, a hash of all that decides its answers to a request: weights, label mapping,
            template, length, prompt. Device and precision are not part of it.
    """

    def __init__(self, name: str, fingerprint: str) -> None:
        self.name, self.fingerprint = name, fingerprint

    def can_answer(self, request: TaskRequest) -> bool:
        """Whether it answers about an entity of a text, if the request does."""
        return not request.targeted

    def answer_key(self, request: TaskRequest) -> str:
        """Everything of a request that decides the answers: equal keys, equal answers."""
        return "\0".join((request.domain, request.task, *request.labels, str(request.scored)))

    @abstractmethod
    def answer(
        self, texts: Sequence[str], request: TaskRequest, targets: Sequence[str | None] | None = None
    ) -> SoftLabels:
        """Return soft labels of texts (N), in their order.

        Args:
            texts: to label.
            request: which `can_answer` accepts.
            targets: for each text the entity that its labels are about, if the request is about entities.

        Raises:
            Fault: if the teacher cannot answer for this task, or at all.
        """


def fingerprint_of(**parts: str | float | Mapping[str, str] | None) -> str:
    """Return 16 hex digits, a hash of the names and values of what decides a teacher's answers."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def check_mapping(mapping: Mapping[str, str], known: Sequence[str], teacher: str) -> None:
    """Check that the teacher has all labels of a mapping, in any letter case.

    Raises:
        Fault: if it lacks one.
    """
    spellings = {label.casefold() for label in known}
    for label in mapping:
        if label.casefold() not in spellings:
            expected = f"labels of the teacher {teacher} as keys of its `labels`: {', '.join(known)}"
            raise Fault(expected, repr(label), suggest(label, known))


def label_matrix(known: Sequence[str], wanted: Sequence[str], mapping: Mapping[str, str]) -> np.ndarray:
    """Return which of the teacher's labels stand for which of the task's, (L, K), 1 or 0.

    Args:
        known: the teacher's L labels.
        wanted: the task's K labels.
        mapping: the teacher's labels → the task's; takes precedence over equal names.
    """
    targets = {label.casefold(): label for label in wanted}
    targets |= {label.casefold(): target for label, target in mapping.items() if target in wanted}
    return np.array([[targets.get(label.casefold()) == target for target in wanted] for label in known], dtype=float)


def covers(matrix: np.ndarray) -> bool:
    """Whether each of the task's labels is a label of the teacher, for a matrix (L, K)."""
    return bool(matrix.any(0).all())


def uncovered_fault(teacher: str, known: Sequence[str], request: TaskRequest) -> Fault:
    """Return the fault for a teacher whose labels do not cover those of the task; it shows the mapping to write."""
    own = {label.casefold() for label in request.labels}
    foreign = [label for label in known if label.casefold() not in own]
    present = {label.casefold() for label in known}
    missing = [label for label in request.labels if label.casefold() not in present]
    pairs = ", ".join(f"{label}: {target}" for label, target in zip(foreign, missing, strict=False))
    return Fault(
        f"a teacher for the labels {', '.join(request.labels)} of task {request.task}",
        f"the labels {', '.join(known)} of {teacher}",
        f"set in the teacher's settings, with the right pairs: labels: {{{pairs or 'ITS_LABEL: LABEL'}}}",
    )


def to_task_labels(probabilities: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn probabilities of the teacher's labels (N, L) into those of the task's (N, K) float32.

    Labels of the teacher that stand for no label of the task are dropped, and the others are scaled to sum to 1.

    Args:
        matrix: (L, K), see `label_matrix`.

    Returns:
        the probabilities; a row of NaN where the task's labels have none.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mapped = probabilities.astype(np.float64) @ matrix  # (N, K)
        scaled: np.ndarray = mapped / mapped.sum(1, keepdims=True)  # (N, K)
    scaled[~np.isfinite(scaled).all(1)] = np.nan
    return scaled.astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities of logits, each (N, L); rows that are not finite become NaN."""
    rows = np.where(np.isfinite(logits).all(1, keepdims=True), logits, np.nan).astype(np.float64)
    exponents = np.exp(rows - rows.max(1, keepdims=True))  # (N, L)
    probabilities: np.ndarray = exponents / exponents.sum(1, keepdims=True)
    return probabilities


def polarity_of(probabilities: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Return p(positive) − p(negative) of probabilities (N, K), (N,) float32; NaN for labels without a sign."""
    if (sign := find_sign(labels)) is None:
        return no_scores(len(probabilities))
    negative, positive = (list(labels).index(label) for label in sign)
    difference: np.ndarray = (probabilities[:, positive] - probabilities[:, negative]).astype(np.float32)
    return difference


def no_scores(count: int) -> np.ndarray:
    """Return NaN for each of N texts, (N,) float32."""
    return np.full(count, np.nan, dtype=np.float32)

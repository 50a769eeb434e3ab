"""Scores of answers to questions: accuracy, F1, MCC, exact match, entity F1 and the share of missing answers.

An answer from which nothing can be parsed is missing: it is wrong and counted separately, never as one of the choices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from sklearn.metrics import matthews_corrcoef

from experts.json_io import OMIT_NONE
from moe.bootstrap import TaskPredictions, interval_fields
from moe.data.prompt_templates import AnswerType
from moe.evaluation.metrics import classification
from moe.kinds.classes import OTHER_LABEL
from moe.qa.answer_parsing import normalize_text, parse_choice, parse_entities, parse_number
from moe.results.metrics import ClassMetrics, Confusion

TOLERANCE = 0.01
"""Relative error up to which a number is correct, so that rounding is not an error."""


@dataclass(frozen=True)
class EvalQuestion:
    """A question with its reference answer.

    Args:
        id: of the row.
        task: name of the task.
        domain: the question's domain.
        prompt: in the task's prompt template.
        answer: the reference.
        choices: the possible answers; empty for a free answer.
        kind: how answers are parsed and scored.
    """

    id: str
    task: str
    domain: str
    prompt: str
    answer: str
    choices: tuple[str, ...]
    kind: AnswerType


@dataclass(frozen=True)
class ScoredAnswer:
    """A model's answer to a question.

    Args:
        question: the question.
        output: the model's answer.
        parsed: what the answer was parsed as; None if it is missing.
        correct: whether it agrees with the reference.
    """

    question: EvalQuestion
    output: str
    parsed: str | None
    correct: bool


def score_answer(question: EvalQuestion, output: str) -> ScoredAnswer:
    """Parse an answer and compare it with the reference, as the kind of question requires."""
    parsed, correct = _SCORERS[question.kind](question, output)
    return ScoredAnswer(question, output, parsed, correct)


def _score_choice(question: EvalQuestion, output: str) -> tuple[str | None, bool]:
    choice = parse_choice(output, question.choices)
    return choice, choice == question.answer


def _score_number(question: EvalQuestion, output: str) -> tuple[str | None, bool]:
    """Compare by value; if the reference is in words, as in some datasets of reports, by normalized text."""
    reference = parse_number(question.answer)
    if reference is None or normalize_text(question.answer)[:1].isalpha():
        return _score_text(question, output)
    number = parse_number(output)
    if number is None:
        return None, False
    correct = any(
        abs(value - true) <= TOLERANCE * abs(true)
        for value in _possible_values(*number)
        for true in _possible_values(*reference)
    )
    return output, correct


def _possible_values(value: float, percent: bool) -> tuple[float, ...]:
    """The values that a number can stand for: 56.2% is 56.2 or .562."""
    return (value, value / 100) if percent else (value,)


def _score_entities(question: EvalQuestion, output: str) -> tuple[str | None, bool]:
    entities = parse_entities(output)
    return (None, False) if entities is None else (output, entities == parse_entities(question.answer))


def _score_text(question: EvalQuestion, output: str) -> tuple[str | None, bool]:
    return output.strip() or None, normalize_text(output) == normalize_text(question.answer)


_SCORERS = {"choice": _score_choice, "number": _score_number, "entities": _score_entities, "text": _score_text}


@dataclass(frozen=True, kw_only=True)
class AnswerMetrics:
    """Metrics of the answers of one task, 0 to 1; those of choices, and those of entities, are None for other kinds.

    Args:
        kind: how answers are parsed and scored.
        missing: share of missing answers.
        rows: number of questions.
        accuracy: share of right answers; exact match for free answers.
        macro_precision: of choices, mean over labels; so are the two that follow.
        macro_recall: see above.
        macro_f1: see above.
        weighted_precision: of choices, mean over labels weighted by their rows; so are the two that follow.
        weighted_recall: see above.
        weighted_f1: see above.
        per_class: of choices, metrics of each label; see `LabelMetrics`.
        confusion: of choices, rows by true and predicted label; see there.
        accuracy_interval: 95 % interval over the sampling of rows; so are the two that follow.
        macro_f1_interval: see above.
        weighted_f1_interval: see above.
        mcc: Matthews correlation coefficient of choices, −1 to 1.
        entity_precision: of the entities of all rows; so are the two that follow.
        entity_recall: see above.
        entity_f1: see above.
    """

    kind: AnswerType
    missing: float
    rows: int
    accuracy: float
    macro_precision: float | None = field(default=None, metadata=OMIT_NONE)
    macro_recall: float | None = field(default=None, metadata=OMIT_NONE)
    macro_f1: float | None = field(default=None, metadata=OMIT_NONE)
    weighted_precision: float | None = field(default=None, metadata=OMIT_NONE)
    weighted_recall: float | None = field(default=None, metadata=OMIT_NONE)
    weighted_f1: float | None = field(default=None, metadata=OMIT_NONE)
    per_class: Mapping[str, ClassMetrics] | None = field(default=None, metadata=OMIT_NONE)
    confusion: Confusion | None = field(default=None, metadata=OMIT_NONE)
    accuracy_interval: Sequence[float]
    macro_f1_interval: Sequence[float] | None = field(default=None, metadata=OMIT_NONE)
    weighted_f1_interval: Sequence[float] | None = field(default=None, metadata=OMIT_NONE)
    mcc: float | None = field(default=None, metadata=OMIT_NONE)
    entity_precision: float | None = field(default=None, metadata=OMIT_NONE)
    entity_recall: float | None = field(default=None, metadata=OMIT_NONE)
    entity_f1: float | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True, kw_only=True)
class MeanAnswerMetrics:
    """Metrics of answers averaged over tasks, 0 to 1; None without a task that has them.

    Args:
        accuracy: share of right answers.
        macro_f1: of the tasks of choices.
        missing: share of missing answers.
    """

    accuracy: float | None = field(default=None, metadata=OMIT_NONE)
    macro_f1: float | None = field(default=None, metadata=OMIT_NONE)
    missing: float | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True, kw_only=True)
class QAReport:
    """Evaluation of a language model on questions.

    Args:
        questions: their number.
        by: how choices are made: `likelihood` or `generation`.
        tasks: metrics of each task.
        mean: metrics averaged over tasks.
        model: folder of the model; None if it was not read from one, as for the next.
        bare: whether the backbone answered without experts.
    """

    questions: int
    by: str
    tasks: Mapping[str, AnswerMetrics]
    mean: MeanAnswerMetrics
    model: str | None = field(default=None, metadata=OMIT_NONE)
    bare: bool | None = field(default=None, metadata=OMIT_NONE)


def score_report(answers: Sequence[ScoredAnswer]) -> AnswerMetrics:
    """Metrics of the answers of one task, N ≥ 1."""
    kind = answers[0].question.kind
    missing = sum(answer.parsed is None for answer in answers) / len(answers)
    if kind == "choice":
        return _choice_metrics(answers, missing)
    correct = [int(answer.correct) for answer in answers]
    return AnswerMetrics(
        kind=kind,
        missing=missing,
        rows=len(answers),
        accuracy=sum(correct) / len(correct),
        accuracy_interval=interval_fields([TaskPredictions.from_correct([correct])])["accuracy_interval"],
        **(_entity_metrics(answers) if kind == "entities" else _EntityMetrics()),
    )


def _choice_metrics(answers: Sequence[ScoredAnswer], missing: float) -> AnswerMetrics:
    labels = list(dict.fromkeys(choice for answer in answers for choice in answer.question.choices))
    true = [answer.question.answer for answer in answers]
    predicted = [answer.parsed or OTHER_LABEL for answer in answers]
    report = classification(true, predicted, labels)
    metrics = {name: value for name, value in report if name in report.model_fields_set}
    metrics |= interval_fields([TaskPredictions.from_labels(true, predicted, labels)])
    return AnswerMetrics(kind="choice", missing=missing, **metrics, mcc=float(matthews_corrcoef(true, predicted)))


class _EntityMetrics(TypedDict, total=False):
    """Metrics of entities; see `AnswerMetrics`."""

    entity_precision: float
    entity_recall: float
    entity_f1: float


def _entity_metrics(answers: Sequence[ScoredAnswer]) -> _EntityMetrics:
    pairs = [
        (parse_entities(answer.question.answer) or set(), parse_entities(answer.output) or set()) for answer in answers
    ]
    hits = sum(len(true & predicted) for true, predicted in pairs)
    precision = hits / max(1, sum(len(predicted) for _, predicted in pairs))
    recall = hits / max(1, sum(len(true) for true, _ in pairs))
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"entity_precision": precision, "entity_recall": recall, "entity_f1": f1}


def group_by_task(answers: Sequence[ScoredAnswer]) -> Mapping[str, list[ScoredAnswer]]:
    """Answers by task, in order of first appearance."""
    groups: dict[str, list[ScoredAnswer]] = {}
    for answer in answers:
        groups.setdefault(answer.question.task, []).append(answer)
    return groups

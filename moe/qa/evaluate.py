"""Evaluation of a language model on questions, by generated answers or by the likelihood of each choice."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from datasets import Dataset

from experts.atomic_io import write_json
from experts.errors import Fault, check_choice, suggest
from experts.outputs import check_output_file
from moe.bootstrap import TaskPredictions
from moe.console import Table, info, progress_bar
from moe.data.formats.writers import open_writer
from moe.data.prepare import prepare_task
from moe.data.prompt_templates import TEMPLATES, answer_type
from moe.data.schema import TaskSettings
from moe.data.splitting.settings import SPLITS, SplitSettings
from moe.inference.generator import Generator, Sampling
from moe.inference.load_mixture import load_mixture
from moe.inference.scoring import likelihoods
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode
from moe.qa.scoring import (
    EvalQuestion,
    MeanAnswerMetrics,
    QAReport,
    ScoredAnswer,
    group_by_task,
    score_answer,
    score_report,
)
from moe.runs.layout import EVALUATION, EVALUATION_DATA, QUESTIONS
from moe.runs.locking import writes_run
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace

ChoiceMethod = Literal["likelihood", "generation"]
CHOICE_METHODS: tuple[ChoiceMethod, ...] = get_args(ChoiceMethod)
MAX_NEW_TOKENS = {"choice": 16, "number": 32, "entities": 128, "text": 128}
"""Maximal length of a generated answer in tokens, by the kind of question."""
CHUNK_SIZE = 128  # questions sorted by length together


@dataclass(frozen=True)
class EvalSettings:
    """How questions are put to a model.

    Args:
        method: `likelihood` takes the most likely choice given the prompt, `generation` generates all answers; free
            answers are always generated.
        hard: send each text, or each token, to its most probable expert.
        pin: restrict each question to the experts of its true domain.
        chat: whether to use the backbone's chat template; None uses it if there is one.
    """

    method: ChoiceMethod = "likelihood"
    hard: bool = False
    pin: bool = False
    chat: bool | None = None


def check_choice_method(method: str) -> ChoiceMethod:
    """Check the name of a method for choices and return it.

    Raises:
        Fault: if there is no such method.
    """
    return check_choice(method, CHOICE_METHODS, "--choice-method")


def answer_questions(
    model: Mixture,
    template: str,
    questions: Sequence[EvalQuestion],
    settings: EvalSettings = EvalSettings(),
    quiet: bool = True,
    mode: RoutingMode | None = None,
) -> list[ScoredAnswer]:
    """Put questions to a model and score its answers, in order.

    A prompt that leaves no room for its answer in the backbone's context is skipped; its answer is missing.

    Args:
        template: the prompt template that the model was trained with.
        quiet: show no progress bar.
        mode: how the model routes, besides the settings; by default its own mode.
    """
    outputs: dict[int, str] = {}
    with progress_bar("questions", len(questions), "question", quiet) as meter:
        for kind in dict.fromkeys(question.kind for question in questions):
            sampling = Sampling(MAX_NEW_TOKENS[kind])
            routing = (mode or model.mode).as_hard(settings.hard)
            generator = Generator(model, template, sampling, mode=routing, chat=settings.chat)
            indices = iter([i for i, question in enumerate(questions) if question.kind == kind])
            by_likelihood = kind == "choice" and settings.method == "likelihood"
            answer = _most_likely_choices if by_likelihood else _generate_answers
            while chunk := list(islice(indices, CHUNK_SIZE)):
                outputs |= answer(generator, {i: questions[i] for i in chunk}, settings)
                meter.advance(len(chunk))
    return [score_answer(question, outputs[i]) for i, question in enumerate(questions)]


def _encode_prompts(generator: Generator, questions: Mapping[int, EvalQuestion]) -> dict[int, list[int]]:
    """Token ids of the prompts that leave room for their answer."""
    prompts = {}
    for i, question in questions.items():
        try:
            prompts[i] = generator.encode(question.prompt)
        except Fault:
            continue
    return prompts


def _generate_answers(
    generator: Generator, questions: Mapping[int, EvalQuestion], settings: EvalSettings
) -> dict[int, str]:
    prompts = _encode_prompts(generator, questions)
    outputs = dict.fromkeys(questions, "")
    groups: dict[str | None, list[int]] = {}
    for i in prompts:
        groups.setdefault(questions[i].domain if settings.pin else None, []).append(i)
    for domain, indices in groups.items():
        generated = generator.generate([prompts[i] for i in indices], domain)
        outputs |= {i: answer.text for i, answer in zip(indices, generated, strict=True)}
    return outputs


def _most_likely_choices(
    generator: Generator, questions: Mapping[int, EvalQuestion], settings: EvalSettings
) -> dict[int, str]:
    prompts = _encode_prompts(generator, questions)
    outputs = dict.fromkeys(questions, "")
    candidates = [(i, choice) for i in prompts for choice in questions[i].choices]
    domains = [questions[i].domain for i, _ in candidates] if settings.pin else None
    pairs = [(prompts[i], generator.prompt_encoder.encode_continuation(choice)) for i, choice in candidates]
    scored = likelihoods(generator.model, pairs, domains, generator.mode)
    best: dict[int, float] = {}
    for (i, choice), likelihood in zip(candidates, scored, strict=True):
        if i not in best or likelihood.total > best[i]:
            best[i], outputs[i] = likelihood.total, choice
    return outputs


@writes_run
def evaluate_qa_folder(
    work: Workspace,
    folder: Path,
    tasks: Sequence[str] = (),
    data: Path | None = None,
    settings: EvalSettings = EvalSettings(),
    max_questions: int | None = None,
    bare: bool = False,
) -> QAReport:
    """Evaluate a language model's folder on questions, and write the results below `evaluation/`.

    Args:
        tasks: of the run, all by default; with `data` the single task, or prompt template, of the file.
        data: a file of questions, instead of the run's test rows.
        max_questions: of each task.
        bare: evaluate the backbone without experts, for comparison.

    Raises:
        Fault: if the method or a task is unknown, the model cannot be loaded or is no causal language model, there
            are no questions, or `data` is the file of an earlier evaluation that would be replaced.
    """
    check_choice_method(settings.method)
    if data is not None and len(tasks) != 1:
        raise Fault("one task for the file of --data", f"{len(tasks)} tasks", "give its task, for example --tasks fpb")
    target = work.out / EVALUATION / (f"{folder.name}-bare" if bare else folder.name)
    if data is None:
        questions = load_run_questions(work, tasks, max_questions)
    else:
        check_output_file(target / "answers.jsonl", [data], overwrite=True)
        questions = load_file_questions(data, tasks[0], work, max_questions)
    if not questions:
        raise Fault("questions to evaluate on", "none", "give the tasks a test split, or a file with --data")
    model, template, _ = load_mixture(resolve(folder), language=True)
    mode = replace(model.mode, without=tuple(model.bank.adapters) if bare else ())
    answers = answer_questions(model, template, questions, settings, quiet=False, mode=mode)
    report = replace(qa_report(answers, settings), model=str(folder), bare=bare)
    write_qa(target, report, answers)
    info(f"written to {target}")
    return report


def qa_report(answers: Sequence[ScoredAnswer], settings: EvalSettings) -> QAReport:
    """Report of an evaluation."""
    tasks = {task: score_report(task_answers) for task, task_answers in group_by_task(answers).items()}
    mean = MeanAnswerMetrics(
        accuracy=_mean([report.accuracy for report in tasks.values()]),
        macro_f1=_mean([report.macro_f1 for report in tasks.values() if report.macro_f1 is not None]),
        missing=_mean([report.missing for report in tasks.values()]),
    )
    return QAReport(questions=len(answers), by=settings.method, tasks=tasks, mean=mean)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def qa_predictions_by_task(answers: Sequence[ScoredAnswer]) -> dict[str, TaskPredictions]:
    """Answers by task, as `moe.bootstrap` takes them: the choices, or whether free answers are correct."""
    predictions = {}
    for task, task_answers in group_by_task(answers).items():
        if task_answers[0].question.kind == "choice":
            labels = list(dict.fromkeys(choice for answer in task_answers for choice in answer.question.choices))
            true = [answer.question.answer for answer in task_answers]
            predicted = [answer.parsed or "" for answer in task_answers]
            predictions[task] = TaskPredictions.from_labels(true, predicted, labels)
        else:
            predictions[task] = TaskPredictions.from_correct([[int(answer.correct) for answer in task_answers]])
    return predictions


def write_qa(folder: Path, report: QAReport, answers: Sequence[ScoredAnswer]) -> None:
    """Write the report as `questions.json`, and every question with its answer to `answers.jsonl`.

    Raises:
        Fault: if the folder cannot be written.
    """
    write_json(folder / QUESTIONS, report)
    with open_writer(folder / "answers.jsonl") as writer:
        for answer in answers:
            row = {key: value for key, value in asdict(answer.question).items() if key != "choices"}
            writer.write(row | {"said": answer.output, "taken": answer.parsed, "right": answer.correct})


def load_run_questions(
    work: Workspace, tasks: Sequence[str] = (), max_questions: int | None = None
) -> list[EvalQuestion]:
    """Load the run's test questions.

    Args:
        tasks: only these; all by default.
        max_questions: of each task, evenly spaced over its rows.

    Raises:
        Fault: if a task is unknown, or the run has no questions.
    """
    task_settings = {
        task: settings for name in work.run.domains for task, settings in work.run.questions_of(name).items()
    }
    for task in tasks:
        if task not in task_settings:
            known = ", ".join(task_settings) or "none"
            raise Fault(
                f"one of the run's tasks ({known}), or --data with a file", repr(task), suggest(task, task_settings)
            )
    rows = work.questions("test", tasks)
    questions = [
        question for task, settings in task_settings.items() for question in _to_questions(rows, task, settings)
    ]
    return _evenly_spaced(questions, max_questions)


def load_file_questions(path: Path, task: str, work: Workspace, max_questions: int | None = None) -> list[EvalQuestion]:
    """Load all questions of a file, such as FLARE's.

    Args:
        task: a task of the run, whose settings and prompt are used; or the name of a prompt template.
        max_questions: at most so many, evenly spaced over the rows.

    Raises:
        Fault: if there is no such task or template, or the file cannot be read.
    """
    task_settings = {
        name: settings for domain in work.run.domains for name, settings in work.run.questions_of(domain).items()
    }
    if task not in task_settings and task not in TEMPLATES:
        known = list(dict.fromkeys([*task_settings, *TEMPLATES]))
        raise Fault(f"one of the tasks {', '.join(known)}", repr(task), suggest(task, known))
    settings = task_settings.get(task, TaskSettings(ask=task)).model_copy(
        update={
            "max_train_rows": None,
            "max_validation_rows": None,
            "only": None,
            "split": SplitSettings(own=False, ratios=(1, 0, 0)),
        }
    )
    domains = list(work.run.domains)
    domain = next((name for name in domains if task in work.run.questions_of(name)), domains[0])
    data = work.run.data.model_copy(update={"near_duplicates": None})
    prepared = prepare_task(
        path, settings, data, domain, task, work.out / EVALUATION / EVALUATION_DATA / path.stem / task
    )
    questions = [question for split in SPLITS for question in _to_questions(prepared.splits[split], task, settings)]
    return _evenly_spaced(questions, max_questions)


def _to_questions(rows: Dataset, task: str, settings: TaskSettings) -> Iterable[EvalQuestion]:
    kind = answer_type(str(settings.ask), settings.labels)
    for row in rows:
        if row["task"] == task:
            choices = tuple(row["choices"] or ())
            yield EvalQuestion(
                id=row["id"],
                task=task,
                domain=row["domain"],
                prompt=row["prompt"],
                answer=row["answer"],
                choices=choices,
                kind="choice" if choices else kind,
            )


def _evenly_spaced(questions: Sequence[EvalQuestion], max_questions: int | None) -> list[EvalQuestion]:
    """At most `max_questions` of each task, at equal distances."""
    if max_questions is None:
        return list(questions)
    groups: dict[str, list[EvalQuestion]] = {}
    for question in questions:
        groups.setdefault(question.task, []).append(question)
    selected = []
    for group in groups.values():
        indices = np.linspace(0, len(group) - 1, min(max_questions, len(group))).round()
        selected += [group[int(i)] for i in indices]
    return selected


COLUMNS = ("accuracy", "95 %", "macro-F1", "weighted F1", "MCC", "entity F1", "missing")


def qa_view(report: QAReport) -> Table:
    """Table of `moe evaluate` for a language model, a row per task; for free answers, accuracy is exact match."""
    model = "the backbone without experts" if report.bare else report.model
    title = f"{report.questions} questions to {model}, choices by {report.by}"
    table = Table(title=title, title_justify="left")
    table.add_column("task")
    table.add_column("questions", justify="right")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for task, metrics in report.tasks.items():
        low, high = metrics.accuracy_interval
        values = (metrics.macro_f1, metrics.weighted_f1, metrics.mcc, metrics.entity_f1)
        cells = ["–" if value is None else f"{value:.3f}" for value in values]
        row = [f"{metrics.accuracy:.3f}", f"{low:.3f} to {high:.3f}", *cells, f"{metrics.missing:.1%}"]
        table.add_row(task, str(metrics.rows), *row)
    return table

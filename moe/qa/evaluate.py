"""An exam from questions to a report: what a model answers, by writing or by the likelihood of each choice.

How answers are read and counted is `moe.qa.scoring`'s.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from datasets import Dataset

from experts.atomic_io import write_json
from experts.errors import Fault, suggest
from moe.bootstrap import TaskPredictions
from moe.console import Table, progress_bar, info
from moe.data.prepare import prepare_task
from moe.data.prompt_templates import TEMPLATES, answer_type
from moe.data.schema import SPLITS, SplitSettings, TaskSettings
from moe.data.writers import open_writer
from moe.inference.generator import Generator, Sampling
from moe.inference.loading import load_language_model
from moe.inference.scoring import likelihoods
from moe.model.mixture import Mixture
from moe.qa.scoring import EvalQuestion, ScoredAnswer, group_by_task, score_answer, score_report
from moe.runs.workspace import Workspace

ChoiceMethod = Literal["likelihood", "generation"]
CHOICE_METHODS: tuple[ChoiceMethod, ...] = get_args(ChoiceMethod)
NEW_TOKENS = {"choice": 16, "number": 32, "entities": 128, "text": 128}
"""Most tokens of a written answer, by the kind of question."""
WINDOW = 128  # questions that are sorted by length together


@dataclass(frozen=True)
class EvalSettings:
    """How an exam is held.

    Args:
        by: choices by their likelihood behind the prompt, or all answers written; free answers are always written.
        hard: each text goes to its one most probable expert.
        pin: each question goes to the experts of its true domain.
        chat: in the backbone's chat template; None where it has one.
    """

    by: ChoiceMethod = "likelihood"
    hard: bool = False
    pin: bool = False
    chat: bool | None = None


def answer_questions(
    model: Mixture, template: str, asked: Sequence[EvalQuestion], sitting: EvalSettings = EvalSettings(), quiet: bool = True
) -> list[ScoredAnswer]:
    """Put questions to a model and mark what it says, in order.

    A prompt that leaves no room for its answer in the backbone's context is not asked: its answer is missing.
    """
    kinds = dict.fromkeys(one.kind for one in asked)
    said: dict[int, str] = {}
    with progress_bar("exam", len(asked), "question", quiet) as meter:
        for kind in kinds:
            generator = Generator(model, template, Sampling(NEW_TOKENS[kind]), sitting.hard, sitting.chat)
            places = iter([i for i, one in enumerate(asked) if one.kind == kind])
            answer = _chosen if kind == "choice" and sitting.by == "likelihood" else _written
            while window := list(islice(places, WINDOW)):
                said |= answer(generator, {i: asked[i] for i in window}, sitting)
                meter.advance(len(window))
    return [score_answer(one, said[i]) for i, one in enumerate(asked)]


def _fitting(generator: Generator, asked: Mapping[int, EvalQuestion]) -> dict[int, list[int]]:
    """Prompts as tokens, without those that leave no room."""
    found = {}
    for i, one in asked.items():
        try:
            found[i] = generator.encode(one.prompt)
        except Fault:
            continue
    return found


def _written(generator: Generator, asked: Mapping[int, EvalQuestion], sitting: EvalSettings) -> dict[int, str]:
    fitting = _fitting(generator, asked)
    said = dict.fromkeys(asked, "")
    for domain, places in _pinned(fitting, asked, sitting.pin):
        answers = generator.generate([fitting[i] for i in places], domain)
        said |= {i: one.text for i, one in zip(places, answers, strict=True)}
    return said


def _pinned(fitting: Iterable[int], asked: Mapping[int, EvalQuestion], pin: bool) -> Iterable[tuple[str | None, list[int]]]:
    groups: dict[str | None, list[int]] = {}
    for i in fitting:
        groups.setdefault(asked[i].domain if pin else None, []).append(i)
    return groups.items()


def _chosen(generator: Generator, asked: Mapping[int, EvalQuestion], sitting: EvalSettings) -> dict[int, str]:
    fitting = _fitting(generator, asked)
    said = dict.fromkeys(asked, "")
    pairs = [(i, choice) for i in fitting for choice in asked[i].choices]
    domains = [asked[i].domain for i, _ in pairs] if sitting.pin else None
    tokens = [(fitting[i], generator.prompt_encoder.said(choice)) for i, choice in pairs]
    found = likelihoods(generator.model, tokens, domains, sitting.hard)
    best: dict[int, float] = {}
    for (i, choice), one in zip(pairs, found, strict=True):
        if i not in best or one.total > best[i]:
            best[i], said[i] = one.total, choice
    return said


def evaluate_qa_folder(
    work: Workspace,
    folder: Path,
    tasks: Sequence[str] = (),
    data: Path | None = None,
    sitting: EvalSettings = EvalSettings(),
    most: int | None = None,
    bare: bool = False,
) -> dict[str, Any]:
    """`moe evaluate` of a language model: examine a model folder and write what was found below `evaluation/`.

    Args:
        tasks: of the run; with `data` the one task, or template, by which the file is read.
        data: a file of questions, instead of the run's test rows.
        most: questions of a task.
        bare: ask the backbone alone, without any expert, to compare with.

    Raises:
        Fault: when a way or task is unknown, the model cannot be opened or cannot write, or there are no questions.
    """
    if sitting.by not in CHOICE_METHODS:
        raise Fault(f"--by one of {', '.join(WAYS)}", repr(sitting.by), suggest(sitting.by, CHOICE_METHODS))
    if data is not None and len(tasks) != 1:
        raise Fault("one task with --data, by which the file is read", f"{len(tasks)}", "name it, e.g. --tasks fpb")
    asked = load_run_questions(work, tasks, most) if data is None else load_file_questions(data, tasks[0], work, most)
    if not asked:
        raise Fault("questions to ask", "none", "give the tasks a test split, or name a file by --data")
    model, template = load_language_model(folder)
    everyone = tuple(model.bank.adapters) if bare else ()
    with model.ablated(everyone):
        marked = answer_questions(model, template, asked, sitting, quiet=False)
    content = qa_report(marked, sitting) | {"model": str(folder), "bare": bare}
    target = work.out / "evaluation" / (f"{folder.name}-bare" if bare else folder.name)
    write_exam(target, content, marked)
    info(f"written to {target}")
    return content


def qa_report(marked: Sequence[ScoredAnswer], sitting: EvalSettings) -> dict[str, Any]:
    """What an exam found: `questions`, `by`, figures of each task, and their means over tasks."""
    tasks = {task: score_report(some) for task, some in group_by_task(marked).items()}
    names = ("accuracy", "macro_f1", "missing")
    values = {name: [one[name] for one in tasks.values() if name in one] for name in names}
    means = {name: float(np.mean(some)) for name, some in values.items() if some}
    return {"questions": len(marked), "by": sitting.by, "tasks": tasks, "mean": means}


def qa_predictions_by_task(marked: Sequence[ScoredAnswer]) -> dict[str, TaskPredictions]:
    """By task as `moe.bootstrap` takes them: which choice, or right and wrong of free answers."""
    found = {}
    for task, some in group_by_task(marked).items():
        labels = list(dict.fromkeys(choice for one in some for choice in one.asked.choices))
        if some[0].asked.kind == "choice":
            found[task] = TaskPredictions.from_labels([one.asked.answer for one in some], [one.taken or "" for one in some], labels)
        else:
            found[task] = TaskPredictions.from_correct([[int(one.right) for one in some]])
    return found


def write_exam(folder: Path, content: Mapping[str, Any], marked: Sequence[ScoredAnswer]) -> None:
    """Write `questions.json`, and every question with its answer as JSON lines.

    Raises:
        Fault: when the folder cannot be written.
    """
    write_json(folder / "questions.json", dict(content))
    with open_writer(folder / "answers.jsonl") as writer:
        for one in marked:
            row = {key: value for key, value in asdict(one.asked).items() if key != "choices"}
            writer.write(row | {"said": one.said, "taken": one.taken, "right": one.right})


def load_run_questions(work: Workspace, tasks: Sequence[str] = (), most: int | None = None) -> list[EvalQuestion]:
    """The run's test questions.

    Args:
        tasks: of these alone; all by default.
        most: at most so many of a task, at equal distances.

    Raises:
        Fault: when a task is unknown, or there are none.
    """
    settings = {task: one for name in work.run.domains for task, one in work.run.questions_of(name).items()}
    for task in tasks:
        if task not in settings:
            known = ", ".join(settings) or "none"
            raise Fault(f"one of the run's tasks ({known}), or --data with a file", repr(task), suggest(task, settings))
    rows = work.questions("test", tasks)
    return _spaced([one for task in settings for one in _asked(rows, task, settings[task])], most)


def load_file_questions(path: Path, task: str, work: Workspace, most: int | None = None) -> list[EvalQuestion]:
    """All questions of a file, FLARE's or another's, asked as a task of the run or as the template of that name.

    Raises:
        Fault: when there is no such task or template, or the file cannot be read.
    """
    settings = {name: one for d in work.run.domains for name, one in work.run.questions_of(d).items()}
    if task not in settings and task not in TEMPLATES:
        known = list(dict.fromkeys([*settings, *TEMPLATES]))
        raise Fault(f"one of the tasks {', '.join(known)}", repr(task), suggest(task, known))
    own = settings.get(task, TaskSettings(ask=task))
    whole = {"max_train_rows": None, "max_validation_rows": None, "only": None}
    one = own.model_copy(update=whole | {"split": SplitSettings(own=False, ratios=(1, 0, 0))})
    domain = next((d for d in work.run.domains if task in work.run.questions_of(d)), next(iter(work.run.domains)))
    data = work.run.data.model_copy(update={"near_duplicates": None})
    prepared = prepare_task(path, one, data, domain, task, work.out / "evaluation" / ".data" / path.stem / task)
    return _spaced([asked for split in SPLITS for asked in _asked(prepared.splits[split], task, one)], most)


def _asked(rows: Dataset, task: str, settings: TaskSettings) -> Iterable[EvalQuestion]:
    kind = answer_type(str(settings.ask), settings.labels)
    for row in rows:
        if row["task"] == task:
            choices = tuple(row["choices"] or ())
            own = "choice" if choices else kind
            yield EvalQuestion(row["id"], task, row["domain"], row["prompt"], row["answer"], choices, own)


def _spaced(asked: Sequence[EvalQuestion], most: int | None) -> list[EvalQuestion]:
    if most is None:
        return list(asked)
    groups: dict[str, list[EvalQuestion]] = {}
    for one in asked:
        groups.setdefault(one.task, []).append(one)
    kept = {task: np.linspace(0, len(some) - 1, min(most, len(some))).round() for task, some in groups.items()}
    return [groups[task][int(i)] for task, places in kept.items() for i in places]


COLUMNS = ("accuracy", "95 %", "macro-F1", "weighted F1", "MCC", "entity F1", "missing")


def qa_view(content: Mapping[str, Any]) -> Table:
    """One row a task; accuracy is exact match where answers are free."""
    who = "the backbone alone" if content["bare"] else content["model"]
    table = Table(title=f"{content['questions']} questions to {who}, choices by {content['by']}", title_justify="left")
    table.add_column("task")
    table.add_column("questions", justify="right")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for task, one in content["tasks"].items():
        low, high = one["accuracy_interval"]
        keys = ("macro_f1", "weighted_f1", "mcc", "entity_f1")
        figures = [f"{one[key]:.3f}" if key in one else "–" for key in keys]
        row = [f"{one['accuracy']:.3f}", f"{low:.3f} to {high:.3f}", *figures, f"{one['missing']:.1%}"]
        table.add_row(task, str(one["rows"]), *row)
    return table

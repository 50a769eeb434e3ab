"""Labelling: the teachers answer the texts of each domain, and the answers become the soft labels of a run."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from rich.markup import escape

from experts.errors import Fault
from experts.json_io import json_object, parse_json
from moe import distributed
from moe.config.messages import ConfigFault, validate_settings
from moe.config.run import RunSettings, find_conflicts
from moe.console import info
from moe.data.distilled.settings import DistillSettings
from moe.data.distilled.soft_labels import SoftLabels, SoftRows, read_origin, write_soft_rows
from moe.data.distilled.teacher_settings import TeacherSettings
from moe.distill.answers import Labelling, answer_texts
from moe.distill.request import TaskRequest, Teacher, TeacherInput
from moe.distill.results import DistilledTask, DistillReport, TeacherResult
from moe.distill.selection import select_texts
from moe.distill.teacher import load_teacher
from moe.distill.unlabelled import UnlabelledTexts
from moe.evaluation.calibration.temperature import TaskLogits, choose_temperature
from moe.evaluation.metrics import classification
from moe.runs.layout import DISTILLED
from moe.runs.locking import writes_run
from moe.runs.workspace import Workspace

ANSWERS = "answers"
"""Folder of the teachers' answers, below that of the soft labels."""


def with_teachers(run: RunSettings, teachers: Sequence[str], texts: Sequence[str]) -> RunSettings:
    """Return the settings of a run with other teachers and texts.

    Args:
        teachers: folders or hub ids, instead of those of the config; empty keeps these.
        texts: `DOMAIN=FILE` each, instead of those of the config; a file is relative to the working folder; empty
            keeps these.

    Raises:
        Fault: if a text has no such form, or the settings contradict each other.
    """
    settings: dict[str, object] = {} if run.distill is None else run.distill.model_dump(mode="json", exclude_unset=True)
    files: dict[str, list[str]] = {}
    for text in texts:
        domain, equals, file = text.partition("=")
        if not (domain and equals and file):
            raise Fault("--text DOMAIN=FILE", repr(text), f"for example --text {next(iter(run.domains))}=texts.txt")
        files.setdefault(domain, []).append(str(Path(file).absolute()))
    settings |= ({"teachers": list(teachers)} if teachers else {}) | ({"text": files} if files else {})
    if not settings:
        return run
    distill, errors = validate_settings(DistillSettings, settings)
    changed = run.model_copy(update={"distill": distill})
    if errors or (errors := find_conflicts(changed)):
        raise ConfigFault("--teacher and --text", errors)
    return changed


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher and the settings that it was loaded with."""

    settings: TeacherSettings
    teacher: Teacher


@writes_run
def label_texts(
    work: Workspace,
    overwrite: bool = False,
    engine: str = "local",
    workers: int = 1,
    threads: int | None = None,
) -> DistillReport:
    """Have the teachers label the texts of a run, and write the soft labels that its stages learn.

    Answers that exist are not requested again. Soft labels that were made with the same settings, teachers and rows
    are kept.

    Args:
        overwrite: write the soft labels again in any case; existing answers are still used.
        engine: `local` or `ray`.
        workers: number of Ray actors.
        threads: of each actor, 1 by default.

    Raises:
        Fault: if the config has no `distill`, a teacher or a text cannot be read, or a teacher does not know the labels
            of a task without a target. One that cannot answer about entities labels the other tasks alone.
    """
    settings = _settings(work)
    work.check_labelled()
    work.begin()
    for domain in work.run.domains:  # every process waits for the rows, then rank 0 labels them
        work.prepared(domain)
    held_out = work.held_out.texts
    how = Labelling(_answers_folder(work, settings), engine, workers, threads)
    report = distributed.broadcast_from_main(lambda: json_object(_label(work, settings, held_out, how, overwrite)))
    return DistillReport.model_validate(report)


def _answers_folder(work: Workspace, settings: DistillSettings) -> Path:
    if settings.cache is not None:
        return Path(settings.cache).expanduser()
    return (work.data_dir or work.out) / DISTILLED / ANSWERS


def _label(
    work: Workspace, settings: DistillSettings, held_out: Sequence[str], how: Labelling, overwrite: bool
) -> DistillReport:
    tasks_of = {domain: names for domain in work.run.domains if (names := work.run.distilled_tasks(domain))}
    texts = {domain: UnlabelledTexts(work, domain, settings, held_out) for domain in tasks_of}
    teachers = [LoadedTeacher(each, load_teacher(each)) for each in settings.teachers]
    tasks = [
        _label_task(work, domain, task, teachers, texts[domain], how, overwrite)
        for domain, names in tasks_of.items()
        for task in names
    ]
    return DistillReport(teachers=[each.teacher.name for each in teachers], tasks=tasks)


def _settings(work: Workspace) -> DistillSettings:
    if work.run.distill is None:
        raise Fault(
            "the settings of distillation",
            "a config without `distill`",
            "name a teacher with --teacher, or add `distill: {teachers: [FOLDER]}` to the config",
        )
    return work.run.distill


def _label_task(
    work: Workspace,
    domain: str,
    task: str,
    teachers: Sequence[LoadedTeacher],
    texts: UnlabelledTexts,
    how: Labelling,
    overwrite: bool,
) -> DistilledTask:
    """Label the texts of one task, unless its file was made of the same."""
    settings, its = _settings(work), work.run.tasks_of(domain)[task]
    labels, splits = its.labels, work.prepared(domain)[task].splits
    train, validation = splits["train"], splits["validation"]
    scored = any(score is not None for score in train["score"])
    request = TaskRequest(domain, task, labels, scored, its.has_target)
    path = work.soft_file(domain, task)
    source = texts.for_task(its.has_target)
    unlabelled = list(source.inputs)
    labelled = list(dict.fromkeys(_inputs(train))) if settings.labelled else []
    origin = _origin(work.run, domain, task, teachers, (unlabelled, labelled, _inputs(validation)))
    if not overwrite and (made := read_origin(path)) is not None and parse_json(made)["of"] == origin:
        return DistilledTask.model_validate(parse_json(made)["report"])
    known = [label >= 0 for label in validation["label"]]
    truth = np.array([label for label in validation["label"] if label >= 0], dtype=int)  # (V,)
    checked = [each for each, has in zip(_inputs(validation), known, strict=True) if has]
    if settings.most is not None and settings.select == "random" and len(unlabelled) > settings.most:
        sample = np.random.default_rng(settings.seed).permutation(len(unlabelled))[: settings.most]
        unlabelled = [unlabelled[i] for i in np.sort(sample)]
    inputs = [*unlabelled, *labelled, *checked]
    able = [each for each in teachers if each.teacher.can_answer(request)]
    results, cooled = [], []
    for each in able if unlabelled or labelled else ():
        answers = answer_texts(each.settings, each.teacher, request, inputs, how)
        validated = answers[len(inputs) - len(checked) :]
        temperature, remark = _temperature(validated, truth, settings)
        results.append(_teacher_result(each.teacher.name, validated, truth, labels, temperature, remark))
        cooled.append(_at_temperature(answers, temperature))
    pooled = _mean(cooled) if cooled else SoftLabels.empty(len(inputs), len(labels))
    ends = np.cumsum([len(unlabelled), len(labelled)])
    selected = select_texts(pooled[: ends[0]], settings.most, settings.select, settings.seed)
    used = np.concatenate([selected, np.arange(*ends)])  # (N,)
    rows = SoftRows(
        texts=[inputs[i].text for i in used],
        targets=[inputs[i].target for i in used],
        labelled=np.arange(len(used)) >= len(selected),
        answers=pooled[used],
    )
    together = _teacher_result("together", pooled[ends[1] :], truth, labels, 1.0, None)
    report = DistilledTask(
        domain=domain,
        task=task,
        read=source.read,
        near_held_out=source.near_held_out,
        unlabelled=int(rows.answers.answered[~rows.labelled].sum()),
        labelled=int(rows.answers.answered[rows.labelled].sum()),
        teachers=results,
        together=together if len(results) > 1 else None,
        confidence=_confidence(pooled[selected]),
        file=str(path),
    )
    write_soft_rows(path, rows, json.dumps({"of": origin, "report": report.model_dump(mode="json")}))
    answered = f"{report.unlabelled:,} unlabelled and {report.labelled:,} labelled texts → {path}"
    info(escape(f"{task}: {answered if able else 'no teacher answers about entities with these labels'}"))
    return report


def _inputs(rows: Dataset) -> list[TeacherInput]:
    return list(map(TeacherInput, rows["text"], rows["target"]))


def _origin(
    run: RunSettings,
    domain: str,
    task: str,
    teachers: Sequence[LoadedTeacher],
    groups: Sequence[Sequence[TeacherInput]],
) -> dict[str, object]:
    """Everything that the soft labels of a task depend on, given groups of what the teachers answer."""
    assert run.distill is not None
    digest = hashlib.sha256(json.dumps(groups).encode())
    settings, names = run.distill.of_labels(domain), [each.teacher.fingerprint for each in teachers]
    labels = list(run.tasks_of(domain)[task].labels)
    return {"settings": settings, "teachers": names, "labels": labels, "texts": digest.hexdigest()}


def _temperature(answers: SoftLabels, truth: np.ndarray, settings: DistillSettings) -> tuple[float, str | None]:
    """The temperature that a teacher's validation answers support."""
    if not settings.calibrate:
        return 1.0, None
    logits, has = _logits(answers)
    return choose_temperature(TaskLogits(logits, truth[has]))


def _logits(answers: SoftLabels) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of the answered texts (n, K), and which texts those are (N,) bool."""
    has = ~np.isnan(answers.probabilities).any(1)  # (N,)
    logits: np.ndarray = np.log(answers.probabilities[has].astype(float).clip(np.finfo(float).tiny))
    return logits, has


def _at_temperature(answers: SoftLabels, temperature: float) -> SoftLabels:
    if temperature == 1.0:
        return answers
    logits, has = _logits(answers)
    probabilities = answers.probabilities.copy()  # (N, K)
    probabilities[has] = TaskLogits(logits, np.zeros(0, int)).probabilities(temperature).astype(np.float32)
    return SoftLabels(probabilities, answers.scores)


def _mean(answers: Sequence[SoftLabels]) -> SoftLabels:
    """Mean of several teachers' answers; a text has an answer if one of them gave one."""
    probabilities, scores = (
        np.stack([getattr(each, name) for each in answers]) for name in ("probabilities", "scores")
    )
    return SoftLabels(_nanmean(probabilities), _nanmean(scores))


def _nanmean(values: np.ndarray) -> np.ndarray:
    has = ~np.isnan(values)
    counts = has.sum(0)
    sums: np.ndarray = np.where(has, values, 0).sum(0) / np.maximum(counts, 1)
    return np.where(counts > 0, sums, np.nan).astype(np.float32)


def _confidence(answers: SoftLabels) -> float | None:
    """Mean of the largest probability; None without any."""
    has = ~np.isnan(answers.probabilities).any(1)
    return float(answers.probabilities[has].max(1).mean()) if has.any() else None


def _teacher_result(
    name: str, answers: SoftLabels, truth: np.ndarray, labels: Sequence[str], temperature: float, remark: str | None
) -> TeacherResult:
    """How good a teacher is on the validation rows."""
    logits, has = _logits(answers)
    if not len(logits):
        return TeacherResult(name=name, rows=0, temperature=temperature, remark=remark)
    predicted = [labels[i] for i in logits.argmax(1)]
    metrics = classification([labels[i] for i in truth[has]], predicted, labels)
    return TeacherResult(
        name=name,
        rows=len(logits),
        accuracy=metrics.accuracy,
        macro_f1=metrics.macro_f1,
        temperature=temperature,
        remark=remark,
    )

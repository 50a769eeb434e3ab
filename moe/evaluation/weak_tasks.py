"""Lines at the end of a stage about tasks at the majority class's level or below TF-IDF's, with settings to try."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from experts.atomic_io import read_json
from experts.errors import Fault
from experts.expert_io import METRICS
from moe.config.stages import SHARED, WARMUP, Stage
from moe.data.collator import Collate, Collator, count_tokens
from moe.evaluation.evaluate import ONLY_LABEL
from moe.evaluation.levels import is_chance, macro_f1_error, validation_levels
from moe.model.backbone import length_limit
from moe.results.evaluation import TaskLevels
from moe.runs.text_lengths import auto_length
from moe.runs.training_log import read_trajectory
from moe.runs.workspace import Workspace

_FEW_ROWS, _CUT_SHARE, _SAMPLED_TEXTS, _MAX_REMEDIES = 1000, 0.1, 400, 4
_FALLING = 0.97
"""Mean loss of the last quarter of the steps, relative to the quarter before, below which it is still falling."""


@dataclass(frozen=True)
class _Remedy:
    """What to try, and the visible cause that it removes, if there is one."""

    action: str
    cause: str = ""


@dataclass(frozen=True)
class FinishedStage:
    """A stage that has just ended.

    Args:
        work: the run.
        stage: the stage.
        name: of its logs.
        rows: its training rows.
        collate: makes batches of rows.
        best: validation metrics of the best weights.
        history: metrics of every evaluation, in order.
    """

    work: Workspace
    stage: Stage
    name: str
    rows: Dataset
    collate: Collate
    best: Mapping[str, float]
    history: Sequence[Mapping[str, float]]

    @property
    def subject(self) -> str:
        """What the stage has trained."""
        if self.stage.routed:
            return f"the mixture of {self.stage.folder}"
        return "the shared expert" if self.stage is SHARED else "the expert"


def warn_of_weak_tasks(finished: FinishedStage, domains: Sequence[str]) -> None:
    """Print at most one line for each task that is not above the majority class, or below TF-IDF, on validation rows.

    Below TF-IDF means by more than one standard error of TF-IDF's macro-F1 on these rows. Nothing is printed for a
    language model.

    Args:
        domains: of the stage's tasks.
    """
    work = finished.work
    if work.run.language is not None:
        return
    for task, levels in validation_levels(work, [name for name in domains if name in work.run.domains]).items():
        problem = _find_problem(finished, task, levels)
        if problem is not None:
            work.warn(f"{task}: {problem}: {_advice(finished, task, levels)}")


def _find_problem(finished: FinishedStage, task: str, levels: TaskLevels) -> str | None:
    """Why a task is weak; None if it is not, or was not evaluated."""
    best, majority, tfidf = finished.best, levels.majority, levels.tfidf
    if f"{task}_macro_f1" not in best:
        return None
    macro_f1, rows = best[f"{task}_macro_f1"], f"{tfidf.rows} validation rows"
    if (only := best.get(f"{task}{ONLY_LABEL}")) is not None:
        label = finished.work.run.label_space().tasks[task][int(only)]
        return f"{finished.subject} predicts only {label} (macro-F1 {macro_f1:.3f} on {rows})"
    if macro_f1 <= majority.macro_f1:
        level = f"is not above the majority class's {majority.macro_f1:.3f}"
    elif macro_f1 < tfidf.macro_f1 - macro_f1_error(tfidf):
        level = f"is below TF-IDF's {tfidf.macro_f1:.3f}"
    else:
        return None
    return f"macro-F1 {macro_f1:.3f} of {finished.subject} {level} on {rows}"


def _advice(finished: FinishedStage, task: str, levels: TaskLevels) -> str:
    """What to try, first what removes a visible cause."""
    if is_chance(levels):
        return "TF-IDF cannot recognize its labels either: check its text and label columns"
    remedies = list(_remedies(finished, task, levels))[:_MAX_REMEDIES]
    first, others = remedies[0], [remedy.action for remedy in remedies[1:]]
    advice = f"{first.cause}: try {first.action}" if first.cause else f"try {first.action}"
    return f"{advice}; or {', '.join(others)}" if others else advice


def _remedies(finished: FinishedStage, task: str, levels: TaskLevels) -> Iterator[_Remedy]:
    run, settings = finished.work.run, getattr(finished.work.run.stages, finished.stage.name)
    key, rows = f"stages.{finished.stage.name}", finished.rows
    rows = rows.select(np.flatnonzero(np.asarray(rows["task"]) == task).tolist())
    labelled = int((np.asarray(rows["label"]) >= 0).sum())
    routing = list(_routing_remedies(finished, task, levels)) if finished.stage.routed else []
    yield from routing
    if (remedy := _cut_remedy(finished, rows["text"], rows["target"])) is not None:
        yield remedy
    if run.shared is None:
        yield _Remedy("a shared expert (remove shared: null)")
    improving = _still_improving(finished, task)
    named = finished.stage.name == WARMUP.name and any("longer warm-up" in remedy.action for remedy in routing)
    if (improving or not finished.stage.routed) and not named:
        length = f"{key}.steps: {settings.steps}" if settings.steps else f"{key}.epochs: {settings.epochs:g}"
        yield _Remedy(f"more steps ({length} now)", "it was still improving when the stage ended" if improving else "")
    if labelled < _FEW_ROWS:
        yield _Remedy(f"more rows ({labelled} now)")
    if "experts" in finished.stage.trains:
        yield _Remedy(f"a higher rate ({key}.lr: {settings.lr:g} now)")
    yield _Remedy("moe sweep over rates and ranks (lora.r)")


def _routing_remedies(finished: FinishedStage, task: str, levels: TaskLevels) -> Iterator[_Remedy]:
    """What to try if a domain's expert alone is good enough, so that mixing the experts is what makes it worse."""
    run = finished.work.run
    alone = _expert_macro_f1(finished.work, task)
    if alone is None or alone <= levels.majority.macro_f1:
        return
    if alone < levels.tfidf.macro_f1 - macro_f1_error(levels.tfidf):
        return
    cause = f"its own expert alone has {alone:.3f}"
    routing = finished.best.get("routing", 1.0)
    if routing < 0.9:
        cause += f", and the router recognizes the domain of only {routing:.0%} of the texts"
    if run.heads.merge == "averaged":
        yield _Remedy("heads.merge: per_expert", cause)
        cause = ""
    steps = run.stages.warmup.steps
    yield _Remedy(f"a longer warm-up (stages.warmup.steps: {steps} now)" if steps else "a longer warm-up", cause)
    if not run.gate.queries and run.gate.kind != "fixed":
        yield _Remedy("gate.queries: 4")


def _expert_macro_f1(work: Workspace, task: str) -> float | None:
    """Validation macro-F1 of the first expert of the task's domain; None if it is not known."""
    for domain in work.run.domain_list():
        if task in domain.tasks:
            try:
                best = read_json(work.expert_folder(domain.expert_names[0]) / METRICS)["best"]
                return float(best[f"{task}_macro_f1"])
            except (Fault, LookupError, TypeError, ValueError):
                return None
    return None


def _cut_remedy(finished: FinishedStage, texts: Sequence[str], targets: Sequence[str | None]) -> _Remedy | None:
    """The setting that reads more of the texts, if many are cut and the backbone can read more tokens."""
    collate = finished.collate
    if not isinstance(collate, Collator) or not len(texts):
        return None
    sample = np.linspace(0, len(texts) - 1, min(len(texts), _SAMPLED_TEXTS)).astype(int).tolist()
    sampled_targets = [targets[i] for i in sample]
    lengths = count_tokens([texts[i] for i in sample], collate.tokenizer, collate.template, sampled_targets)  # (N,)
    share = float((lengths > collate.max_length).mean())
    auto = auto_length({"": Counter(lengths.tolist())}, length_limit(finished.work.run.backbone))
    if share < _CUT_SHARE or auto <= collate.max_length:
        return None
    cause = f"{share:.0%} of its texts are cut at {collate.max_length} tokens"
    return _Remedy(f"backbone.max_length: auto ({auto} tokens)", cause)


def _still_improving(finished: FinishedStage, task: str) -> bool:
    """Whether the last evaluation is the task's best, or with a single one, the loss was still falling."""
    history = [entry[f"{task}_macro_f1"] for entry in finished.history if f"{task}_macro_f1" in entry]
    if len(history) > 1:
        return history[-1] > max(history[:-1])
    log = read_trajectory(finished.work.logs(finished.name))
    loss = np.array([]) if log is None else log.values("classes" if "classes" in log.names else "loss")
    loss = loss[np.isfinite(loss)]  # a batch without labelled rows has no class loss
    quarter = len(loss) // 4
    if not quarter:
        return False
    return bool(np.mean(loss[-quarter:]) < _FALLING * np.mean(loss[-2 * quarter : -quarter]))

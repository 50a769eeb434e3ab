"""Test results of all models of a run: each model reads each test row once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experts.domain import LabelSpace
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.console import Meter, format_duration, info, progress_bar
from moe.evaluation.baselines import BASELINES, TEXT_BASELINE, baseline_results
from moe.evaluation.evaluate import (
    group_by_task,
    predicted_rows,
    ranked_probabilities,
    report_rows,
    score_answers,
)
from moe.evaluation.evaluation_files import write_evaluation
from moe.evaluation.results import ModelResult, label_result, score_metrics, score_result
from moe.evaluation.routes import SharedTexts, score_routes, score_texts
from moe.evaluation.rows import LabelledRow, PredictedRow
from moe.inference.torch_predictor import TorchPredictor
from moe.inference.windows import Scores
from moe.report.conclusions import OWN_EXPERT, POOLED
from moe.results.evaluation import RoutingReport
from moe.runs.best import best_model
from moe.runs.layout import EVALUATION, MIXTURES
from moe.runs.workspace import Workspace

SHARED_EXPERT = "shared expert"
ROUTES = ("hard", "pinned")
"""Further routes of the best mixture: the most probable expert alone, and the experts of the row's own domain."""


@dataclass(frozen=True)
class RunResults:
    """Test results of a run.

    Args:
        models: results by model, in the order of tables.
        best: name of the best mixture by validation.
        routing: routing report of the best mixture.
        predictor: of the best mixture.
    """

    models: dict[str, ModelResult]
    best: str
    routing: RoutingReport
    predictor: TorchPredictor


class RunTestRows:
    """The test rows of a run, as all models read them.

    Args:
        work: the run.
        meter: progress bar, in texts.
    """

    def __init__(self, work: Workspace, meter: Meter) -> None:
        self.rows: list[LabelledRow] = work.rows("test").to_list()
        self.domains = [row["domain"] for row in self.rows]
        self.texts = SharedTexts([row["text"] for row in self.rows], [row["target"] for row in self.rows])
        self.meter = meter

    def of_domain(self, domain: str) -> np.ndarray:
        """Indices of a domain's rows (M,)."""
        return np.flatnonzero(np.array(self.domains) == domain)

    def score(self, predictor: TorchPredictor, index: np.ndarray | None = None) -> Scores:
        """Score rows (M,), by default all, with soft routing or by a model's only expert."""
        return score_texts(predictor, self.texts, index, self.meter.advance)

    def predict(self, predictor: TorchPredictor, scores: Scores, index: np.ndarray | None = None) -> list[PredictedRow]:
        """Predict the rows of these scores."""
        return predicted_rows(predictor, scores, self.rows if index is None else [self.rows[i] for i in index])


def evaluate_run(work: Workspace, pooled: bool = True) -> RunResults:
    """Evaluate the baselines and all models of a run on its test rows, and write the mixtures' `evaluation/` folders.

    Models with the same backbone read the same tokens, and share the states of their trunk if it has layers. The best
    mixture is also evaluated with the routes `ROUTES`. The shared expert is evaluated if the run has trained it.
    Without test rows there are no results.

    Args:
        pooled: evaluate the pooled LoRA, if there is one.

    Raises:
        Fault: if a model cannot be read.
    """
    started, best, count = time.perf_counter(), best_model(work.out).name, len(work.rows("test"))
    shared, pooled = _shared_expert(work), pooled and work.pooled_folder.is_dir()
    models = _baselines(work) if count else {}
    with progress_bar("test rows", count * (1 + bool(shared) + pooled + len(MIXTURES) + 1), "text") as meter:
        test = RunTestRows(work, meter)
        if count:
            models |= _single_experts(work, test, shared, pooled)
        mixtures: dict[str, ModelResult] = {}
        for name in sorted(MIXTURES, key=lambda candidate: candidate == best):  # the best one remains loaded
            predictor, scores, routing = _mixture(work.out / name, work.out / EVALUATION / name, test, mixtures)
        if scores is not None:
            models |= {name: mixtures[name] for name in MIXTURES}
            for route, routed in zip(ROUTES, score_routes(predictor, test.texts, test.domains, scores), strict=True):
                models[f"{best}, {route}"] = results_of(test.predict(predictor, routed), predictor.model.labels)
            meter.advance(count)
    info(f"{count:,} test rows, {len(models)} models: {format_duration(time.perf_counter() - started)}")
    return RunResults(models, best, routing, predictor)


def _single_experts(work: Workspace, test: RunTestRows, shared: Path | None, pooled: bool) -> dict[str, ModelResult]:
    """Results of the shared expert if it was trained, of each domain's first expert, and of the pooled LoRA."""
    models = {} if shared is None else {SHARED_EXPERT: _single_expert(shared, test)}
    models[OWN_EXPERT] = {}
    for domain in work.run.domain_list():
        if len(index := test.of_domain(domain.name)):
            models[OWN_EXPERT] |= _single_expert(work.expert_folder(domain.expert_names[0]), test, index)
    return models | ({POOLED: _single_expert(work.pooled_folder, test)} if pooled else {})


def _baselines(work: Workspace) -> dict[str, ModelResult]:
    space = work.run.label_space()
    train, held_out, test = (work.rows(split) for split in ("train", "validation", "test"))
    names = [*BASELINES, *([TEXT_BASELINE] if space.target_tasks else [])]
    return {name: baseline_results(train, test, space, name, held_out) for name in names}


def _shared_expert(work: Workspace) -> Path | None:
    """The run's shared expert; None if no stage has trained it on the run's labels, or there is none."""
    return None if work.frozen_experts else work.shared_folder


def _single_expert(folder: Path, test: RunTestRows, index: np.ndarray | None = None) -> ModelResult:
    model, run = load_single_expert(folder)
    predictor = TorchPredictor(model, run.template, run.backbone.resolved_length)
    return results_of(test.predict(predictor, test.score(predictor, index), index), model.labels)


def _mixture(
    folder: Path, target: Path, test: RunTestRows, results: dict[str, ModelResult]
) -> tuple[TorchPredictor, Scores | None, RoutingReport]:
    """Evaluate a mixture with soft routing, add its results, and return it with its scores and its routing report."""
    model, card = read_mixture(folder)
    predictor = TorchPredictor(model, card.template, card.backbone_settings.resolved_length)
    scores = test.score(predictor)
    rows = test.predict(predictor, scores)
    report = report_rows(rows, model, "soft")
    write_evaluation(target, report, rows)
    results[folder.name] = results_of(rows, model.labels)
    return predictor, scores, report.routing


def results_of(rows: Sequence[PredictedRow], space: LabelSpace) -> ModelResult:
    """Results by task of evaluated rows, each predicted for its own task."""
    results: ModelResult = {}
    for task, of_task in group_by_task(rows, space).items():
        answers = score_answers(of_task)
        labelled = [row for row in of_task if row.true is not None]
        if labelled:
            ids, true = [row.row["id"] for row in labelled], [str(row.true) for row in labelled]
            predicted = [row.masked.label for row in labelled]
            labels, kind, probabilities = space.tasks[task], space.kind(task), ranked_probabilities(labelled)
            scores = score_metrics(answers)
            results[task] = label_result(ids, true, predicted, labels, scores, kind, probabilities)
        else:
            results[task] = score_result(answers)
    return results

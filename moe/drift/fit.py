"""Fits a model's drift reference: the distribution of training states, and the features of validation texts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from datasets import Dataset
from rich.console import RenderableType
from sklearn.decomposition import PCA

from experts.errors import Fault
from moe.console import Table, progress_bar
from moe.data.sampler import subsample_per_domain
from moe.drift.reference import DriftFeatures, Reference, StateDistribution, write_reference
from moe.evaluation.test_sets import load_run_rows
from moe.inference.load_mixture import load_mixture
from moe.inference.torch_predictor import TorchPredictor
from moe.inference.windows import Scores
from moe.runs.locking import writes_run_and_model
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace

MAX_ROWS = 2000
"""Rows per domain and split that are used: enough to estimate the mean and covariance of states."""
MIN_ROWS = 30
"""Fewest rows that a reference is fitted on or compared with."""
PCA_COMPONENTS = 64


@dataclass(frozen=True)
class ReferenceFit:
    """A fitted drift reference.

    Args:
        model: the model's folder.
        fitted: training rows by domain.
        held: validation rows by domain.
    """

    model: str
    fitted: Mapping[str, int]
    held: Mapping[str, int]


@writes_run_and_model
def fit_reference(work: Workspace, folder: Path, sets: Sequence[str] = (), quiet: bool = True) -> ReferenceFit:
    """Fit a model's drift reference on the run's training and validation rows, and write it into the model's folder.

    Raises:
        Fault: if the model cannot be loaded, or there are too few rows.
    """
    model, template, length = load_mixture(resolve(folder), sets)
    predictor = TorchPredictor(model, template, length, states=True)
    train, validation = (
        subsample_per_domain(load_run_rows(work, model, split), MAX_ROWS, work.run.seed)
        for split in ("train", "validation")
    )
    for split, rows in (("training", train), ("validation", validation)):
        if len(rows) < MIN_ROWS:
            raise Fault(
                f"at least {MIN_ROWS} {split} rows", f"{len(rows)}", "add rows to the run's data, or change its split"
            )
    names = [domain.name for domain in model.trained_domains if domain.name in set(train["domain"])]
    space = fit_on_rows(predictor, train, names, quiet)
    features = extract_features(predictor, space, list(validation["text"]), "validation rows", quiet)
    domain_index = np.array([names.index(name) if name in names else -1 for name in validation["domain"]])
    reference = Reference(
        experts=tuple(model.bank.routed_experts),
        domains=tuple(names),
        space=space,
        validation=features,
        domain_index=domain_index,
    )
    card = write_reference(folder, reference, dict(Counter(train["domain"])))
    return ReferenceFit(model=str(folder), fitted=card.fitted, held=card.held)


def fit_on_rows(
    predictor: TorchPredictor, train: Dataset, domains: Sequence[str], quiet: bool = True
) -> StateDistribution:
    """Fit the distribution of a model's states of training rows, whose domains are among `domains`."""
    scores = _scores(predictor, list(train["text"]), "training rows", quiet)
    states = np.concatenate([_states(batch) for batch in scores])  # (N, D)
    return fit_state_distribution(states, np.array(train["domain"]), domains)


def fit_state_distribution(
    states: np.ndarray, domains: np.ndarray, names: Sequence[str], components: int = PCA_COMPONENTS
) -> StateDistribution:
    """Fit the distribution of states (N, D) whose domains are `domains` (N,), each one of `names`."""
    states = states.astype(np.float64)
    means = np.stack([states[domains == name].mean(0) for name in names])  # (G, D)
    centered = states - means[[list(names).index(name) for name in domains]]  # (N, D)
    pca = PCA(min(components, min(centered.shape) - 1), svd_solver="full").fit(centered)
    smallest = float(np.finfo(np.float32).tiny)
    variances, noise = (np.maximum(value, smallest) for value in (pca.explained_variance_, pca.noise_variance_))
    return StateDistribution(means, pca.components_, variances, float(noise))


def extract_features(
    predictor: TorchPredictor, space: StateDistribution, texts: Iterable[str], title: str, quiet: bool = True
) -> DriftFeatures:
    """Compute the drift features of texts, predicted without a given domain or label."""
    batches = [_features(predictor, space, scores) for scores in _scores(predictor, texts, title, quiet)]
    if not batches:
        return DriftFeatures(np.zeros((0, len(predictor.model.bank.routed_experts))), np.zeros(0), np.zeros(0))
    return DriftFeatures(
        shares=np.concatenate([batch.shares for batch in batches]),
        confidence=np.concatenate([batch.confidence for batch in batches]),
        distance=np.concatenate([batch.distance for batch in batches]),
    )


def _scores(predictor: TorchPredictor, texts: Iterable[str], title: str, quiet: bool) -> Iterator[Scores]:
    stream = iter(texts)
    with progress_bar(title, len(texts) if isinstance(texts, Sequence) else None, "text", quiet) as meter:
        while window := list(islice(stream, predictor.chunk_size)):
            yield predictor.score(window)
            meter.advance(len(window))


def _features(predictor: TorchPredictor, space: StateDistribution, scores: Scores) -> DriftFeatures:
    predictions = predictor.to_predictions(scores, predictor.routed_tasks(scores))
    confidence = np.array([prediction.confidence for prediction in predictions])
    return DriftFeatures(scores.routing_weights.astype(np.float64), confidence, space.distance(_states(scores)))


def _states(scores: Scores) -> np.ndarray:
    assert scores.states is not None
    return scores.states.astype(np.float64)


def reference_view(fit: ReferenceFit) -> RenderableType:
    """Table of the rows that a reference was fitted on, as `moe drift --fit` prints it."""
    table = Table(title=f"drift reference of {fit.model}", title_justify="left", header_style="bold")
    for name in ("domain", "training rows", "validation rows"):
        table.add_column(name, justify="left" if name == "domain" else "right")
    for name, rows in fit.fitted.items():
        table.add_row(name, f"{rows:,}", f"{fit.held.get(name, 0):,}")
    return table

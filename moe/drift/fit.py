"""Fits what files are held against: where training texts lie, and how validation texts are taken.

What is kept of it is `moe.drift.reference`'s, what is made of it `moe.drift.drift`'s.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from sklearn.decomposition import PCA

from experts.errors import Fault
from moe.console import Table, bar
from moe.data.sampler import subsample_per_domain
from moe.drift.reference import DriftFeatures, Reference, StateDistribution, write_reference
from moe.evaluation.datasets import load_run_rows
from moe.inference.loading import load_model
from moe.inference.predictor import Predictor, Scores
from moe.runs.workspace import Workspace

MAX_ROWS = 2000
"""Rows a domain, of training and of validation, that are looked at: enough for the means and spreads of states."""
MIN_ROWS = 30
"""Rows below which nothing is said of them."""
PCA_COMPONENTS = 64


def fit_reference(work: Workspace, folder: Path, sets: Sequence[str] = (), quiet: bool = True) -> dict[str, Any]:
    """Look at the run's training and validation rows by a model, and write its reference into its folder.

    Returns:
        `model`, `fitted` and `held`: rows by domain.

    Raises:
        Fault: when the model cannot be opened, or there are too few rows.
    """
    model, template, length = load_model(folder, sets)
    predictor = Predictor(model, template, length, states=True)
    train, held = (
        subsample_per_domain(load_run_rows(work, model, one), MAX_ROWS, work.run.seed) for one in ("train", "validation")
    )
    for split, rows in (("training", train), ("validation", held)):
        if len(rows) < MIN_ROWS:
            raise Fault(
                f"at least {MIN_ROWS} {split} rows to compare with", str(len(rows)), "give the run more of them"
            )
    names = [one.name for one in model.trained_domains if one.name in set(train["domain"])]
    scores = _scores(predictor, list(train["text"]), "training rows", quiet)
    space = fit_state_distribution(np.concatenate([_states(one) for one in scores]), np.array(train["domain"]), names)
    seen = extract_features(predictor, space, list(held["text"]), "validation rows", quiet)
    of = np.array([names.index(one) if one in names else -1 for one in held["domain"]])
    found = Reference(tuple(model.bank.routed_experts), tuple(names), space, seen, of)
    card = write_reference(folder, found, dict(Counter(train["domain"])))
    return {"model": str(folder), "fitted": card.fitted, "held": card.validation}


def fit_state_distribution(states: np.ndarray, domains: np.ndarray, names: Sequence[str]) -> StateDistribution:
    """Where states (N, D) of these domains (N,) lie."""
    states = states.astype(np.float64)
    means = np.stack([states[domains == name].mean(0) for name in names])  # (G, D)
    apart = states - means[[list(names).index(name) for name in domains]]  # (N, D)
    fitted = PCA(min(PCA_COMPONENTS, min(apart.shape) - 1), svd_solver="full").fit(apart)
    least = float(np.finfo(np.float32).tiny)
    variances, noise = (np.maximum(one, least) for one in (fitted.explained_variance_, fitted.noise_variance_))
    return StateDistribution(means, fitted.components_, variances, float(noise))


def extract_features(
    predictor: Predictor, space: StateDistribution, texts: Iterable[str], title: str, quiet: bool = True
) -> DriftFeatures:
    """How a model takes texts, as a user without domain or label gets it."""
    parts = [_seen(predictor, space, one) for one in _scores(predictor, texts, title, quiet)]
    if not parts:
        return DriftFeatures(np.zeros((0, len(predictor.model.bank.routed_experts))), np.zeros(0), np.zeros(0))
    return DriftFeatures(
        *(np.concatenate([getattr(one, name) for one in parts]) for name in ("shares", "confidence", "distance"))
    )


def _scores(predictor: Predictor, texts: Iterable[str], title: str, quiet: bool) -> Iterator[Scores]:
    stream = iter(texts)
    with bar(title, len(texts) if isinstance(texts, Sequence) else None, "text", quiet) as meter:
        while window := list(islice(stream, predictor.chunk_size)):
            yield predictor.score(window)
            meter.advance(len(window))


def _seen(predictor: Predictor, space: StateDistribution, scores: Scores) -> DriftFeatures:
    answers = predictor.to_predictions(scores, predictor.routed_tasks(scores))
    confidence = np.array([one.confidence for one in answers])
    return DriftFeatures(scores.routing_weights.astype(np.float64), confidence, space.distance(_states(scores)))


def _states(scores: Scores) -> np.ndarray:
    assert scores.states is not None
    return scores.states.astype(np.float64)


def reference_view(told: Mapping[str, Any]) -> RenderableType:
    """What was fitted, for people."""
    table = Table(title=f"the reference of {told['model']}", title_justify="left", header_style="bold")
    for name in ("domain", "training rows", "validation rows"):
        table.add_column(name, justify="left" if name == "domain" else "right")
    for name, rows in told["fitted"].items():
        table.add_row(name, f"{rows:,}", f"{told['held'].get(name, 0):,}")
    return table

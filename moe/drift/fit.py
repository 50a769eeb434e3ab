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
from moe.data.sampler import thinned
from moe.drift.reference import Reference, Seen, Space, write_reference
from moe.evaluation.datasets import rows_of_run
from moe.inference.loading import open_model
from moe.inference.predictor import Predictor, Scores
from moe.runs.workspace import Workspace

ROWS = 2000
"""Rows a domain, of training and of validation, that are looked at: enough for the means and spreads of states."""
LEAST = 30
"""Rows below which nothing is said of them."""
DIRECTIONS = 64


def fit_reference(work: Workspace, folder: Path, sets: Sequence[str] = (), quiet: bool = True) -> dict[str, Any]:
    """Look at the run's training and validation rows by a model, and write its reference into its folder.

    Returns:
        `model`, `fitted` and `held`: rows by domain.

    Raises:
        Fault: when the model cannot be opened, or there are too few rows.
    """
    model, template, length = open_model(folder, sets)
    predictor = Predictor(model, template, length, states=True)
    train, held = (thinned(rows_of_run(work, model, one), ROWS, work.run.seed) for one in ("train", "validation"))
    for split, rows in (("training", train), ("validation", held)):
        if len(rows) < LEAST:
            raise Fault(f"at least {LEAST} {split} rows to compare with", str(len(rows)), "give the run more of them")
    names = [one.name for one in model.own_domains if one.name in set(train["domain"])]
    scores = _scores(predictor, list(train["text"]), "training rows", quiet)
    space = space_of(np.concatenate([_states(one) for one in scores]), np.array(train["domain"]), names)
    seen = look(predictor, space, list(held["text"]), "validation rows", quiet)
    of = np.array([names.index(one) if one in names else -1 for one in held["domain"]])
    found = Reference(tuple(model.bank.names), tuple(names), space, seen, of)
    card = write_reference(folder, found, dict(Counter(train["domain"])))
    return {"model": str(folder), "fitted": card.fitted, "held": card.held}


def space_of(states: np.ndarray, domains: np.ndarray, names: Sequence[str]) -> Space:
    """Where states (N, D) of these domains (N,) lie."""
    states = states.astype(np.float64)
    means = np.stack([states[domains == name].mean(0) for name in names])  # (G, D)
    apart = states - means[[list(names).index(name) for name in domains]]  # (N, D)
    fitted = PCA(min(DIRECTIONS, min(apart.shape) - 1), svd_solver="full").fit(apart)
    least = float(np.finfo(np.float32).tiny)
    variances, noise = (np.maximum(one, least) for one in (fitted.explained_variance_, fitted.noise_variance_))
    return Space(means, fitted.components_, variances, float(noise))


def look(predictor: Predictor, space: Space, texts: Iterable[str], title: str, quiet: bool = True) -> Seen:
    """How a model takes texts, as a user without domain or label gets it."""
    parts = [_seen(predictor, space, one) for one in _scores(predictor, texts, title, quiet)]
    if not parts:
        return Seen(np.zeros((0, len(predictor.model.bank.names))), np.zeros(0), np.zeros(0))
    return Seen(
        *(np.concatenate([getattr(one, name) for one in parts]) for name in ("shares", "confidence", "distance"))
    )


def _scores(predictor: Predictor, texts: Iterable[str], title: str, quiet: bool) -> Iterator[Scores]:
    stream = iter(texts)
    with bar(title, len(texts) if isinstance(texts, Sequence) else None, "text", quiet) as meter:
        while window := list(islice(stream, predictor.window)):
            yield predictor.score(window)
            meter.advance(len(window))


def _seen(predictor: Predictor, space: Space, scores: Scores) -> Seen:
    answers = predictor.answers(scores, predictor.routed_tasks(scores))
    confidence = np.array([one.confidence for one in answers])
    return Seen(scores.shares.astype(np.float64), confidence, space.distance(_states(scores)))


def _states(scores: Scores) -> np.ndarray:
    assert scores.states is not None
    return scores.states.astype(np.float64)


def fitted_view(told: Mapping[str, Any]) -> RenderableType:
    """What was fitted, for people."""
    table = Table(title=f"the reference of {told['model']}", title_justify="left", header_style="bold")
    for name in ("domain", "training rows", "validation rows"):
        table.add_column(name, justify="left" if name == "domain" else "right")
    for name, rows in told["fitted"].items():
        table.add_row(name, f"{rows:,}", f"{told['held'].get(name, 0):,}")
    return table

"""Which texts to label next: by uncertainty, disagreement of experts, diversity, both of these, or at random."""

from typing import Literal, get_args

import numpy as np
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from experts.errors import check_choice

Strategy = Literal["uncertainty", "disagreement", "diversity", "mixed", "random"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
DEFAULT: Strategy = "diversity"
_POOL_FACTOR = 5
"""Most uncertain texts that `mixed` chooses among, for each text that it chooses."""
_STEPS = 50


def check_strategy(name: str) -> Strategy:
    """Check the name of a strategy and return it.

    Raises:
        Fault: if there is no such strategy.
    """
    return check_choice(name, STRATEGIES, "--by")


def uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """Return one minus the margin between the two most probable labels (N,), 0 to 1, of probabilities (N, K)."""
    second, first = np.sort(probabilities, axis=1)[:, -2:].T  # (N,) each
    result: np.ndarray = 1.0 - (first - second)
    return result


def disagreement(expert_probabilities: np.ndarray) -> np.ndarray:
    """Return the Jensen–Shannon divergence of the experts' probabilities (E, N, K), (N,), in nats.

    It is the entropy of the mean less the mean entropy: 0 if all experts give the same probabilities.
    """
    divergence: np.ndarray = _entropy(expert_probabilities.mean(0)) - _entropy(expert_probabilities).mean(0)
    return divergence.clip(min=0.0)


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    entropy: np.ndarray = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(-1)
    return entropy


def select_by_score(scores: np.ndarray, most: int) -> np.ndarray:
    """Return the indices of the highest scores (N,), highest first; at most `most` of them."""
    return np.argsort(-scores, kind="stable")[:most]


def select_diverse(states: np.ndarray, most: int, seed: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the texts nearest to the centres of as many k-means clusters as texts are wanted, largest cluster first.

    Args:
        states: pooled states (N, D), compared by their direction.
        most: number of texts.
        seed: of the first centres.
        weights: of the texts in their cluster (N,); all the same by default.
    """
    if most >= len(states):
        return np.arange(len(states))
    unit = normalize(states)  # (N, D)
    clusters = KMeans(most, n_init=1, max_iter=_STEPS, random_state=seed).fit(unit, sample_weight=weights)
    offsets = np.linalg.norm(unit - clusters.cluster_centers_[clusters.labels_], axis=1)  # (N,)
    by_distance = np.lexsort((offsets, clusters.labels_))
    nearest = by_distance[np.unique(clusters.labels_[by_distance], return_index=True)[1]]  # one a cluster
    sizes = np.bincount(clusters.labels_)[clusters.labels_[nearest]]
    chosen = nearest[np.argsort(-sizes, kind="stable")]
    rest = np.setdiff1d(by_distance, chosen)  # clusters of equal texts are empty
    return np.concatenate([chosen, rest[: most - len(chosen)]])


def select(
    by: Strategy,
    most: int,
    *,
    states: np.ndarray,
    probabilities: np.ndarray,
    expert_probabilities: np.ndarray | None = None,
    seed: int = 13,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which of N texts to label next, most useful first, and the score of every text (N,).

    Args:
        by: `uncertainty` takes the smallest margins, `disagreement` the largest divergence of experts, `diversity` the
            centres of clusters, `mixed` those of the most uncertain texts weighted by their uncertainty, and `random`
            draws.
        most: most texts to choose.
        states: pooled states (N, D).
        probabilities: of the labels (N, K).
        expert_probabilities: of each expert (E, N, K), for `disagreement`.
        seed: of `diversity`, `mixed` and `random`.

    Returns:
        the indices, at most `most`; and the scores, the uncertainty unless experts disagree.
    """
    scores = uncertainty(probabilities)  # (N,)
    if by == "disagreement":
        assert expert_probabilities is not None, "disagreement needs the experts' probabilities"
        scores = disagreement(expert_probabilities)
    if by in ("uncertainty", "disagreement"):
        return select_by_score(scores, most), scores
    if by == "diversity":
        return select_diverse(states, most, seed), scores
    if by == "random":
        return np.random.default_rng(seed).permutation(len(states))[:most], scores
    pool = select_by_score(scores, _POOL_FACTOR * most)
    return pool[select_diverse(states[pool], most, seed, np.maximum(scores[pool], 1e-6))], scores

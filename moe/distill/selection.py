"""Which unlabelled texts a student trains on, chosen by the teachers' answers."""

import numpy as np

from moe.data.distilled.settings import Selection
from moe.data.distilled.soft_labels import SoftLabels


def select_texts(answers: SoftLabels, most: int | None, select: Selection, seed: int) -> np.ndarray:
    """Return the indices of the selected texts, ascending (n,).

    Args:
        answers: of the teachers for all texts; one without an answer is never selected.
        most: number of texts; None selects all.
        select: `random`; `confident` and `uncertain`, by the largest probability; or `diverse`, as many texts from each
            tenth of the confidence of each predicted label, as far as there are any.
        seed: of the random sample, and of the order of equal texts.
    """
    usable = np.flatnonzero(answers.answered)  # (N',)
    if most is None or len(usable) <= most:
        return usable
    shuffled = np.random.default_rng(seed).permutation(usable)  # (N',)
    if select == "random":
        return np.sort(shuffled[:most])
    probabilities = np.nan_to_num(answers.probabilities[shuffled])  # (N', K)
    confidence = probabilities.max(1)  # (N',)
    if select == "diverse":
        cells = probabilities.argmax(1) * 10 + np.minimum(9, (confidence * 10).astype(int))  # (N',)
        order = np.argsort(cells, kind="stable")
        _, starts, sizes = np.unique(cells[order], return_index=True, return_counts=True)
        turn = np.arange(len(order)) - np.repeat(starts, sizes)  # (N',), place of a text within its cell
        return np.sort(shuffled[order[np.argsort(turn, kind="stable")[:most]]])
    order = np.argsort(-confidence if select == "confident" else confidence, kind="stable")
    return np.sort(shuffled[order[:most]])

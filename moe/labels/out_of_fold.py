"""Out-of-fold probabilities: each row's from classifiers that were fitted without it, on frozen features and words.

Rows that share a text are in one fold, so that a text that stands twice with the same wrong label does not vouch for
itself.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedKFold

from experts.domain import Labels
from experts.errors import Fault
from moe.console import progress_bar
from moe.data.splitting.splits import number_texts
from moe.labels.classifier import ClassifierInputs, fit_classifier

FOLDS = 5
_SEED = 13


def out_of_fold_probabilities(
    inputs: ClassifierInputs,
    labels: np.ndarray,
    texts: Sequence[str],
    *,
    folds: int = FOLDS,
    seed: int = _SEED,
    quiet: bool = True,
) -> np.ndarray:
    """Return for each row the probabilities of the labels (N, K), from a classifier fitted on the other folds.

    Args:
        inputs: features and words (N).
        labels: index of each row's label (N,), 0 to K − 1, each in at least `folds` texts (see `check_folds`).
        texts: of each row.
        folds: number of folds; more fit on more rows and take longer.
        seed: of the folds.
        quiet: show no progress bar.
    """
    text_of_row = number_texts(texts)  # (N,)
    first = np.unique(text_of_row, return_index=True)[1]  # (U,)
    probabilities = np.zeros((len(labels), int(labels.max()) + 1))  # (N, K)
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(first, labels[first])
    with progress_bar("folds", folds, "fold", quiet) as meter:
        for _, test in splits:
            held_out = np.isin(text_of_row, test)  # (N,)
            classifier = fit_classifier(inputs.select(~held_out), labels[~held_out])
            probabilities[np.ix_(held_out, classifier.classes)] = classifier.predict(inputs.select(held_out))
            meter.advance(1)
    return probabilities


def check_folds(labels: np.ndarray, texts: Sequence[str], names: Labels, folds: int) -> None:
    """Check that there are two labels, and texts of each label for every fold.

    Args:
        labels: index of each row's label in `names` (N,).
        texts: of each row.
        names: the labels.

    Raises:
        Fault: if there are not.
    """
    first = np.unique(number_texts(texts), return_index=True)[1] if len(texts) else np.zeros(0, dtype=int)  # (U,)
    counts = {names[code]: int((labels[first] == code).sum()) for code in np.unique(labels)}
    if len(counts) < 2:
        present = f"only {next(iter(counts))}" if counts else "no labelled row"
        raise Fault("rows of at least two labels", present, "add rows of another label")
    name, count = min(counts.items(), key=lambda item: item[1])
    if count < folds:
        remedy = f"lower --folds to {count}, or add" if count >= 2 else "add"
        raise Fault(
            f"at least {folds} different texts of each label for {folds} folds",
            f"{count} of {name}",
            f"{remedy} rows of {name}, or leave its rows out",
        )

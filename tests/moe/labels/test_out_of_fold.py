"""Out-of-fold probabilities: no row, and no other row of its text, is in the fit that its probabilities come from."""

import numpy as np
import pytest

from experts.errors import Fault
from moe.labels import out_of_fold
from moe.labels.classifier import ClassifierInputs, LabelClassifier, word_vectors
from moe.labels.out_of_fold import check_folds, out_of_fold_probabilities

NAMES = ("bad", "good")


def separable(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features whose first column shows the label, and one text for each row."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    inputs = random.normal(0, 1, (rows, 4))
    inputs[:, 0] += 6 * labels
    return inputs, labels, [f"text {i}" for i in range(rows)]


def test_probabilities_find_the_label_that_a_flipped_row_should_have() -> None:
    inputs, labels, texts = separable(60)
    given = labels.copy()
    given[:3] = 1 - given[:3]
    probabilities = out_of_fold_probabilities(ClassifierInputs(inputs, word_vectors(texts, [None] * 60)), given, texts)
    assert probabilities.sum(1) == pytest.approx(1)
    assert (probabilities.argmax(1) == labels)[:3].all()
    assert (probabilities.argmax(1) == labels).mean() > 0.9


def test_rows_are_never_predicted_by_a_fit_on_their_own_text(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels, _ = separable(40)
    texts = [f"Text {i // 4}" if i % 2 else f"text  {i // 4}" for i in range(40)]  # alike but for case and spaces
    labels = (np.arange(40) // 4) % 2
    inputs[:, 3] = np.arange(40) // 4  # the number of the text
    fits: list[set[float]] = []
    fit = out_of_fold.fit_classifier

    def record(part: ClassifierInputs, codes: np.ndarray) -> LabelClassifier:
        fits.append(set(part.features[:, 3]))
        return fit(part, codes)

    monkeypatch.setattr(out_of_fold, "fit_classifier", record)
    out_of_fold_probabilities(ClassifierInputs(inputs, word_vectors(texts, [None] * 40)), labels, texts, folds=5)
    assert len(fits) == 5
    left_out = [set(range(10)) - seen for seen in fits]
    assert sorted(number for numbers in left_out for number in numbers) == list(range(10))


@pytest.mark.parametrize(
    ("labels", "texts", "message"),
    [
        ([0] * 6, 6, "at least two labels; found only bad"),
        ([], 0, "at least two labels; found no labelled row"),
        (
            [0, 0, 0, 1, 1, 1],
            6,
            "at least 5 different texts of each label for 5 folds; found 3 of bad. Lower --folds to 3",
        ),
        ([0] * 6 + [1], 7, "found 1 of good. Add rows of good"),
        ([0, 1] * 5, 2, "found 1 of bad"),
    ],
)
def test_folds_need_two_labels_and_a_text_of_each_label_for_each_fold(
    labels: list[int], texts: int, message: str
) -> None:
    with pytest.raises(Fault) as caught:
        check_folds(np.array(labels, dtype=int), [f"text {i % max(1, texts)}" for i in range(len(labels))], NAMES, 5)
    assert message in str(caught.value)

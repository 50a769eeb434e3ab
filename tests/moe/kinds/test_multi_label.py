"""Tasks with any number of labels per row: cells, codes, losses, decisions and metrics."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, label_ranking_average_precision_score
from torch.nn.functional import binary_cross_entropy_with_logits

from moe.kinds.losses import set_losses
from moe.kinds.multi_label import MAX_LABELS
from moe.kinds.registry import task_kind

KIND = task_kind("multi_label")
LABELS = ("a", "b", "c")


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        ("a;b", ["a", "b"]),
        (" a | b ;; ", ["a", "b"]),
        (["a", "b"], ["a", "b"]),
        ([], []),
        ("", []),
        (None, []),
        (float("nan"), []),
        (3, [3]),
    ],
)
def test_cell_holds_labels_between_separators_or_in_a_list(cell: object, values: list[object]) -> None:
    assert list(KIND.cell_values(cell)) == values


@given(st.sets(st.integers(0, MAX_LABELS - 1)))
def test_code_of_a_set_is_decoded_to_its_indices(indices: set[int]) -> None:
    code = KIND.encode(indices)
    assert KIND.decode(code) == tuple(sorted(indices))
    assert int(np.int64(code)) == code
    assert np.flatnonzero(KIND.members(np.array([code]), MAX_LABELS)[0]).tolist() == sorted(indices)


def test_missing_answer_has_no_labels_and_counts_for_none() -> None:
    codes = np.array([-1, 0, 0b101, 0b001])
    assert KIND.decode(-1) == ()
    assert KIND.answer(-1, LABELS) is None
    assert [KIND.answer(code, LABELS) for code in codes[1:].tolist()] == ["", "a;c", "a"]
    assert KIND.label_counts(codes, 3).tolist() == [2, 0, 1]


def test_rows_are_stratified_by_their_rarest_label() -> None:
    codes = np.array([0b001, 0b001, 0b011, 0b000, -1])
    assert KIND.strata(codes, 3, np.zeros(5)).tolist() == [0, 0, 1, 3, -1]


def test_row_loss_is_the_mean_binary_cross_entropy_of_the_tasks_labels() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, torch.finfo(torch.float32).min]], requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    losses = set_losses(logits, torch.tensor([0b101, 0b010]), mask)
    first = binary_cross_entropy_with_logits(logits[0], torch.tensor([1.0, 0.0, 1.0]))
    second = binary_cross_entropy_with_logits(logits[1, :2], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(losses, torch.stack([first, second]))
    losses.sum().backward()
    assert bool(logits.grad.isfinite().all())
    assert float(logits.grad[1, 2]) == 0.0


def test_probabilities_are_sigmoids_and_logits_their_inverse() -> None:
    logits = np.array([[-800.0, 0.0, 800.0]])
    assert KIND.probabilities(logits).tolist() == [[0.0, 0.5, 1.0]]
    assert np.isfinite(KIND.logits(KIND.probabilities(logits))).all()
    some = np.array([[-3.0, 0.2, 5.0]])
    np.testing.assert_allclose(KIND.logits(KIND.probabilities(some)), some)
    np.testing.assert_allclose(KIND.probabilities_of_tensor(torch.tensor(some)).numpy(), KIND.probabilities(some))


def test_labels_are_predicted_from_their_thresholds() -> None:
    probabilities = np.array([0.4, 0.6, 0.3])
    assert KIND.chosen(probabilities, None).tolist() == [False, True, False]
    thresholds = np.array([0.3, 0.7, 0.3])
    assert KIND.chosen(probabilities, thresholds).tolist() == [True, False, True]
    assert float(KIND.confidence(probabilities, thresholds)) == pytest.approx(0.4 * 0.4 * 0.3)


def test_log_loss_is_that_of_all_labels() -> None:
    logits, codes = np.array([[1.0, -2.0], [0.5, 0.1]]), np.array([0b01, 0b00])
    p = KIND.probabilities(logits)
    expected = [-np.log(p[0, 0]) - np.log(1 - p[0, 1]), -np.log(1 - p[1, 0]) - np.log(1 - p[1, 1])]
    np.testing.assert_allclose(KIND.log_losses(logits, codes), expected)


def test_metrics_are_those_of_scikit_learn() -> None:
    truth = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]])
    decided = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 1, 0]])
    probabilities = np.random.default_rng(0).random((4, 3))
    as_text = [[";".join(np.array(LABELS)[row == 1]) for row in rows] for rows in (truth, decided)]
    metrics = KIND.metrics(*as_text, LABELS, probabilities)
    assert metrics.accuracy == accuracy_score(truth, decided) == 0.5
    assert metrics.macro_f1 == pytest.approx(f1_score(truth, decided, average="macro"))
    assert metrics.micro_f1 == pytest.approx(f1_score(truth, decided, average="micro"))
    assert metrics.lrap == pytest.approx(label_ranking_average_precision_score(truth, probabilities))
    assert metrics.confusion is None


def test_label_of_another_task_is_an_error_even_for_a_row_without_labels() -> None:
    metrics = KIND.metrics(["", "a"], ["positive", "a"], LABELS)
    assert metrics.accuracy == 0.5
    assert metrics.per_class["a"].f1 == 1.0


@pytest.mark.parametrize("labels", [("a",), ("a;b", "c"), (" a", "b"), tuple(f"l{i}" for i in range(MAX_LABELS + 1))])
def test_labels_that_a_cell_cannot_hold_are_refused(labels: tuple[str, ...]) -> None:
    assert KIND.check_labels(labels)


def test_label_counts_of_one_label_per_row_are_unchanged_by_kinds() -> None:
    classes = task_kind()
    codes = np.array([2, 0, -1, 2])
    assert classes.label_counts(codes, 4).tolist() == [1, 0, 2, 0]
    assert classes.strata(codes, 4, np.zeros(len(codes))) is codes
    assert classes.answer(2, LABELS) == "c"

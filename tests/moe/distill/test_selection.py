"""Selection of unlabelled texts by the teachers' answers."""

import numpy as np

from moe.data.distilled.soft_labels import SoftLabels
from moe.distill.selection import select_texts


def answers(count: int = 200) -> SoftLabels:
    """Random answers; every tenth text has none."""
    probabilities = np.random.default_rng(0).dirichlet([0.5, 0.5, 0.5], count).astype(np.float32)
    probabilities[::10] = np.nan
    return SoftLabels(probabilities, np.full(count, np.nan, np.float32))


def test_without_a_limit_every_answered_text_is_selected() -> None:
    selected = select_texts(answers(), None, "random", seed=1)
    assert len(selected) == 180
    assert not (selected % 10 == 0).any()


def test_confident_and_uncertain_take_opposite_ends() -> None:
    soft = answers()
    confidence = np.nan_to_num(soft.probabilities).max(1)
    confident, uncertain = (select_texts(soft, 30, kind, seed=1) for kind in ("confident", "uncertain"))
    usable = np.sort(confidence[soft.answered])
    np.testing.assert_allclose(np.sort(confidence[confident]), usable[-30:])
    np.testing.assert_allclose(np.sort(confidence[uncertain]), usable[:30])


def test_random_depends_on_the_seed_alone() -> None:
    first, again, other = (select_texts(answers(), 30, "random", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_diverse_is_more_even_over_labels_than_random() -> None:
    probabilities = np.tile(np.array([0.9, 0.05, 0.05], np.float32), (200, 1))
    probabilities[:10] = [0.05, 0.9, 0.05]
    soft = SoftLabels(probabilities, np.full(200, np.nan, np.float32))
    selected = select_texts(soft, 20, "diverse", seed=1)
    assert (soft.probabilities[selected].argmax(1) == 1).sum() == 10

"""Tests of `benchmarks/suspects.py` on made-up features."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def suspects(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("suspects")


def test_the_named_share_of_labels_changes_and_each_to_another_one(suspects: ModuleType) -> None:
    labels = np.arange(200) % 3
    changed, flipped = suspects.flip_labels(labels, 3, 0.1, seed=13)
    assert flipped.sum() == 20
    assert np.array_equal(changed != labels, flipped)
    assert set(changed) <= {0, 1, 2}


def test_flipped_labels_are_found_where_features_say_the_label(
    suspects: ModuleType, separable_texts: Callable[[int], Any]
) -> None:
    texts = separable_texts(150)
    fitted = suspects.measure(texts, texts.inputs, 0.1, seed=13, folds=3)
    assert fitted["precision_at_flipped"] > 0.9
    unfitted = suspects.measure(texts, None, 0.1, seed=13, folds=3)
    assert unfitted["precision_at_flipped"] < 0.5, "a model that knows nothing finds them by chance"

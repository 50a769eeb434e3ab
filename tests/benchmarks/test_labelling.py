"""Tests of `benchmarks/labelling.py` on made-up features."""

from collections.abc import Callable
from types import ModuleType
from typing import Any


def test_learning_curve_rises_and_no_text_is_labelled_twice(
    benchmark: Callable[[str], ModuleType], separable_texts: Callable[[int], Any]
) -> None:
    labelling, texts = benchmark("labelling"), separable_texts(90)
    curve = labelling.learning_curve(texts, "random", 13, batch=6, rounds=3)
    assert len(curve) == 3
    assert curve[-1] > 0.9
    everything = labelling.learning_curve(texts, "diversity", 13, batch=63, rounds=1)
    assert everything[0] > 0.9, "the pool is the 70 % of the texts that are not for testing"

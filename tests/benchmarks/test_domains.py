"""Tests of `benchmarks/domains.py`: all ways to serve a domain compute the same, and a difference is not overlooked."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def domains(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("domains")


@pytest.mark.slow
def test_rows_that_know_the_domain_compute_the_same(domains: ModuleType, tmp_path: Path) -> None:
    domains.write_models(tmp_path, 2, merged=True)
    texts, names = ["profit rose", "rates may fall", "short"], ["expert1", "expert0", "expert1"]
    first, *others = (domains.ROWS[row](tmp_path, domains.domain_names(2))(texts, names) for row in domains.KNOWN)
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)
    swapped = domains.ROWS["merged models"](tmp_path, domains.domain_names(2))(texts, ["expert0", "expert1", "expert0"])
    assert np.abs(swapped - first).max() > domains.TOLERANCE, "the experts differ"


def test_different_states_stop_the_benchmark(domains: ModuleType) -> None:
    same = {"start": 1.0, "mib": 1.0, "speed": 1.0, "states": [[0.0, 1.0]]}
    other = same | {"states": [[0.0, 1.1]]}
    domains.print_rounds([{"mixture, domain given": same, "merged models": same}], 2)
    with pytest.raises(AssertionError, match="differ"):
        domains.print_rounds([{"mixture, domain given": same, "merged models": other}], 2)

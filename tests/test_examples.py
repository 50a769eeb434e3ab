"""Tests of the examples in the docstrings of all public names: they run, and give what they show."""

import doctest

import pytest

import moe
import router

PUBLIC = {f"{package.__name__}.{name}": getattr(package, name) for package in (moe, router) for name in package.__all__}
SLOW = ("moe.MixtureEstimator", "moe.FinMoETrainer")
"""Names whose example trains a model."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PUBLIC]
)
def test_example_of_each_public_name_runs_and_gives_what_it_shows(name: str) -> None:
    (test,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={})
    assert test.examples, "no example"
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)

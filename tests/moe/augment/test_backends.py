"""Claims about whom to ask: named wholly, and told in plain words when it is not there."""

import sys

import pytest

from experts.errors import Fault
from moe.augment.backends import EndpointClient, EndpointConfig
from moe.data.schema import AugmentSettings


@pytest.mark.parametrize(
    ("url", "model", "told"),
    [
        (None, "m", "no --base-url"),
        ("http://localhost:1/v1", None, "no --model"),
        (None, None, "no --base-url and --model"),
        ("localhost:11434", "m", "whole address"),
    ],
)
def test_an_endpoint_that_is_not_wholly_named_is_refused(url: str | None, model: str | None, told: str) -> None:
    with pytest.raises(Fault, match=told):
        EndpointConfig.named(url, model)


def test_without_the_package_the_remedy_is_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(Fault, match=r"pip install 'finmoe\[augment\]'"):
        EndpointClient(EndpointConfig("http://localhost:1/v1", "m"), AugmentSettings())

"""Endpoint configuration: incomplete options and a missing package are refused with a remedy."""

import sys

import pytest

from experts.errors import Fault
from moe.augment.backends import EndpointClient, EndpointConfig
from moe.data.schema import AugmentSettings


@pytest.mark.parametrize(
    ("url", "model", "message"),
    [
        (None, "m", "no --base-url"),
        ("http://localhost:1/v1", None, "no --model"),
        (None, None, "no --base-url and --model"),
        ("localhost:11434", "m", "full address"),
    ],
)
def test_endpoint_config_refuses_incomplete_options(url: str | None, model: str | None, message: str) -> None:
    with pytest.raises(Fault, match=message):
        EndpointConfig.from_options(url, model)


def test_endpoint_without_the_openai_package_suggests_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(Fault, match=r"pip install 'finmoe\[augment\]'"):
        EndpointClient(EndpointConfig("http://localhost:1/v1", "m"), AugmentSettings())

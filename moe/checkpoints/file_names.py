"""Names of the files in a mixture's folder; needs no torch."""

from collections.abc import Iterable

from experts.cards import ADAPTER, ADAPTER_CONFIG

CARD, ROUTER, HEADS, CONFIG, METRICS, README = (
    "mixture.json",
    "router.safetensors",
    "heads.safetensors",
    "config.yaml",
    "metrics.json",
    "README.md",
)
MIXTURE_FILES = (CARD, ROUTER, HEADS, CONFIG, METRICS, README)
"""Files of a mixture's folder besides its experts, all of which its manifest lists."""


def adapter_files(experts: Iterable[str]) -> list[str]:
    """Return the files of a mixture's experts, by their paths from its folder."""
    return [f"experts/{name}/{file}" for name in experts for file in (ADAPTER_CONFIG, ADAPTER)]

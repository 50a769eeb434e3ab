"""Names of the files in a mixture's folder; needs no torch."""

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

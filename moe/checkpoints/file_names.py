"""Names of the files in a mixture's folder; needs no torch."""

CARD, ROUTER, HEADS, CONFIG, METRICS, README = (
    "mixture.json",
    "router.safetensors",
    "heads.safetensors",
    "config.yaml",
    "metrics.json",
    "README.md",
)

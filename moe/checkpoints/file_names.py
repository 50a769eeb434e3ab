"""Names of the files in a mixture's folder; needs no torch."""

from experts.cards import CONFIG as CONFIG
from experts.cards import HEADS as HEADS
from experts.cards import METRICS as METRICS
from experts.cards import README as README

CARD, ROUTER = "mixture.json", "router.safetensors"
EARLIER = "earlier"
"""Folder of the routers that a mixture had before experts joined it."""
MIXTURE_FILES = (CARD, ROUTER, HEADS, CONFIG, METRICS, README)
"""Files of a mixture's folder besides its experts, all of which its manifest lists."""

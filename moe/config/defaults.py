"""Defaults of a classifier's run that depend on other settings: the shared expert, and the experts on top of it.

Chosen by measurement: `benchmarks/recipes.py`. A fresh shared expert was as good as one that starts from the ready
mixture's with 300 training rows per domain, and better with 1,000; with a few rows per class the latter is better.
"""

from experts.lora import LoraSettings
from moe.config.shared import SharedSettings

SHARED_EXPERT = SharedSettings(r=40, alpha=40, dropout=0.0)
"""The shared expert of a config that says nothing about one; it has most of the rank."""
LORA_ON_SHARED = LoraSettings(r=4, alpha=8, dropout=0.0)
"""A domain's expert on top of a shared expert."""

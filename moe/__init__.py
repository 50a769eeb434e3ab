"""FinMoE: data, models, training, merging, evaluation and inference for a mixture of domain experts.

Each public name is imported on first use, so that importing the package stays fast.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe.api.auto import FinMoEForSequenceClassification
    from moe.api.estimator import MixtureEstimator
    from moe.api.model import FinMoEModel, MixtureClassifier
    from moe.api.pipelines import TextPipeline, pipeline
    from moe.api.trainer import FinMoETrainer
    from moe.config.run import RunSettings, load_run
    from moe.errors import Fault

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(
    logging.ERROR
)  # it warns that an optional kernel is missing

__all__ = [
    "Fault",
    "FinMoEForSequenceClassification",
    "FinMoEModel",
    "FinMoETrainer",
    "MixtureClassifier",
    "MixtureEstimator",
    "RunSettings",
    "TextPipeline",
    "load_run",
    "pipeline",
]

_MODULES = {
    "Fault": "errors",
    "FinMoEForSequenceClassification": "api.auto",
    "FinMoEModel": "api.model",
    "FinMoETrainer": "api.trainer",
    "MixtureClassifier": "api.model",
    "MixtureEstimator": "api.estimator",
    "RunSettings": "config.run",
    "TextPipeline": "api.pipelines",
    "load_run": "config.run",
    "pipeline": "api.pipelines",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _MODULES:
        return getattr(import_module(f"moe.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'moe' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion in a notebook."""
    return sorted({*globals(), *__all__})

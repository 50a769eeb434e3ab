"""FinMoE: data, models, training, merging, evaluation and inference for a mixture of domain experts.

Each public name is imported on first use, so that importing the package stays fast.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe.classifier import MixtureClassifier
    from moe.config.run import RunSettings, load_run
    from moe.errors import Fault
    from moe.estimator import MixtureEstimator
    from moe.pipelines import TextPipeline, pipeline

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(
    logging.ERROR
)  # it warns that an optional kernel is missing

__all__ = ["Fault", "MixtureClassifier", "MixtureEstimator", "RunSettings", "TextPipeline", "load_run", "pipeline"]

_MODULES = {
    "Fault": "errors",
    "MixtureClassifier": "classifier",
    "MixtureEstimator": "estimator",
    "RunSettings": "config.run",
    "TextPipeline": "pipelines",
    "load_run": "config.run",
    "pipeline": "pipelines",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _MODULES:
        return getattr(import_module(f"moe.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'moe' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion in a notebook."""
    return sorted({*globals(), *__all__})

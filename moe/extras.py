"""Optional packages: the extra that installs each one, and the fault if it is missing."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from experts.errors import Fault

Extra = Literal[
    "augment",
    "balance",
    "conformal",
    "explain",
    "export",
    "labels",
    "report",
    "serve",
    "signals",
    "sweep",
    "tensorboard",
]
PACKAGES: dict[Extra, tuple[str, ...]] = {
    "augment": ("openai",),
    "balance": ("torchjd",),
    "conformal": ("mapie",),
    "explain": ("captum",),
    "export": ("onnxscript",),
    "labels": ("cleanlab",),
    "report": ("matplotlib", "jinja2"),
    "serve": ("fastapi", "uvicorn", "h11", "prometheus_client", "markdown_it"),
    "signals": ("exchange_calendars", "statsmodels", "matplotlib", "jinja2"),
    "sweep": ("optuna", "matplotlib"),
    "tensorboard": ("tensorboard",),
}
"""The packages of each extra, by the names that Python imports."""


def require(module: str, extra: Extra) -> Any:
    """Import a module of an optional package.

    Args:
        module: dotted name, such as `matplotlib.figure`.
        extra: the extra of `finmoe` that installs the package.

    Raises:
        Fault: if the package is not installed; names the extra to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing_extra(extra, [module.split(".")[0]]) from error


def check_extra(extra: Extra) -> None:
    """Check, without importing them, that the packages of an extra are installed.

    Commands that need them at the end of long work call this at the beginning.

    Raises:
        Fault: if one is missing; names the extra to install.
    """
    if missing := [package for package in PACKAGES[extra] if find_spec(package) is None]:
        raise missing_extra(extra, missing)


def missing_extra(extra: Extra, packages: list[str]) -> Fault:
    """Return the fault for missing packages of an extra."""
    noun = "package" if len(packages) == 1 else "packages"
    return Fault(f"the {noun} {', '.join(packages)}", "not installed", f"run: pip install 'finmoe[{extra}]'")

"""Gates that weight the experts, routing losses, DAO and other loss weightings, and routing statistics.

Nothing here depends on experts or backbones: gates are a plain tensor (B, E).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.dao import DAO
    from router.gate import Gate
    from router.gate_settings import GateSettings
    from router.lookahead import LookAhead
    from router.registry import DAOSettings
    from router.routing_stats import Usage

__all__ = ["DAO", "DAOSettings", "Gate", "GateSettings", "LookAhead", "Usage"]

_MODULES = {
    "DAO": "dao",
    "DAOSettings": "registry",
    "Gate": "gate",
    "GateSettings": "gate_settings",
    "LookAhead": "lookahead",
    "Usage": "routing_stats",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, to make importing the package fast."""
    if name in _MODULES:
        return getattr(import_module(f"router.{_MODULES[name]}"), name)
    raise AttributeError(name)

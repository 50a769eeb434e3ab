"""How experts are blended and how losses are balanced: gates, routing losses, DAO, usage.

It knows nothing of experts or backbones: gates travel as one plain tensor (B, E).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.dao import DAO, DAOSettings
    from router.gate import Gate, GateSettings
    from router.lookahead import LookAhead
    from router.routing_stats import Usage

__all__ = ["DAO", "DAOSettings", "Gate", "GateSettings", "LookAhead", "Usage"]

_MODULES = {
    "DAO": "dao",
    "DAOSettings": "dao",
    "Gate": "gate",
    "GateSettings": "gate",
    "LookAhead": "lookahead",
    "Usage": "routing_stats",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package stays cheap."""
    if name in _MODULES:
        return getattr(import_module(f"router.{_MODULES[name]}"), name)
    raise AttributeError(name)

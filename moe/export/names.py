"""What a backbone is called in a folder that leaves this machine.

How it is found here is `moe.model.backbone`'s.
"""

import re

from experts.expert_io import BackboneId
from moe.model.backbone import SHIPPED

SHIPPED_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
_HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def public_name(backbone: BackboneId) -> str:
    """Its name on the hub, the shipped one's included; a folder's path stays a path."""
    return SHIPPED_ON_HUB if backbone.name == SHIPPED else backbone.name


def hub_name(backbone: BackboneId) -> str | None:
    """Its name on the hub; None for a folder."""
    name = public_name(backbone)
    return name if _HUB.fullmatch(name) and (backbone.revision is not None or backbone.name == SHIPPED) else None

"""Defaults that depend on other settings: the shared expert, and the experts on top of it.

Chosen by measurement: `benchmarks/recipes.py`.
"""

from experts.lora import LoraSettings
from moe.config.files import READY
from moe.config.shared import SharedSettings
from moe.model.backbone import BackboneSettings
from moe.model.backbone_files import SHIPPED
from moe.model.heads import HeadSettings

LORA_ON_SHARED = LoraSettings(r=4, alpha=8, dropout=0.0)
"""A domain's expert on top of a shared expert, which has most of the rank."""


def default_shared(backbone: BackboneSettings, heads: HeadSettings, template: str) -> SharedSettings:
    """Return the shared expert of a classifier whose config says nothing about one.

    It starts from the ready mixture's on the backbone and with the kind of heads of the ready mixture, else fresh.
    """
    as_ready = (backbone.name, backbone.revision, backbone.trunk_depth, backbone.pooling) == (SHIPPED, None, 0, "mean")
    if as_ready and heads.kind == "linear" and template == "{text}":
        return SharedSettings(init=READY, frozen=False)
    return SharedSettings(r=40, alpha=40, dropout=0.0)

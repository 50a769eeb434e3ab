"""Backbones of one process that share their weights: each is loaded once, however many models are built on it."""

from copy import deepcopy
from dataclasses import replace
from threading import Lock
from typing import Protocol
from weakref import WeakValueDictionary

from transformers import PreTrainedModel

from moe.model.backbone import (
    Backbone,
    BackboneSettings,
    identify_backbone,
    load_backbone,
    prepare_backbone,
    read_backbone_config,
    read_weights,
)
from moe.model.device import choose_device


class BackboneLoader(Protocol):
    """Loads a backbone: `load_backbone`, or one that shares weights with others."""

    def __call__(self, settings: BackboneSettings, *, lm_head: bool = False) -> Backbone:
        """Return the backbone, frozen and in evaluation mode."""


class BackbonePool:
    """Loads backbones whose frozen weights are in memory once, as long as a model uses them.

    Threads may share a pool. A backbone in 4 or 8 bits is loaded for each model: its layers hold their weights in a
    form of their own.
    """

    def __init__(self) -> None:
        self._loaded: WeakValueDictionary[tuple[object, ...], PreTrainedModel] = WeakValueDictionary()
        self._lock = Lock()

    def load(self, settings: BackboneSettings, lm_head: bool = False) -> Backbone:
        """Return a backbone as `load_backbone` does; its layers are its own, its weights are shared.

        Raises:
            Fault: as `load_backbone`.
        """
        if settings.quantization != "none":
            return load_backbone(settings, lm_head=lm_head)
        device = choose_device(settings.device)
        read_backbone_config(settings)
        identity = identify_backbone(settings)  # files that have changed on disk are another backbone
        key = (identity, device, settings.dtype, lm_head)
        with self._lock:
            source = self._loaded.get(key)
            if source is None:
                source = read_weights(settings, device, lm_head).requires_grad_(False)
                self._loaded[key] = source
        backbone = prepare_backbone(share_weights(source), settings, identity, lm_head)
        return replace(backbone, source=source)


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model with layers of its own, which can be replaced, and the same parameters and buffers."""
    return deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})

"""What is done to a backbone's layers as a whole: dropout for training, torch.compile, activations made again.

Which layers get experts is `experts.adapter_bank`'s.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from experts.errors import Fault
from experts.gated_linear import fast_dropout
from experts.lora import find_layer_stack


class BackboneDropout(nn.Dropout):
    """The backbone's own dropout: the only part of a backbone that is ever in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop a share of x (any shape)."""
        return fast_dropout(x, self.p) if self.training else x


def enable_dropout(model: PreTrainedModel, trunk_depth: int, share: float) -> None:
    """Let the layers after the trunk drop in training, where the family has a dropout of its own.

    Raises:
        Fault: when they have none.
    """
    places = [
        (parent, name)
        for layer in find_layer_stack(model)[1][trunk_depth:]
        for parent in layer.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Dropout
    ]
    if not places:
        raise Fault(
            "layers with dropout, as backbone.dropout asks for",
            f"none after the trunk in {type(model).__name__}",
            "set backbone.dropout to 0 and lora.dropout instead",
        )
    for parent, name in places:
        setattr(parent, name, BackboneDropout(share).eval())


def compile_layers(model: PreTrainedModel) -> None:
    """Have torch.compile make each layer's forward, experts included, when it first runs; hooks stay as they are."""
    for layer in find_layer_stack(model)[1]:
        layer.forward = torch.compile(layer.forward, dynamic=True)


@contextmanager
def activation_checkpointing(model: PreTrainedModel, trunk_depth: int) -> Iterator[None]:
    """While it lasts, layers after the trunk keep their input alone, and are run again on the way back.

    The route and the random numbers are then those of the first run: a layer's forward is repeated, not its hooks.
    """
    layers = list(find_layer_stack(model)[1][trunk_depth:])
    kept, cached = [layer.__dict__.get("forward") for layer in layers], model.config.use_cache
    model.config.use_cache = False  # a second run would add to it
    for layer in layers:
        layer.forward = _twice(layer.forward)
    try:
        yield
    finally:
        model.config.use_cache = cached
        for layer, forward in zip(layers, kept, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _twice(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


MAX_EAGER_TOKENS = {torch.bfloat16: 128, torch.float32: 64}
"""The longest row of tokens, by precision, on which plain products train faster on a CPU than the fused kernel."""


class AttentionSwitch:
    """Sets a backbone's attention from batch to batch; does nothing where it has but one, or on other devices.

    Args:
        model: whose layers may have LoRA beside them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.own = model, model.config._attn_implementation
        choice = self.own == "sdpa" and model.device.type == "cpu" and model._can_set_attn_implementation()
        self.short = MAX_EAGER_TOKENS.get(model.dtype, 0) if choice else 0

    def suit(self, tokens: int) -> None:
        """Take the code that trains faster on rows of so many tokens."""
        self._set("eager" if tokens <= self.short else self.own)

    def restore(self) -> None:
        """Take the backbone's own again."""
        self._set(self.own)

    def _set(self, name: str) -> None:
        if self.model.config._attn_implementation != name:
            self.model.set_attn_implementation(name)

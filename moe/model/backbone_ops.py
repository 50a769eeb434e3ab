"""Changes to all layers of a backbone: dropout, torch.compile, activation checkpointing, attention implementation."""

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
    """The backbone's own dropout: its only part that is ever in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout to x (any shape) in training."""
        return fast_dropout(x, self.p) if self.training else x


def enable_dropout(model: PreTrainedModel, trunk_depth: int, p: float) -> None:
    """Enable dropout in training in the layers after the trunk, wherever the model family has a dropout layer.

    Args:
        trunk_depth: number of first layers to leave unchanged.
        p: probability of dropping a value.

    Raises:
        Fault: if these layers have no dropout.
    """
    dropouts = [
        (parent, name)
        for layer in find_layer_stack(model)[1][trunk_depth:]
        for parent in layer.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Dropout
    ]
    if not dropouts:
        raise Fault(
            "layers with dropout, for backbone.dropout",
            f"none after the trunk in {type(model).__name__}",
            "set backbone.dropout to 0 and use lora.dropout instead",
        )
    for parent, name in dropouts:
        setattr(parent, name, BackboneDropout(p).eval())


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each layer's forward, experts included, when it first runs; hooks are not compiled."""
    for layer in find_layer_stack(model)[1]:
        layer.forward = torch.compile(layer.forward, dynamic=True)


@contextmanager
def activation_checkpointing(model: PreTrainedModel, trunk_depth: int) -> Iterator[None]:
    """Keep only the inputs of the layers after the trunk, and rerun these layers in the backward pass.

    The rerun uses the route and the random numbers of the first run, because it repeats a layer's forward but not its
    hooks.
    """
    layers = list(find_layer_stack(model)[1][trunk_depth:])
    previous, use_cache = [layer.__dict__.get("forward") for layer in layers], model.config.use_cache
    model.config.use_cache = False  # a rerun would append to the cache
    for layer in layers:
        layer.forward = _checkpointed(layer.forward)
    try:
        yield
    finally:
        model.config.use_cache = use_cache
        for layer, forward in zip(layers, previous, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _checkpointed(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


MAX_EAGER_TOKENS = {torch.bfloat16: 128, torch.float32: 64}
"""By dtype, the longest row of tokens on which eager attention trains faster on a CPU than the fused kernel."""


class AttentionSwitch:
    """Chooses the attention implementation for each batch, on CPUs and for models with a fused kernel only.

    Args:
        model: the backbone.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.default = model, model.config._attn_implementation
        choice = self.default == "sdpa" and model.device.type == "cpu" and model._can_set_attn_implementation()
        self.max_eager_tokens = MAX_EAGER_TOKENS.get(model.dtype, 0) if choice else 0

    def select(self, tokens: int) -> None:
        """Use the implementation that trains faster on rows of this many tokens."""
        self._set("eager" if tokens <= self.max_eager_tokens else self.default)

    def restore(self) -> None:
        """Use the backbone's default implementation again."""
        self._set(self.default)

    def _set(self, name: str) -> None:
        if self.model.config._attn_implementation != name:
            self.model.set_attn_implementation(name)

"""What is done to a backbone's layers before experts lie beside them: dropout for training, torch.compile.

Which layers get experts is `experts.bank`'s.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from experts.errors import Fault
from experts.gated import drop
from experts.lora import layer_list


class Dropped(nn.Dropout):
    """A backbone's own dropout, in its own place; the only part of a backbone that `moe.model` puts into training."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop a share of x (any shape)."""
        return drop(x, self.p) if self.training else x


def soften(model: PreTrainedModel, trunk_depth: int, share: float) -> None:
    """Let the layers after the trunk drop in training, where the family has a dropout of its own.

    Raises:
        Fault: when they have none.
    """
    places = [
        (parent, name)
        for layer in layer_list(model)[1][trunk_depth:]
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
        setattr(parent, name, Dropped(share).eval())


def compile_layers(model: PreTrainedModel) -> None:
    """Have torch.compile make each layer's forward, experts included, when it first runs; hooks stay as they are."""
    for layer in layer_list(model)[1]:
        layer.forward = torch.compile(layer.forward, dynamic=True)

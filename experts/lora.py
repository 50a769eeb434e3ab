"""LoRA settings, an adapter without its weights, and the map of a backbone's linear layers.

This module must not import PEFT, which is slow to import and not needed for inference; `experts.adapter` does.
"""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from experts.errors import Fault

PeftConfig: TypeAlias = dict[str, Any]
"""Content of PEFT's `adapter_config.json`, whose keys and values are those of PEFT's `LoraConfig`."""


class LoraSettings(BaseModel):
    """LoRA hyperparameters of an expert: `ΔW = alpha / r · B A` (Hu et al. 2021; DAO paper eq. 22)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    r: int = Field(16, ge=1, le=65_536, description="rank; a higher rank adds capacity, parameters and compute")
    alpha: float = Field(
        16, gt=0, le=10**6, description="scaling numerator; a higher value strengthens the expert's update"
    )
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout on the expert's input in training; more regularizes")
    targets: tuple[str, ...] | None = Field(
        None, description="last names of the linear layers to adapt, such as `query`; null adapts all of them"
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(r) instead of alpha / r")


@dataclass(frozen=True)
class LoraSpec:
    """Rank and scaling of an adapter in one layer.

    Args:
        rank: number of rows of A and columns of B (R).
        scaling: factor of `B A`, as PEFT defines it.
    """

    rank: int
    scaling: float


@dataclass(frozen=True)
class Adapter:
    """An adapter without its weights.

    Args:
        peft_config: the content of PEFT's `adapter_config.json`.
        layers: rank and scaling of every adapted layer, by dotted name.
    """

    peft_config: PeftConfig = field(repr=False)
    layers: dict[str, LoraSpec] = field(repr=False)

    @property
    def dropout(self) -> float:
        """Dropout probability of the adapter's input in training."""
        return float(self.peft_config.get("lora_dropout", 0.0))


@dataclass(frozen=True)
class LayerMap:
    """The layers of a backbone, read before any of them is wrapped.

    Args:
        stack: dotted name of the module list that holds the transformer layers, such as `encoder.layer`.
        depth: number of transformer layers.
        linear_layers: every linear layer in them by dotted name: Linear, its quantized variants, and GPT-2's Conv1D.
        model_name: name or path of the backbone.
        model_prefix: name of the backbone inside a model with a head, such as `bert`.
    """

    stack: str
    depth: int
    linear_layers: dict[str, nn.Module]
    model_name: str
    model_prefix: str

    @classmethod
    def from_model(cls, backbone: PreTrainedModel) -> "LayerMap":
        """Map the layers of a loaded backbone.

        Raises:
            Fault: if it has no list of transformer layers, or no linear layer in them.
        """
        stack, layers = find_layer_stack(backbone)
        linear_layers: dict[str, nn.Module] = {
            f"{stack}.{name}": module
            for name, module in layers.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        }
        if not linear_layers:
            raise Fault("linear layers to adapt", "none", "use a backbone family listed in the README")
        return cls(stack, len(layers), linear_layers, backbone.config.name_or_path or "", backbone.base_model_prefix)

    def layer_index(self, name: str) -> int:
        """Return the index of the transformer layer, counted from 0, that contains a linear layer."""
        return int(name.removeprefix(f"{self.stack}.").split(".")[0])


def find_layer_stack(backbone: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Find the backbone's list of transformer layers.

    Returns:
        its dotted name, such as `encoder.layer`, and the list.

    Raises:
        Fault: if no module list is as long as the config's number of layers.
    """
    depth = backbone.config.num_hidden_layers
    for name, module in backbone.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, module
    raise Fault(
        f"a backbone with a list of {depth} layers",
        f"none in {type(backbone).__name__}",
        "use a backbone family listed in the README, or add it as described in CONTRIBUTING.md",
    )


def check_trunk_depth(layers: LayerMap, trunk_depth: int) -> None:
    """Check that the trunk leaves at least one layer to the experts.

    Raises:
        Fault: if `trunk_depth` is negative or not below the backbone's depth.
    """
    if not 0 <= trunk_depth < layers.depth:
        raise Fault(
            f"a trunk depth from 0 to {layers.depth - 1} (the backbone has {layers.depth} layers)",
            str(trunk_depth),
            "lower trunk_depth to leave layers for the experts",
        )

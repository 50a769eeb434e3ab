"""What a LoRA is made with, where a backbone keeps its linear layers, and how an adapter touches them.

What PEFT's configs mean here is `experts.adapter`'s; the adapters themselves live in `experts.adapter_bank`. Nothing
here, nor anything that answers a text, imports PEFT, which takes longer than torch and transformers together.
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from experts.errors import Fault


class LoraSettings(BaseModel):
    """One expert's LoRA: `ΔW = alpha / r · B A` (Hu et al. 2021; DAO paper eq. 22)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    r: int = Field(16, ge=1, description="rank; more learns more and costs more")
    alpha: float = Field(16, gt=0, description="scaling numerator; more makes the expert louder")
    dropout: float = Field(0.05, ge=0, lt=1, description="share of inputs dropped in training; more regularises")
    targets: tuple[str, ...] | None = Field(
        None, description="last names of the linear layers to touch; none given means all of them"
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(r) instead of alpha / r")


@dataclass(frozen=True)
class LoraSpec:
    """How an adapter touches one layer: its rank, and PEFT's `scaling` there."""

    rank: int
    scaling: float


@dataclass(frozen=True)
class Adapter:
    """An adapter without its weights.

    Args:
        content: PEFT's `adapter_config.json`.
        layers: every layer that it touches, by dotted name.
    """

    content: dict[str, Any] = field(repr=False)
    layers: dict[str, LoraSpec] = field(repr=False)

    @property
    def dropout(self) -> float:
        """The share of inputs that is dropped in training."""
        return float(self.content.get("lora_dropout", 0.0))


@dataclass(frozen=True)
class LayerMap:
    """Where a backbone keeps its layers: the stack's name and depth, and every linear layer in it by dotted name.

    Linear means Linear, its quantised kinds, and GPT-2's Conv1D. Taken before any layer is wrapped.
    """

    stack: str
    depth: int
    linear: dict[str, nn.Module]
    base_name: str

    @classmethod
    def of(cls, backbone: PreTrainedModel) -> "LayerMap":
        """Read a loaded backbone.

        Raises:
            Fault: when it has no such stack, or no linear layer in it.
        """
        stack, layers = find_layer_stack(backbone)
        linear: dict[str, nn.Module] = {
            f"{stack}.{name}": module
            for name, module in layers.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        }
        if not linear:
            raise Fault("linear layers to adapt", "none", "use a backbone family named in the README")
        return cls(stack, len(layers), linear, backbone.config.name_or_path or "")

    def index(self, name: str) -> int:
        """The layer, counted from 0, in which a linear layer sits."""
        return int(name.removeprefix(f"{self.stack}.").split(".")[0])


def find_layer_stack(backbone: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The backbone's stack of layers and its dotted name, e.g. `encoder.layer`.

    Raises:
        Fault: when no list has as many modules as the config has layers.
    """
    depth = backbone.config.num_hidden_layers
    for name, module in backbone.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, module
    raise Fault(
        f"a backbone with a list of {depth} layers",
        f"none in {type(backbone).__name__}",
        "use a family named in the README, or add it as CONTRIBUTING.md says",
    )


def check_trunk_depth(layers: LayerMap, trunk_depth: int) -> None:
    """Refuse a trunk that leaves the experts no layer.

    Raises:
        Fault: when the trunk is as deep as the backbone.
    """
    if not 0 <= trunk_depth < layers.depth:
        raise Fault(
            f"a trunk depth from 0 to {layers.depth - 1} (the backbone has {layers.depth} layers)",
            str(trunk_depth),
            "lower trunk_depth, so that experts have layers to work in",
        )

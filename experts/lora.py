"""Which layers of a backbone an expert touches, with what rank and scaling, in PEFT's own terms.

It reads module names and settings only; the adapters themselves live in `experts.bank`.
"""

from dataclasses import dataclass

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
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
class Touch:
    """How an adapter touches one layer: its rank, and PEFT's `scaling` there."""

    rank: int
    scaling: float


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
        stack, layers = layer_list(backbone)
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


def layer_list(backbone: PreTrainedModel) -> tuple[str, nn.ModuleList]:
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


def check_trunk(layers: LayerMap, trunk_depth: int) -> None:
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


def lora_config(layers: LayerMap, settings: LoraSettings, trunk_depth: int) -> LoraConfig:
    """PEFT's config for a fresh expert on the linear layers after the trunk.

    Raises:
        Fault: when the trunk is too deep, or a named target is no linear layer of the backbone.
    """
    check_trunk(layers, trunk_depth)
    kinds = sorted({name.rsplit(".", 1)[-1] for name in layers.linear})
    if unknown := sorted(set(settings.targets or ()) - set(kinds)):
        raise Fault(f"LoRA targets among {', '.join(kinds)}", ", ".join(unknown), "mend lora.targets")
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=list(settings.targets or kinds),
        layers_to_transform=list(range(trunk_depth, layers.depth)),
        layers_pattern=layers.stack.rsplit(".", 1)[-1],
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in layers.linear.values()),
        base_model_name_or_path=layers.base_name,
        task_type="FEATURE_EXTRACTION",
        inference_mode=True,
    )


def touched_layers(layers: LayerMap, config: LoraConfig) -> dict[str, Touch]:
    """Every linear layer that PEFT would give this adapter, with rank and scaling."""
    return {name: _touch(config, name) for name in layers.linear if _is_target(config, name)}


def _is_target(config: LoraConfig, name: str) -> bool:
    found = check_target_module_exists(config, name)
    return bool(found) and type(found).__name__ != "_ExcludedModule"


def _touch(config: LoraConfig, name: str) -> Touch:
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(get_pattern_key(list(ranks), name), config.r)
    alpha = alphas.get(get_pattern_key(list(alphas), name), config.lora_alpha)
    return Touch(rank, alpha / (rank**0.5 if config.use_rslora else rank))


_PLAIN_INIT = (True, False, "gaussian", "orthogonal")


def refuse_unsupported(config: LoraConfig, name: str) -> None:
    """Refuse adapters whose update is not `scaling · B A` on an unchanged base weight.

    Raises:
        Fault: for DoRA, LoRA bias, a base changed by its initialisation, embedding adapters, extra saved modules.
    """
    faults = {
        "DoRA (its update is not a sum of low-rank terms)": config.use_dora,
        "a bias (it cannot be gated per text)": config.bias != "none" or config.lora_bias,
        f"init_lora_weights={config.init_lora_weights!r} (it changes the backbone's weights)": (
            config.init_lora_weights not in _PLAIN_INIT
        ),
        "embedding or token adapters": bool(config.trainable_token_indices or config.target_parameters),
        f"modules_to_save={config.modules_to_save}": bool(config.modules_to_save),
    }
    found = [text for text, present in faults.items() if present]
    if found:
        raise Fault(f"a plain LoRA adapter as expert {name}", "; ".join(found), "train it again as plain LoRA")

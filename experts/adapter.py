"""PEFT's configs and what they mean on a backbone: which layers an adapter touches, with what rank and scaling.

This and `experts.merge_methods` are the modules that import PEFT, which is slow: training and merging need it,
answering does not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from transformers.pytorch_utils import Conv1D

from experts.errors import Fault
from experts.lora import Adapter, LayerMap, LoraSettings, LoraSpec, check_trunk_depth
from experts.lora_delta import LowRankUpdate


def build_lora_config(layers: LayerMap, settings: LoraSettings, trunk_depth: int) -> LoraConfig:
    """PEFT's config for a fresh expert on the linear layers after the trunk.

    Raises:
        Fault: when the trunk is too deep, or a named target is no linear layer of the backbone.
    """
    check_trunk_depth(layers, trunk_depth)
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


def build_adapter(layers: LayerMap, settings: LoraSettings, trunk_depth: int) -> Adapter:
    """A fresh expert on the linear layers after the trunk.

    Raises:
        Fault: when the trunk is too deep, or a named target is no linear layer of the backbone.
    """
    return resolve_adapter(layers, build_lora_config(layers, settings, trunk_depth))


PORTABLE_KEYS = (
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "bias",
    "fan_in_fan_out",
    "modules_to_save",
    "init_lora_weights",
    "layers_to_transform",
    "layers_pattern",
)
"""The keys of an adapter's config that every PEFT since 0.4 knows; some versions refuse a key that they do not."""


def portable_config(layers: LayerMap, like: Mapping[str, Any], update: LowRankUpdate, backbone: str) -> dict[str, Any]:
    """PEFT's config of an update that stands in every layer of the kinds it touches: no pattern, no bias, one rank.

    Args:
        like: the config of an adapter of the same backbone.
        backbone: what PEFT is told that it is for.
    """
    alpha = update.scaling * update.rank
    config = LoraConfig(
        r=update.rank,
        lora_alpha=round(alpha) if alpha == round(alpha) else alpha,  # type: ignore[arg-type]
        target_modules=sorted({name.rsplit(".", 1)[-1] for name in update.layers}),
        layers_to_transform=list(range(layers.depth)),
        layers_pattern=layers.stack.rsplit(".", 1)[-1],
        fan_in_fan_out=bool(like.get("fan_in_fan_out")),
        base_model_name_or_path=backbone,
        task_type=like.get("task_type"),
        inference_mode=True,
    )
    content = resolve_adapter(layers, config).content
    return {key: content[key] for key in PORTABLE_KEYS}


def resolve_adapter(layers: LayerMap, config: LoraConfig) -> Adapter:
    """A PEFT config held against a backbone: every linear layer that PEFT would touch, with rank and scaling."""
    touched = {name: _touch(config, name) for name in layers.linear if _is_target(config, name)}
    content = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return Adapter(content, touched)


def read_adapter_config(layers: LayerMap, folder: Path, name: str) -> Adapter:
    """The config of an adapter on disk, ours or anybody's, held against a backbone.

    Raises:
        Fault: when its update is not a sum of low-rank terms on an unchanged weight, or PEFT cannot read it.
    """
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise Fault(f"a LoRA config that PEFT reads in {folder}", reason, "save it again with PEFT") from error
    check_supported(config, name)
    return resolve_adapter(layers, config)


def _is_target(config: LoraConfig, name: str) -> bool:
    found = check_target_module_exists(config, name)
    return bool(found) and type(found).__name__ != "_ExcludedModule"


def _touch(config: LoraConfig, name: str) -> LoraSpec:
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(get_pattern_key(list(ranks), name), config.r)
    alpha = alphas.get(get_pattern_key(list(alphas), name), config.lora_alpha)
    return LoraSpec(rank, alpha / (rank**0.5 if config.use_rslora else rank))


_PLAIN_INIT = (True, False, "gaussian", "orthogonal")


def check_supported(config: LoraConfig, name: str) -> None:
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

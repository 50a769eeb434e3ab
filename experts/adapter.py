"""Translation between PEFT's `LoraConfig` and adapters: which layers it targets, with what rank and scaling.

Only this module and `experts.merge_methods` import PEFT, which is slow to import: training and merging need it,
inference does not.
"""

import warnings
from pathlib import Path
from typing import cast

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from transformers.pytorch_utils import Conv1D

from experts.adapter_bank import PREFIX
from experts.adapter_settings import check_adapter_settings
from experts.atomic_io import read_json
from experts.errors import Fault
from experts.expert_io import ADAPTER, ADAPTER_CONFIG
from experts.lora import Adapter, LayerMap, LoraSettings, LoraSpec, PeftConfig, check_trunk_depth
from experts.lora_delta import LowRankUpdate
from experts.safetensors_io import tensor_names


def build_lora_config(layers: LayerMap, settings: LoraSettings, trunk_depth: int) -> LoraConfig:
    """Build PEFT's config for a new expert on the linear layers after the trunk.

    Raises:
        Fault: if the trunk is too deep, or a target does not name a linear layer of the backbone.
    """
    check_trunk_depth(layers, trunk_depth)
    available = sorted({name.rsplit(".", 1)[-1] for name in layers.linear_layers})
    if unknown := sorted(set(settings.targets or ()) - set(available)):
        raise Fault(f"LoRA targets among {', '.join(available)}", ", ".join(unknown), "fix lora.targets")
    return LoraConfig(
        r=settings.r,
        lora_alpha=cast(int, settings.alpha),  # PEFT declares an int, and computes with any number
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=list(settings.targets or available),
        layers_to_transform=list(range(trunk_depth, layers.depth)),
        layers_pattern=layers.stack.rsplit(".", 1)[-1],
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in layers.linear_layers.values()),
        base_model_name_or_path=layers.model_name or None,
        task_type="FEATURE_EXTRACTION",
        inference_mode=True,
    )


def build_adapter(layers: LayerMap, settings: LoraSettings, trunk_depth: int) -> Adapter:
    """Build a new expert's adapter on the linear layers after the trunk.

    Raises:
        Fault: if the trunk is too deep, or a target does not name a linear layer of the backbone.
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
"""Config keys that every PEFT version since 0.4 reads; some versions refuse keys they do not know."""


def portable_config(layers: LayerMap, reference: PeftConfig, update: LowRankUpdate, backbone: str) -> PeftConfig:
    """Return an `adapter_config.json` for an update that any PEFT version since 0.4 can load.

    It has one rank and one scaling for all layers, no patterns and no bias.

    Args:
        layers: the backbone's layers.
        reference: the PEFT config of an adapter of the same backbone.
        update: the update; it covers all layers of the kinds that it adapts.
        backbone: the value of `base_model_name_or_path`.
    """
    alpha = update.scaling * update.rank
    config = LoraConfig(
        r=update.rank,
        lora_alpha=round(alpha) if alpha == round(alpha) else cast(int, alpha),
        target_modules=sorted({name.rsplit(".", 1)[-1] for name in update.layers}),
        layers_to_transform=list(range(layers.depth)),
        layers_pattern=layers.stack.rsplit(".", 1)[-1],
        fan_in_fan_out=bool(reference.get("fan_in_fan_out")),
        base_model_name_or_path=backbone,
        task_type=reference.get("task_type"),
        inference_mode=True,
    )
    content = resolve_adapter(layers, config).peft_config
    return {key: content[key] for key in PORTABLE_KEYS}


def resolve_adapter(layers: LayerMap, config: LoraConfig, prefix: str = "") -> Adapter:
    """Resolve a PEFT config on a backbone: every linear layer that PEFT would adapt, with rank and scaling.

    Args:
        layers: the backbone's layers.
        config: the PEFT config.
        prefix: what precedes the backbone's layer names in the model that the adapter was trained on, such as `bert.`.
    """
    specs = {
        name: _lora_spec(config, prefix + name) for name in layers.linear_layers if _is_target(config, prefix + name)
    }
    content = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return Adapter(content, specs)


def read_adapter_config(layers: LayerMap, folder: Path) -> Adapter:
    """Read the PEFT config of an adapter folder and resolve it on a backbone.

    An adapter of a model with a head names the layers with the backbone's prefix. If its patterns need the prefix, they
    are replaced by the layers' names without it, since experts are saved for the backbone alone.

    Args:
        layers: the backbone's layers.
        folder: a folder with PEFT's two files, written by this program or by PEFT.

    Raises:
        Fault: if PEFT cannot read it, or it has a setting that is not computed.
    """
    content = read_json(folder / ADAPTER_CONFIG)
    check_adapter_settings(content, folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about keys without a value that PEFT does not know, and `runtime_config`
            config = LoraConfig.from_peft_type(**{key: content[key] for key in content if key != "runtime_config"})
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise Fault(f"a LoRA config that PEFT can read in {folder}", reason, "save it again with PEFT") from error
    adapter = resolve_adapter(layers, config)
    prefix = f"{layers.model_prefix}."
    if not any(key.startswith(f"{PREFIX}{prefix}") for key in tensor_names(folder / ADAPTER)):
        return adapter
    prefixed = resolve_adapter(layers, config, prefix)
    return adapter if prefixed.layers == adapter.layers else _without_patterns(prefixed, config)


def _without_patterns(adapter: Adapter, config: LoraConfig) -> Adapter:
    """Return an adapter whose PEFT config lists every layer by its name, with its rank and alpha."""

    def alpha(spec: LoraSpec) -> float:
        return spec.scaling * (spec.rank**0.5 if config.use_rslora else spec.rank)

    explicit = {
        "target_modules": sorted(adapter.layers),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {name: spec.rank for name, spec in adapter.layers.items()},
        "alpha_pattern": {name: alpha(spec) for name, spec in adapter.layers.items()},
    }
    return Adapter(adapter.peft_config | explicit, adapter.layers)


def _is_target(config: LoraConfig, name: str) -> bool:
    match = check_target_module_exists(config, name)
    return bool(match) and type(match).__name__ != "_ExcludedModule"


def _lora_spec(config: LoraConfig, name: str) -> LoraSpec:
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(get_pattern_key(list(ranks), name), config.r)
    alpha = alphas.get(get_pattern_key(list(alphas), name), config.lora_alpha)
    return LoraSpec(rank, alpha / (rank**0.5 if config.use_rslora else rank))

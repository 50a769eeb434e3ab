"""The settings of an `adapter_config.json` that a gated layer computes; an adapter with any other setting is refused.

PEFT drops keys that it does not know with a warning, and applies many that change the model. Here every key is on a
list, or has no value.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from experts.errors import Fault

MAX_RANK = 8192
Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
Alpha = Annotated[float, Field(allow_inf_nan=False)]
Names = str | list[str]


class ComputedSettings(BaseModel):
    """Settings of a LoRA adapter that decide its layers, ranks and scalings; a gated layer computes all values."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    r: Rank = Field(8, description="rank")
    lora_alpha: Alpha = Field(8, description="scaling numerator")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input in training")
    use_rslora: bool = Field(False, description="scale by alpha / sqrt(r)")
    fan_in_fan_out: bool = Field(False, description="whether the layer is a Conv1D, as PEFT corrects it")
    target_modules: Names = Field(description="names of the adapted layers, or a regular expression")
    exclude_modules: Names | None = Field(None, description="names of excluded layers, or a regular expression")
    layers_to_transform: int | list[int] | None = Field(None, description="indices of the adapted transformer layers")
    layers_pattern: Names | None = Field(None, description="names of the lists of transformer layers")
    rank_pattern: dict[str, Rank] | None = Field(None, description="rank by name or regular expression")
    alpha_pattern: dict[str, Alpha] | None = Field(None, description="alpha by name or regular expression")


INERT_KEYS = frozenset(
    {
        "peft_type",  # LORA, as `check_adapter_settings` requires
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "runtime_config",  # PEFT ignores it in a file
        "megatron_core",  # read only together with `megatron_config`
        "qalora_group_size",  # read only together with `use_qalora`
        "eva_config",  # how A was initialized; the ranks that EVA assigned are in `rank_pattern`
    }
)
"""Keys that may have any value, because they do not change what a trained adapter computes."""

HARMLESS_VALUES: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
"""Values of other keys that leave the backbone's weights and biases unchanged."""

REASONS: Mapping[str, str] = {
    "use_dora": "DoRA rescales the backbone's weight",
    "bias": "a trained bias cannot be gated per text",
    "lora_bias": "a trained bias cannot be gated per text",
    "init_lora_weights": "it changes the backbone's weights",
    "corda_config": "it changes the backbone's weights",
    "lora_ga_config": "it changes the backbone's weights",
    "loftq_config": "it changes the backbone's weights",
    "kasa_config": "it changes the backbone's weights",
    "modules_to_save": "it replaces modules of the backbone",
    "trainable_token_indices": "it changes embeddings",
    "target_parameters": "it adapts parameters outside of linear layers",
    "layer_replication": "it repeats layers of the backbone",
    "alora_invocation_tokens": "the update starts at these tokens only",
    "use_bdlora": "its factors are block-diagonal",
    "use_qalora": "it pools the layer's input",
    "monteclora_config": "it samples the update",
    "arrow_config": "it routes between adapters by itself",
    "velora_config": "it changes the backward pass",
    "megatron_config": "its layers are Megatron's",
    "ensure_weight_tying": "it ties embeddings",
}
"""Why a setting is refused, for the message."""


def check_adapter_settings(content: Any, folder: Path) -> ComputedSettings:
    """Check that an adapter computes `scaling · B A` on unchanged linear layers, from the content of its config.

    Args:
        content: the parsed `adapter_config.json`.
        folder: the adapter's folder, for messages.

    Returns:
        the settings that are computed.

    Raises:
        Fault: if it is not a LoRA adapter; for settings that are not computed, each by its name; for invalid values,
            invalid regular expressions among them.
    """
    if not isinstance(content, dict):
        raise Fault(f"an adapter config in {folder}", f"a {type(content).__name__}", "save the adapter again with PEFT")
    if content.get("peft_type") != "LORA":
        raise Fault(
            f"a LoRA adapter in {folder}",
            f"peft_type {str(content.get('peft_type'))[:40]!r}",
            "use a LoRA adapter",
        )
    if refused := list(_refused(content)):
        raise Fault(
            f"a plain LoRA adapter in {folder}",
            "; ".join(refused),
            "train it again as plain LoRA",
        )
    try:
        settings = ComputedSettings.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part)[:40] for part in first["loc"][:2])
        reason = f"{key}={str(first['input'])[:40]!r} ({first['msg'][0].lower()}{first['msg'][1:]})"
        raise Fault(f"valid LoRA settings in {folder}", reason, "save the adapter again with PEFT") from error
    _check_patterns(settings, folder)
    return settings


def _refused(content: Mapping[str, Any]) -> Iterator[str]:
    for key, value in content.items():
        if key in ComputedSettings.model_fields or key in INERT_KEYS or _is_empty(value):
            continue
        if key in HARMLESS_VALUES and any(value is known or value == known != 1 for known in HARMLESS_VALUES[key]):
            continue
        reason = REASONS.get(key, "not a setting that FinMoE computes")
        yield f"{str(key)[:60]}={str(value)[:60]} ({reason})"


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _check_patterns(settings: ComputedSettings, folder: Path) -> None:
    """Check the values that PEFT uses as regular expressions, in the form in which it compiles them.

    Raises:
        Fault: if one of them is invalid.
    """
    modules = [name for name in (settings.target_modules, settings.exclude_modules) if isinstance(name, str)]
    lists = settings.layers_pattern or []
    layers = [lists] if isinstance(lists, str) else lists
    names = (*(settings.rank_pattern or ()), *(settings.alpha_pattern or ()))
    compiled = {pattern: pattern for pattern in modules}
    compiled |= {pattern: rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\." for pattern in layers}
    compiled |= {pattern: rf"(.*\.)?({pattern})$" for pattern in names}
    for pattern, used in compiled.items():
        try:
            re.compile(used)
        except (re.error, RecursionError, OverflowError) as error:
            raise Fault(
                f"regular expressions of layer names in {folder}",
                f"{pattern[:60]!r} ({error})",
                "save the adapter again with PEFT",
            ) from error

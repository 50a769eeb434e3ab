"""Loading of a model folder, which holds a mixture or a single expert."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experts.cards import EXPERT_CARD
from experts.errors import Fault
from experts.expert_io import CONFIG
from experts.yaml_io import Positions, read_yaml
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_card, read_mixture
from moe.config.messages import ConfigFault, validate_settings
from moe.config.overrides import apply_override
from moe.config.run import parse_run
from moe.model.backbone import BackboneSettings, load_backbone
from moe.model.mixture import Mixture


def load_model(folder: Path, sets: Sequence[str] = ()) -> tuple[Mixture, str, int]:
    """Load a mixture or a single expert for classification.

    Args:
        sets: overrides of the backbone settings on the model's card, such as `backbone.dtype=…`,
            `backbone.quantization=…` or `backbone.max_length=…`. Layers are compiled only with `backbone.compile=true`.

    Returns:
        the model, its prompt template, and its maximal length in tokens.

    Raises:
        Fault: if the folder is missing, broken, made for another backbone, or holds a language model.
    """
    return _load(folder, sets, language=False)


def load_any_model(folder: Path, sets: Sequence[str] = ()) -> tuple[Mixture, str, int]:
    """Load a mixture or a single expert as `load_model` does; language models too.

    Raises:
        Fault: if the folder is missing, broken, or made for another backbone.
    """
    return _load(folder, sets, language=True)


def _load(folder: Path, sets: Sequence[str], language: bool) -> tuple[Mixture, str, int]:
    if (folder / EXPERT_CARD).is_file():
        model, run = load_single_expert(folder, lambda settings: override_backbone(settings, sets))
        _check_classifier(run.language is None or language, folder)
        return model, run.template, run.backbone.resolved_length
    card = read_card(folder)
    _check_classifier(not card.language or language, folder)
    settings = override_backbone(card.backbone_settings, sets)
    backbone = None if settings == card.backbone_settings else load_backbone(settings, lm_head=card.language)
    model, card = read_mixture(folder, backbone)
    return model, card.template, settings.resolved_length


def load_language_model(folder: Path) -> tuple[Mixture, str]:
    """Load a mixture or a single expert over a language model, and its prompt template.

    Raises:
        Fault: if the folder holds neither, or is incomplete.
    """
    if (folder / EXPERT_CARD).is_file():
        model, run = load_single_expert(folder)
        return model, run.template
    model, card = read_mixture(folder)
    return model, card.template


def is_language_model(folder: Path) -> bool:
    """Whether a model folder holds a language model rather than a classifier; reads its card only.

    Raises:
        Fault: if the folder holds no model, or is incomplete.
    """
    if (folder / EXPERT_CARD).is_file():
        return parse_run(read_yaml(folder / CONFIG), str(folder / CONFIG)).language is not None
    return read_card(folder).language


def _check_classifier(allowed: bool, folder: Path) -> None:
    if not allowed:
        raise Fault("a classification model", f"a language model at {folder}", "use a model trained on labelled rows")


def override_backbone(settings: BackboneSettings, sets: Sequence[str]) -> BackboneSettings:
    """Apply the `backbone.KEY=VALUE` overrides to a model's backbone settings.

    `compile` is off unless it is overridden; overrides of other settings are ignored.

    Raises:
        Fault: for an unknown setting or an invalid value.
    """
    raw: dict[str, Any] = {"backbone": settings.model_dump() | {"compile": False}}
    positions: Positions = {}
    for override in sets:
        if override.startswith("backbone."):
            apply_override(raw, override, positions)
    changed, errors = validate_settings(BackboneSettings, raw["backbone"], positions, ("backbone",))
    if changed is None:
        raise ConfigFault("--set", errors)
    return changed

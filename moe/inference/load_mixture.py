"""Loading of a mixture or a single expert with PyTorch, for prediction, generation, evaluation and export."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from experts.errors import Fault
from experts.reading import each_file_once
from experts.yaml_io import Positions
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_card, read_mixture
from moe.config.messages import ConfigFault, validate_settings
from moe.config.overrides import apply_override
from moe.model.backbone import BackboneSettings, load_backbone
from moe.model.backbone_pool import BackboneLoader, BackbonePool
from moe.model.mixture import Mixture
from moe.runs.model_ref import ModelRef


class LoadedMixture(NamedTuple):
    """A mixture in evaluation mode, or a single expert as a mixture with a constant route.

    Args:
        model: with its backbone.
        template: the prompt template that it was trained with.
        max_length: tokens at which a text is truncated.
    """

    model: Mixture
    template: str
    max_length: int


def load_mixture(
    ref: ModelRef, sets: Sequence[str] = (), *, language: bool = False, backbones: BackbonePool | None = None
) -> LoadedMixture:
    """Load a mixture or a single expert.

    Args:
        sets: overrides of the backbone settings on the model's card, such as `backbone.dtype=…`,
            `backbone.quantization=…` or `backbone.max_length=…`. Layers are compiled only with `backbone.compile=true`.
        language: load a language model, too; a classifier only by default.
        backbones: shares the backbone's weights with other models of this process.

    Raises:
        Fault: if the folder is missing, broken or made for another backbone, or it holds a language model and
            `language` is false.
    """
    try:
        with each_file_once(ref.records), torch.random.fork_rng(devices=[]):  # layers draw weights before they are read
            return _load(ref, sets, language, backbones)
    finally:
        ref.records.clear()  # another call reads files that may have changed


def _load(ref: ModelRef, sets: Sequence[str], language: bool, backbones: BackbonePool | None) -> LoadedMixture:
    load: BackboneLoader = backbones.load if backbones else load_backbone
    if ref.kind == "expert":
        _check_classifier(ref, language)
        model, run = load_single_expert(ref.folder, lambda settings: override_backbone(settings, sets), load)
        return LoadedMixture(model, run.template, run.backbone.resolved_length)
    card = read_card(ref.folder)
    _check_classifier(ref, language)
    settings = override_backbone(card.backbone_settings, sets)
    own = backbones is None and settings == card.backbone_settings  # loaded together with the mixture
    backbone = None if own else load(settings, lm_head=card.language)
    model, card = read_mixture(ref.folder, backbone)
    return LoadedMixture(model, card.template, settings.resolved_length)


def _check_classifier(ref: ModelRef, language: bool) -> None:
    if ref.language and not language:
        remedy = "use a model trained on labelled rows"
        raise Fault("a classification model", f"a language model at {ref.folder}", remedy)


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

"""A mixture on disk: card, experts in PEFT's format, router and heads, with the hash of every file. Strict.

Putting experts together is `moe.merging.merge`'s; one expert on disk is `experts.expert_io`'s.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experts.adapter_bank import ExpertBank
from experts.atomic_io import check_manifest, atomic_folder, write_json, write_text
from experts.cards import read_record
from experts.domain import LabelSpace
from experts.errors import Fault
from experts.expert_io import BackboneId, read_adapter, write_adapter
from experts.lora import Adapter
from experts.safetensors_io import load_tensors, save_tensors
from moe.checkpoints.mixture_card import FORMAT, MixtureCard
from moe.model.backbone import Backbone, identify_backbone, load_backbone
from moe.model.heads import Heads, MixedHeads, NoHeads
from moe.model.mixture import Mixture
from router.gate import Gate

CARD, ROUTER, HEADS, CONFIG, METRICS, README = (
    "mixture.json",
    "router.safetensors",
    "heads.safetensors",
    "config.yaml",
    "metrics.json",
    "README.md",
)


def build_mixture(card: MixtureCard, backbone: Backbone, contents: Mapping[str, dict[str, Any]]) -> Mixture:
    """A mixture with fresh weights, as its card and its adapters' PEFT configs say."""
    bank = ExpertBank(backbone.model, card.backbone_settings.trunk_depth, card.language)
    for name in (*card.routed, *card.shared):
        bank.add_adapter(name, Adapter(contents[name], card.layers[name]), always_on=name in card.shared)
    bank.set_dropout(max((one.adapter.dropout for one in bank.adapters.values()), default=0.0))
    domains = [one.to_domain() for one in card.domains]
    labels, width = LabelSpace.from_domains(domains), backbone.model.config.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(card.seed)
        gate = Gate(width, [domain.group for domain in domains for _ in domain.expert_names], card.gate)
    heads = build_heads(card, labels, width)
    model = Mixture(backbone, bank, gate, heads, domains, labels, card.backbone_settings.pooling)
    return model.to(backbone.model.device) if card.backbone_settings.quantization == "none" else _parts_to(model)


def _parts_to(model: Mixture) -> Mixture:
    """Quantised weights may not be moved; everything of ours may."""
    device = model.backbone.device
    for part in (model.heads, model.gate):
        if isinstance(part, nn.Module):
            part.to(device)
    model.special_token_ids, model.domain_expert_mask = model.special_token_ids.to(device), model.domain_expert_mask.to(device)
    return model


def build_heads(card: MixtureCard, labels: LabelSpace, width: int) -> Heads | MixedHeads | NoHeads:
    """Fresh heads: one set, or one set an expert; none of ours for a language model."""
    if card.language:
        return NoHeads()

    def one() -> Heads:
        return Heads(width, labels.heads, card.heads, card.polarity, seed=card.seed)

    return one() if card.heads.merge == "averaged" else MixedHeads({name: one() for name in card.routed})


def write_mixture(
    folder: Path,
    model: Mixture,
    card: MixtureCard,
    resolved: str,
    metrics: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write a mixture's folder, whole or not at all. No weight of the backbone is in it.

    Raises:
        Fault: when the folder exists and `overwrite` is false, or cannot be written.
    """
    assert model.gate is not None
    with atomic_folder(folder, overwrite) as temporary:
        for name, one in model.bank.adapters.items():
            write_adapter(temporary / "experts" / name, one.adapter, model.bank.peft_state_dict(name))
        save_tensors(temporary / ROUTER, model.gate.state_dict())
        save_tensors(temporary / HEADS, model.heads.state_dict())
        write_json(temporary / CARD, card.model_dump(mode="json"))
        write_json(temporary / METRICS, dict(metrics))
        write_text(temporary / CONFIG, resolved)
        write_text(temporary / README, _readme(card))


def read_card(folder: Path) -> MixtureCard:
    """Check a mixture's files against its manifest and read its card; no weight is loaded.

    Raises:
        Fault: when a file is missing, changed or half-written, or the format is newer.
    """
    if folder.is_dir() and (folder / "expert.json").is_file():
        raise Fault(f"a mixture folder at {folder}", "a lone expert", "merge it first: moe merge")
    check_manifest(folder, "a mixture")
    return parse_mixture_card(folder)


def parse_mixture_card(folder: Path) -> MixtureCard:
    """Read a mixture's card and nothing else.

    Raises:
        Fault: when it is broken or of another format.
    """
    return read_record(folder / CARD, MixtureCard, FORMAT, "mixture card", "write the folder again")


def read_mixture(folder: Path, backbone: Backbone | None = None) -> tuple[Mixture, MixtureCard]:
    """Load a mixture: its backbone by name, held against the hash, and every tensor strictly.

    Args:
        backbone: one that is loaded already and has no experts yet.

    Raises:
        Fault: when anything is missing, changed, unexpected, or the backbone is another.
    """
    card = read_card(folder)
    check_same_backbone(card.backbone, backbone.id if backbone else identify_backbone(card.backbone_settings), str(folder))
    names = (*card.routed, *card.shared)
    adapters = {name: read_adapter(folder / "experts" / name) for name in names}
    backbone = backbone or load_backbone(card.backbone_settings, lm_head=card.language)
    model = build_mixture(card, backbone, {name: content for name, (content, _) in adapters.items()})
    for name, (_, weights) in adapters.items():
        model.bank.load_adapter(name, weights)
    assert model.gate is not None
    load_strictly(model.gate, load_tensors(folder / ROUTER), folder / ROUTER)
    load_strictly(model.heads, load_tensors(folder / HEADS), folder / HEADS)
    return model.eval(), card


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Fill a module from tensors of exactly its names and shapes.

    Raises:
        Fault: when one is missing, unexpected or of another shape.
    """
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise Fault(f"tensors that fit in {source}", reason, "write the folder again with this version") from error


def check_same_backbone(expected: BackboneId, found: BackboneId, what: str) -> None:
    """Refuse weights that were trained beside another backbone.

    Raises:
        Fault: naming both sides.
    """
    if expected.sha256 != found.sha256:
        raise Fault(
            f"the backbone {expected.name!r} with weights {expected.sha256[:12]}… for {what}",
            f"{found.name!r} with weights {found.sha256[:12]}…",
            "use the backbone that it was trained on, or train it again on this one",
        )


def _readme(card: MixtureCard) -> str:
    rows = "\n".join(
        f"| `{one.name}` | {', '.join(one.experts)} | {'; '.join(', '.join(labels) for labels in one.tasks.values())} |"
        for one in card.domains
    )
    metrics = "\n".join(f"| {name} | {value:.4f} |" for name, value in card.metrics.items())
    shared: Sequence[str] = card.shared
    return f"""# Mixture of domain experts ({card.stage})

LoRA experts beside a frozen `{card.backbone.name}` (weights sha256 `{card.backbone.sha256}`),
blended by a {card.gate.kind} router that reads the state after layer {card.backbone_settings.trunk_depth}.
{"Always on: " + ", ".join(shared) + "." if shared else ""}

| domain | experts | labels |
|---|---|---|
{rows}

| validation | |
|---|---|
{metrics}

`moe infer --model FOLDER "text"` needs nothing but this folder and the backbone. Every folder below `experts/` is a
plain PEFT adapter.
"""

"""Reading and writing of a mixture's folder: card, experts in PEFT's format, router, heads, hash of every file."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from experts.adapter_bank import ExpertBank
from experts.atomic_io import (
    atomic_folder,
    manifest_faults,
    read_manifest,
    restore_folder,
    unlisted_faults,
    write_json,
    write_text,
)
from experts.cards import EXPERTS, adapter_files, read_record, without_folders
from experts.domain import LabelSpace
from experts.errors import Fault
from experts.expert_io import BackboneId, read_adapter, write_adapter
from experts.lora import Adapter, PeftConfig
from experts.reading import read_errors_as_faults
from experts.safetensors_io import load_tensors, save_tensors
from moe.checkpoints.file_names import CARD, CONFIG, EARLIER, HEADS, METRICS, MIXTURE_FILES, README, ROUTER
from moe.checkpoints.mixture_card import FORMAT, DomainCard, MixtureCard
from moe.model.backbone import Backbone, identify_backbone, load_backbone
from moe.model.heads import Heads, MixedHeads, NoHeads
from moe.model.mixture import Mixture
from router.gate import Gate


@dataclass(frozen=True)
class EarlierRouter:
    """The router that a mixture had before an expert joined it.

    Args:
        experts: the routed experts, in the order of its gates' columns.
        tensors: its weights.
    """

    experts: tuple[str, ...]
    tensors: Mapping[str, Tensor]


def build_mixture(card: MixtureCard, backbone: Backbone, peft_configs: Mapping[str, PeftConfig]) -> Mixture:
    """Build a mixture with fresh weights from its card and its adapters' PEFT configs."""
    bank = ExpertBank(backbone.model, card.backbone_settings.trunk_depth, card.language, fold_limit=backbone.fold_limit)
    for name in (*card.routed, *card.shared):
        bank.add_adapter(name, Adapter(peft_configs[name], card.layers[name]), always_on=name in card.shared)
    bank.set_dropout(max((expert.adapter.dropout for expert in bank.adapters.values()), default=0.0))
    domains = [domain.to_domain() for domain in card.domains]
    labels, width = LabelSpace.from_domains(domains), backbone.model.config.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(card.seed)
        gate = Gate(width, [domain.group for domain in domains for _ in domain.expert_names], card.gate)
    heads = build_heads(card, labels, width)
    pooling, routing = card.backbone_settings.pooling, card.routing.choice if card.routing else "soft"
    model = Mixture(backbone, bank, gate, heads, domains, labels, pooling, routing=routing)
    if card.backbone_settings.quantization == "none":
        return model.to(backbone.model.device)
    move_trained_parts(model)
    return model


def move_trained_parts(model: Mixture) -> None:
    """Move heads, router and buffers to the backbone's device; quantized weights cannot be moved."""
    device = model.backbone.device
    for part in (model.heads, model.gate):
        if isinstance(part, nn.Module):
            part.to(device)
    model.special_token_ids = model.special_token_ids.to(device)
    model.domain_expert_mask = model.domain_expert_mask.to(device)


def build_heads(card: MixtureCard, labels: LabelSpace, width: int) -> Heads | MixedHeads | NoHeads:
    """Build fresh heads: one set, or one set per expert; none for a language model."""
    if card.language:
        return NoHeads()

    def build() -> Heads:
        return Heads(width, labels.heads, card.heads, card.polarity, seed=card.seed)

    return build() if card.heads.merge == "averaged" else MixedHeads({name: build() for name in card.routed})


def write_mixture(
    folder: Path,
    model: Mixture,
    card: MixtureCard,
    config: str,
    metrics: Mapping[str, object],
    overwrite: bool = False,
    readme: str | None = None,
    earlier: Mapping[str, EarlierRouter] | None = None,
) -> None:
    """Write a mixture's folder atomically. It holds no weight of the backbone.

    Args:
        config: the resolved config, as YAML.
        metrics: content of `metrics.json`.
        readme: text of the model card for people; by default, a short one from the card.
        earlier: by expert that joined the mixture, the router before it, to be kept for its removal.

    Raises:
        Fault: if the folder exists and `overwrite` is false, or cannot be written.
    """
    assert model.gate is not None
    routers = earlier or {}
    card = card.model_copy(update={"earlier_routers": {name: router.experts for name, router in routers.items()}})
    with atomic_folder(folder, overwrite) as temporary:
        for name, expert in model.bank.adapters.items():
            write_adapter(temporary / EXPERTS / name, expert.adapter, model.bank.peft_state_dict(name))
        save_tensors(temporary / ROUTER, model.gate.state_dict())
        save_tensors(temporary / HEADS, model.heads.state_dict())
        for name, router in routers.items():
            path = temporary / earlier_router_file(name)
            path.parent.mkdir(exist_ok=True)
            save_tensors(path, router.tensors)
        write_json(temporary / CARD, card.model_dump(mode="json"))
        write_json(temporary / METRICS, dict(metrics))
        write_text(temporary / CONFIG, config)
        write_text(temporary / README, readme or _readme(card))


def earlier_router_file(name: str) -> str:
    """Return the file, in a mixture's folder, of the router before an expert joined it."""
    return f"{EARLIER}/{name}.safetensors"


def read_earlier_routers(folder: Path, card: MixtureCard) -> dict[str, EarlierRouter]:
    """Read the routers that a mixture had before experts joined it, by expert."""
    return {
        name: EarlierRouter(experts, load_tensors(folder / earlier_router_file(name)))
        for name, experts in card.earlier_routers.items()
    }


def read_card(folder: Path) -> MixtureCard:
    """Check a mixture's files against its manifest and read its card, without loading weights.

    Raises:
        Fault: if a file is missing, unlisted, unreadable, changed or incomplete, or the format is newer.
    """
    restore_folder(folder)
    with read_errors_as_faults(folder):
        if folder.is_dir() and (folder / "expert.json").is_file():
            raise Fault(f"a mixture folder at {folder}", "a single expert", "merge it first: moe merge")
    if (first := next(mixture_faults(folder), None)) is not None:
        raise first
    return parse_mixture_card(folder)


def mixture_faults(folder: Path) -> Iterator[Fault]:
    """Yield why a mixture's files do not match its manifest, and which files of its experts that does not list."""
    intact = True
    for fault in manifest_faults(folder, "a mixture", MIXTURE_FILES):
        intact = False
        yield fault
    if intact:
        try:
            card = parse_mixture_card(folder)
        except Fault as fault:
            yield fault
        else:
            earlier = [earlier_router_file(name) for name in card.earlier_routers]
            yield from unlisted_faults(folder, [*adapter_files((*card.routed, *card.shared)), *earlier])


def parse_mixture_card(folder: Path) -> MixtureCard:
    """Read a mixture's card only.

    Raises:
        Fault: if it is broken or of a different format.
    """
    return read_record(folder / CARD, MixtureCard, FORMAT, "mixture card", "write the folder again")


def mixture_digest(folder: Path) -> str:
    """Return a hash of a mixture's weights: experts, router and heads, as its manifest lists them.

    Raises:
        Fault: if the manifest is missing or broken.
    """
    hashes = read_manifest(folder)
    if isinstance(hashes, Fault):
        raise hashes
    weights = {name: sha256 for name, sha256 in hashes.items() if name in (ROUTER, HEADS) or _is_adapter(name)}
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()


def _is_adapter(name: str) -> bool:
    return name.startswith("experts/") and name.endswith(".safetensors")


def read_mixture(folder: Path, backbone: Backbone | None = None) -> tuple[Mixture, MixtureCard]:
    """Load a mixture strictly, together with its backbone, whose hash is checked.

    Args:
        backbone: a loaded backbone without experts, to use instead of loading it by name.

    Raises:
        Fault: if anything is missing, changed or unexpected, or the backbone differs.
    """
    card = read_card(folder)
    check_same_backbone(
        card.backbone, backbone.id if backbone else identify_backbone(card.backbone_settings), str(folder)
    )
    names = (*card.routed, *card.shared)
    adapters = {name: read_adapter(folder / EXPERTS / name) for name in names}
    backbone = backbone or load_backbone(card.backbone_settings, lm_head=card.language)
    model = build_mixture(card, backbone, {name: content for name, (content, _) in adapters.items()})
    for name, (_, weights) in adapters.items():
        model.bank.load_adapter(name, weights)
    assert model.gate is not None
    load_strictly(model.gate, load_tensors(folder / ROUTER), folder / ROUTER)
    load_strictly(model.heads, load_tensors(folder / HEADS), folder / HEADS)
    return model.eval(), card


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load tensors into a module that has exactly these names and shapes.

    Raises:
        Fault: if one is missing, unexpected or of a different shape.
    """
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise Fault(
            f"tensors in {source} that fit the model", reason, "write the folder again with this version of finmoe"
        ) from error


def check_same_backbone(expected: BackboneId, actual: BackboneId, what: str) -> None:
    """Check that weights were trained on this backbone.

    Args:
        expected: the backbone that they were trained on.
        actual: the backbone at hand.
        what: name of the weights in the message.

    Raises:
        Fault: if the hashes of the two backbones differ.
    """
    if expected.sha256 != actual.sha256:
        raise Fault(
            f"the backbone {expected.name!r} with weights {expected.sha256[:12]}… for {what}",
            f"{actual.name!r} with weights {actual.sha256[:12]}…",
            "use the backbone it was trained on, or train it again on this one",
        )


def _readme(card: MixtureCard) -> str:
    def labels_of(domain: DomainCard) -> str:
        return "; ".join(", ".join(labels) or "a score" for labels in domain.tasks.values())

    rows = "\n".join(
        f"| `{domain.name}` | {', '.join(domain.experts)} | {labels_of(domain)} |" for domain in card.domains
    )
    metrics = "\n".join(f"| {name} | {value:.4f} |" for name, value in card.metrics.items())
    shared: Sequence[str] = card.shared
    return f"""# Mixture of domain experts ({card.stage})

LoRA experts on a frozen `{without_folders(card.backbone.name)}` (weights sha256 `{card.backbone.sha256}`),
mixed by a {card.gate.kind} router that reads the state after layer {card.backbone_settings.trunk_depth}.
{"Always on: " + ", ".join(shared) + "." if shared else ""}
{card.routing.sentence if card.routing else ""}

| domain | experts | labels |
|---|---|---|
{rows}

| validation | |
|---|---|
{metrics}

`moe infer --model FOLDER "text"` needs only this folder and the backbone. Every folder in `experts/` is a plain PEFT
adapter.
"""

"""`moe verify`: is a folder whole, and is it what it says; every fault of every folder below it at once.

What a manifest holds is `experts.atomic_io`', what a card says `experts.expert_io`'s and `moe.checkpoints.mixture`'s.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experts.adapter_bank import PREFIX
from experts.atomic_io import MANIFEST, read_manifest, manifest_faults
from experts.domain import LabelSpace
from experts.errors import Fault
from experts.expert_io import ADAPTER_CONFIG, BackboneId, read_expert_card, read_adapter
from experts.expert_io import CARD as EXPERT_CARD
from experts.expert_io import HEADS as EXPERT_HEADS
from experts.lora import LoraSpec
from experts.safetensors_io import load_tensors
from moe.checkpoints.mixture import CARD, HEADS, ROUTER, build_heads, load_strictly, parse_mixture_card
from moe.checkpoints.mixture import refuse_other_backbone as refuse_other
from moe.checkpoints.mixture_card import MixtureCard
from moe.drift.reference import DRIFT, TENSORS
from moe.inference.calibration import CALIBRATION
from moe.model.backbone import BackboneSettings, identify_backbone, read_backbone_config
from router.gate import Gate

KIND_BY_FILE = {EXPERT_CARD: "expert", CARD: "mixture", ADAPTER_CONFIG: "adapter", MANIFEST: "folder"}
"""By which file a folder is known, the first that is there."""


@dataclass
class FolderCheck:
    """What was found of one folder.

    Args:
        folder: it.
        kind: expert, mixture, a plain PEFT adapter, or another folder with a manifest.
        files: how many its manifest lists.
        faults: why it cannot be trusted, a sentence each.
        remarks: what cannot be told here, or lies there unlisted.
    """

    folder: Path
    kind: str
    files: int = 0
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def verify(folder: Path) -> dict[str, Any]:
    """Check a folder, or every expert and mixture below a run folder. Loads no backbone.

    Returns:
        `folders`: each with `folder`, `kind`, `files`, `faults`, `remarks`; and `faults`, how many there are.

    Raises:
        Fault: when there is nothing to check.
    """
    found = list(_folders(folder))
    if not found:
        raise Fault(
            f"an expert, a mixture or a run folder at {folder}",
            "none of them" if folder.is_dir() else "no such folder",
            "name a folder that moe train-expert, merge or train-router wrote",
        )
    checked = [_verified(*one) for one in found]
    told = [asdict(one) | {"folder": str(one.folder)} for one in checked]
    return {"folders": told, "faults": sum(len(one.faults) for one in checked)}


def _folders(top: Path) -> Iterator[tuple[Path, str]]:
    """The folders to check: the one named, or those two levels below it that are known by a mark."""
    if (kind := _kind(top)) is not None:
        yield top, kind
        return
    below = [top / "experts", top] if (top / "experts").is_dir() else [top]
    for place in below:
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if not path.name.startswith(".") and (kind := _kind(path)) is not None:
                yield path, kind


def _kind(folder: Path) -> str | None:
    return next((kind for mark, kind in KIND_BY_FILE.items() if (folder / mark).is_file()), None)


def _verified(folder: Path, kind: str) -> FolderCheck:
    found = FolderCheck(folder, kind)
    if kind == "adapter":
        found.remarks.append("a plain PEFT adapter: it has no manifest to be held against")
    else:
        found.faults += [str(fault) for fault in manifest_faults(folder, kind)]
        hashes = read_manifest(folder)
        if not isinstance(hashes, Fault):
            found.files = len(hashes)
            found.remarks += [f"{name} is not in the manifest" for name in _unlisted(folder, hashes)]
    for check in {"expert": _expert, "mixture": _mixture, "adapter": _adapter}.get(kind, lambda _: ())(folder):
        found.faults += [] if isinstance(check, Remark) else [str(check)]
        found.remarks += [check.text] if isinstance(check, Remark) else []
    found.faults = list(dict.fromkeys(found.faults))
    return found


@dataclass(frozen=True)
class Remark:
    """What is no fault."""

    text: str


def _unlisted(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(here - set(hashes) - {MANIFEST, CALIBRATION, DRIFT, TENSORS})


def _adapter(folder: Path) -> Iterator[Fault | Remark]:
    try:
        _, weights = read_adapter(folder)
    except Fault as fault:
        yield fault
    else:
        yield from _odd(folder, weights)


def _expert(folder: Path) -> Iterator[Fault | Remark]:
    try:
        card = read_expert_card(folder / EXPERT_CARD)
        _, weights = read_adapter(folder)
        heads = load_tensors(folder / EXPERT_HEADS)
    except Fault as fault:
        yield fault
        return
    yield from _odd(folder, {**weights, **heads})
    yield from _misfits(folder, weights, card.layers)
    yield from _backbone(card.backbone, BackboneSettings(name=card.backbone.name, revision=card.backbone.revision))


def _mixture(folder: Path) -> Iterator[Fault | Remark]:
    try:
        card = parse_mixture_card(folder)
    except Fault as fault:
        yield fault
        return
    for name in (*card.routed, *card.shared):
        place = folder / "experts" / name
        try:
            _, weights = read_adapter(place)
        except Fault as fault:
            yield fault
            continue
        yield from _odd(place, weights)
        yield from _misfits(place, weights, card.layers.get(name, {}))
    yield from _own_parts(folder, card)
    yield from _backbone(card.backbone, card.backbone_settings)


def _own_parts(folder: Path, card: MixtureCard) -> Iterator[Fault | Remark]:
    """Router and heads, laid into fresh ones."""
    try:
        width = int(read_backbone_config(card.backbone_settings).hidden_size)
    except Fault:
        yield Remark("router and heads were not laid into a model: the backbone is not on this machine")
        return
    domains = [one.to_domain() for one in card.domains]
    groups = [domain.group for domain in domains for _ in domain.expert_names]
    parts: dict[str, nn.Module] = {
        ROUTER: Gate(width, groups, card.gate),
        HEADS: build_heads(card, LabelSpace.from_domains(domains), width),
    }
    for name, module in parts.items():
        try:
            tensors = load_tensors(folder / name)
            load_strictly(module, tensors, folder / name)
        except Fault as fault:
            yield fault
        else:
            yield from _odd(folder / name, tensors)


def _odd(place: Path, tensors: Mapping[str, Tensor]) -> Iterator[Fault]:
    odd = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if odd:
        yield Fault(f"finite weights in {place}", f"NaN or infinity in {odd[0]}", "train it again with a lower rate")


def _misfits(place: Path, weights: Mapping[str, Tensor], layers: Mapping[str, LoraSpec]) -> Iterator[Fault]:
    """Layers that a card names and the file lacks, the other way round, or of another rank."""
    start = _start(weights, layers)
    ranks = {f"{start}{layer}.lora_{side}.weight": touch.rank for layer, touch in layers.items() for side in "AB"}
    again = "copy the whole folder again or train it again"
    yield from _named(place, ranks.keys() - weights.keys(), "the tensor", "none", again)
    yield from _named(place, weights.keys() - ranks.keys(), "no tensor", "one", again)
    for name in sorted(ranks.keys() & weights.keys()):
        found = weights[name].shape[0 if ".lora_A." in name else -1]
        if found != ranks[name]:
            yield Fault(f"rank {ranks[name]} in {name} of {place}", f"{found}", again)


def _start(weights: Iterable[str], layers: Iterable[str]) -> str:
    """What stands before a layer's name in this file: PEFT's prefix, and the head's own where a backbone has one."""
    ends = tuple(f"{layer}.lora_A.weight" for layer in layers)
    starts = {name.removesuffix(end) for name in weights for end in ends if name.endswith(f".{end}")}
    return min(starts, key=len, default=PREFIX)


def _named(place: Path, names: Iterable[str], expected: str, found: str, advice: str) -> Iterator[Fault]:
    for name in sorted(names):
        yield Fault(f"{expected} {name} in {place}", found, advice)


def _backbone(expected: BackboneId, settings: BackboneSettings) -> Iterator[Fault | Remark]:
    try:
        here = identify_backbone(settings)
    except Fault:
        yield Remark(f"the backbone {expected.name!r} is not on this machine: its hash was not compared")
        return
    try:
        refuse_other(expected, here, "these experts")
    except Fault as fault:
        yield fault

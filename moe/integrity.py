"""Integrity check of folders (`moe verify`): complete files, finite weights, cards and backbone that match them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text
from torch import Tensor, nn

from experts.adapter_bank import PREFIX
from experts.atomic_io import MANIFEST, manifest_faults, read_manifest
from experts.cards import EXPERT_CARD, EXPERT_FILES, EXPERTS
from experts.domain import LabelSpace
from experts.errors import Fault
from experts.expert_io import ADAPTER_CONFIG, BackboneId, read_adapter, read_expert_card
from experts.expert_io import HEADS as EXPERT_HEADS
from experts.lora import LoraSpec
from experts.reading import read_errors_as_faults
from experts.safetensors_io import check_finite, load_tensors
from moe.checkpoints.file_names import CARD, HEADS, ROUTER
from moe.checkpoints.mixture import (
    build_heads,
    check_same_backbone,
    load_strictly,
    mixture_faults,
    parse_mixture_card,
)
from moe.checkpoints.mixture_card import MixtureCard
from moe.drift.reference import DRIFT, TENSORS, read_reference
from moe.inference.calibration import CALIBRATION, read_calibration
from moe.inference.graph.session import check_graph
from moe.inference.graph.spec import GRAPH_FILES, GRAPH_FOLDER, INT8_FILE
from moe.model.backbone import BackboneSettings, identify_backbone, read_backbone_config
from router.gate import Gate

KIND_BY_FILE = {EXPERT_CARD: "expert", CARD: "mixture", ADAPTER_CONFIG: "adapter", MANIFEST: "folder"}
"""Kind of a folder by a file in it; the first file that exists decides."""


@dataclass(frozen=True)
class FolderCheck:
    """Result of checking one folder.

    Args:
        folder: its path.
        kind: `expert`, `mixture`, `adapter` (a plain PEFT adapter) or `folder` (another one with a manifest).
        files: number of files in its manifest.
        faults: reasons not to trust it, a sentence each.
        remarks: what could not be checked here, and files that are not in the manifest.
    """

    folder: str
    kind: str
    files: int
    faults: Sequence[str]
    remarks: Sequence[str]


@dataclass(frozen=True)
class Verification:
    """Result of checking a folder, or the folders of a run.

    Args:
        folders: result for each folder.
        faults: total number of their faults.
    """

    folders: Sequence[FolderCheck]
    faults: int


def verify(folder: Path) -> Verification:
    """Check a folder, or all experts and mixtures in a run folder, without loading a backbone.

    Raises:
        Fault: if there is nothing to check.
    """
    with read_errors_as_faults(folder):
        folders = list(_folders(folder))
    if not folders:
        raise Fault(
            f"an expert, a mixture or a run folder at {folder}",
            "none of them" if folder.is_dir() else "no such folder",
            "use a folder that moe train-expert, merge or train-router wrote",
        )
    with read_errors_as_faults(folder):
        checks = [_check_folder(path, kind) for path, kind in folders]
    return Verification(checks, faults=sum(len(check.faults) for check in checks))


def _folders(top: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders to check with their kinds: this one, or those in it and in its `experts`."""
    if (kind := _kind(top)) is not None:
        yield top, kind
        return
    below = [top / EXPERTS, top] if (top / EXPERTS).is_dir() else [top]
    for parent in below:
        for path in sorted(parent.iterdir()) if parent.is_dir() else ():
            if not path.name.startswith(".") and (kind := _kind(path)) is not None:
                yield path, kind


def _kind(folder: Path) -> str | None:
    return next((kind for file, kind in KIND_BY_FILE.items() if (folder / file).is_file()), None)


def _check_folder(folder: Path, kind: str) -> FolderCheck:
    files, faults, remarks = 0, list[str](), list[str]()
    if kind == "adapter":
        remarks.append("a plain PEFT adapter: it has no manifest to check against")
    else:
        faults += [str(fault) for fault in folder_faults(folder, kind)]
        hashes = read_manifest(folder)
        if not isinstance(hashes, Fault):
            files = len(hashes)
            remarks += [f"{name} is not in the manifest" for name in _unlisted(folder, hashes)]
    for result in {"expert": _expert, "mixture": _mixture, "adapter": _adapter}.get(kind, lambda _: ())(folder):
        faults += [] if isinstance(result, Remark) else [str(result)]
        remarks += [result.text] if isinstance(result, Remark) else []
    faults += [str(fault) for fault in _fitted_faults(folder)]
    if (folder / GRAPH_FOLDER).is_dir() and not faults:
        remarks += _graph_remarks(folder)
    return FolderCheck(str(folder), kind, files, list(dict.fromkeys(faults)), remarks)


def _fitted_faults(folder: Path) -> Iterator[Fault]:
    """Yield what is wrong with the calibration and the drift reference, which the manifest does not list."""
    for read, file in ((read_calibration, CALIBRATION), (read_reference, DRIFT)):
        try:
            if (folder / file).is_file():
                read(folder)
        except Fault as fault:
            yield fault


def folder_faults(folder: Path, kind: str) -> Iterator[Fault]:
    """Yield why the files of a folder of a kind do not match its manifest."""
    if kind == "mixture":
        return mixture_faults(folder)
    if kind == "expert":
        return manifest_faults(folder, "an expert", EXPERT_FILES)
    return manifest_faults(folder, f"a {kind}")


def _graph_remarks(folder: Path) -> list[str]:
    """Return why the graph of an intact model is not used, if it is not."""
    try:
        check_graph(folder)
    except Fault as fault:
        return [f"PyTorch predicts instead of the graph: {fault}"]
    return []


@dataclass(frozen=True)
class Remark:
    """A finding that is not a fault."""

    text: str


def _unlisted(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    known = {MANIFEST, CALIBRATION, DRIFT, TENSORS, *GRAPH_FILES}
    known |= {f"{GRAPH_FOLDER}/{name}" for name in (MANIFEST, INT8_FILE)}
    return sorted(files - set(hashes) - known)


def _adapter(folder: Path) -> Iterator[Fault | Remark]:
    try:
        _, weights = read_adapter(folder, finite=False)
    except Fault as fault:
        yield fault
    else:
        yield from _non_finite(folder, weights)


def _expert(folder: Path) -> Iterator[Fault | Remark]:
    try:
        card = read_expert_card(folder / EXPERT_CARD)
        _, weights = read_adapter(folder, finite=False)
        heads = load_tensors(folder / EXPERT_HEADS, finite=False)
    except Fault as fault:
        yield fault
        return
    yield from _non_finite(folder, {**weights, **heads})
    yield from _layer_faults(folder, weights, card.layers)
    yield from _backbone(card.backbone, BackboneSettings(name=card.backbone.name, revision=card.backbone.revision))


def _mixture(folder: Path) -> Iterator[Fault | Remark]:
    try:
        card = parse_mixture_card(folder)
    except Fault as fault:
        yield fault
        return
    for name in (*card.routed, *card.shared):
        path = folder / EXPERTS / name
        try:
            _, weights = read_adapter(path, finite=False)
        except Fault as fault:
            yield fault
            continue
        yield from _non_finite(path, weights)
        yield from _layer_faults(path, weights, card.layers.get(name, {}))
    yield from _router_and_heads(folder, card)
    yield from _backbone(card.backbone, card.backbone_settings)


def _router_and_heads(folder: Path, card: MixtureCard) -> Iterator[Fault | Remark]:
    """Load router and heads into fresh modules."""
    try:
        width = int(read_backbone_config(card.backbone_settings).hidden_size)
    except Fault:
        yield Remark("router and heads were not loaded into a model: the backbone is not on this machine")
        return
    domains = [domain.to_domain() for domain in card.domains]
    groups = [domain.group for domain in domains for _ in domain.expert_names]
    parts: dict[str, nn.Module] = {
        ROUTER: Gate(width, groups, card.gate),
        HEADS: build_heads(card, LabelSpace.from_domains(domains), width),
    }
    for name, module in parts.items():
        try:
            tensors = load_tensors(folder / name, finite=False)
            load_strictly(module, tensors, folder / name)
        except Fault as fault:
            yield fault
        else:
            yield from _non_finite(folder / name, tensors)


def _non_finite(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[Fault]:
    try:
        check_finite(tensors, path)
    except Fault as fault:
        yield fault


def _layer_faults(path: Path, weights: Mapping[str, Tensor], layers: Mapping[str, LoraSpec]) -> Iterator[Fault]:
    """Yield layers of the card that the file lacks, layers of the file that the card lacks, and wrong ranks."""
    prefix = _key_prefix(weights, layers)
    ranks = {f"{prefix}{layer}.lora_{side}.weight": spec.rank for layer, spec in layers.items() for side in "AB"}
    remedy = "copy the entire folder again, or train it again"
    for name in sorted(ranks.keys() - weights.keys()):
        yield Fault(f"the tensor {name} in {path}", "none", remedy)
    for name in sorted(weights.keys() - ranks.keys()):
        yield Fault(f"no tensor {name} in {path}", "one", remedy)
    for name in sorted(ranks.keys() & weights.keys()):
        rank = weights[name].shape[0 if ".lora_A." in name else -1]
        if rank != ranks[name]:
            yield Fault(f"rank {ranks[name]} in {name} of {path}", f"{rank}", remedy)


def _key_prefix(weights: Iterable[str], layers: Iterable[str]) -> str:
    """Return the part of this file's keys before a layer's name: PEFT's prefix, and the base model's with a head."""
    suffixes = tuple(f"{layer}.lora_A.weight" for layer in layers)
    prefixes = {name.removesuffix(end) for name in weights for end in suffixes if name.endswith(f".{end}")}
    return min(prefixes, key=len, default=PREFIX)


def _backbone(expected: BackboneId, settings: BackboneSettings) -> Iterator[Fault | Remark]:
    try:
        actual = identify_backbone(settings)
    except Fault:
        yield Remark(f"the backbone {expected.name!r} is not on this machine: its hash was not compared")
        return
    try:
        check_same_backbone(expected, actual, "these experts")
    except Fault as fault:
        yield fault


def verify_view(verification: Verification) -> RenderableType:
    """Output of `moe verify`: a line per folder, with its faults and remarks below."""
    lines: list[RenderableType] = []
    for check in verification.folders:
        status = "[red]damaged[/red]" if check.faults else "[green]intact[/green]"
        lines.append(Text.from_markup(f"{status}  {escape(check.folder)}, {check.kind}, {check.files} files"))
        lines += [Text(f"  {fault}", style="red") for fault in check.faults]
        lines += [Text(f"  {remark}", style="dim") for remark in check.remarks]
    return Group(*lines)

"""Expert folders: PEFT's two adapter files, the heads and the card, and checks of an expert before it is merged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor

from experts.adapter_settings import check_adapter_settings
from experts.atomic_io import (
    MANIFEST,
    atomic_folder,
    check_manifest,
    read_json,
    read_manifest,
    restore_folder,
    sha256_of,
    write_json,
    write_text,
)
from experts.cards import (
    ADAPTER,
    ADAPTER_CONFIG,
    CONFIG,
    EXPERT_CARD,
    EXPERT_FILES,
    HEADS,
    METRICS,
    PROTOTYPES,
    README,
    read_record,
    without_folders,
)
from experts.domain import Kind
from experts.errors import Fault
from experts.lora import Adapter, LoraSpec, PeftConfig
from experts.reading import read_errors_as_faults
from experts.safetensors_io import load_tensors, save_tensors

__all__ = [
    "ADAPTER",
    "ADAPTER_CONFIG",
    "CARD",
    "CONFIG",
    "HEADS",
    "METRICS",
    "PROTOTYPES",
    "README",
    "BackboneId",
    "ExpertCard",
    "ExpertFolder",
    "InitOrigin",
    "check_distinct",
    "check_trained",
    "read_adapter",
    "read_expert",
    "read_expert_card",
    "write_adapter",
    "write_expert",
]

CARD = EXPERT_CARD
FORMAT = 2


class BackboneId(BaseModel):
    """The backbone that an expert was trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="hub name, folder, or `default` for the bundled one")
    revision: str | None = Field(None, description="hub commit, if any")
    sha256: str = Field(description="SHA-256 of its weight files")


class InitOrigin(BaseModel):
    """The trained expert that a shared expert started from, or the average that a domain's expert started from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="the value of `shared.init`, or the mixture and its experts that were averaged")
    sha256: str = Field(description="SHA-256 of its adapter file; of an average, the hash of the mixture's weights")
    mixture: str | None = Field(None, description="SHA-256 of the manifest of the mixture that it is part of")
    data_sha256: dict[str, str] = Field({}, description="SHA-256 of the data files that it was trained on, by task")
    steps: int | None = Field(None, description="optimizer steps of its training, if known")
    frozen: bool = Field(False, description="whether no stage has trained it since")


class ExpertCard(BaseModel):
    """Metadata of an expert (`expert.json`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    name: str
    domain: str
    role: str
    backbone: BackboneId
    trunk_depth: int = Field(
        description="number of first layers without experts; the router reads the states after them"
    )
    pooling: str
    template: str
    max_length: int
    tasks: dict[str, tuple[str, ...]] = Field(description="label names of the tasks it was trained on")
    target_tasks: tuple[str, ...] = Field((), description="those of its tasks whose rows name a target")
    kinds: dict[str, Kind] = Field({}, description="kind of each task that is not of the kind `classes`")
    heads: dict[str, tuple[str, ...]] = Field(description="label names by class head, in the order of the logits")
    layers: dict[str, LoraSpec] = Field(description="rank and scaling of every adapted layer")
    head_kind: str
    polarity: bool = Field(description="whether a polarity head was trained")
    language: bool = Field(
        False, description="whether it was trained on plain text with the language-model head, without labels"
    )
    shared: str | None = Field(None, description="SHA-256 of the shared adapter that it was trained on top of")
    always_on: bool = Field(False, description="whether this is the shared expert")
    init: InitOrigin | None = Field(None, description="the trained expert that it started from; none for a fresh one")
    data_sha256: dict[str, str] = Field(description="SHA-256 of the data file of each task")
    seed: int
    steps: int
    kept_start: bool = Field(
        False, description="whether no evaluation was better than the start, whose weights it has therefore kept"
    )
    metrics: dict[str, float] = Field(description="best validation metrics")
    versions: dict[str, str]

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `kinds` without any, so that earlier releases read the card."""
        card: dict[str, Any] = serialize(self)
        return card if self.kinds else {name: value for name, value in card.items() if name != "kinds"}


@dataclass(frozen=True)
class ExpertFolder:
    """An expert loaded from disk.

    Args:
        path: its folder.
        peft_config: the content of `adapter_config.json`.
        weights: the adapter's tensors under PEFT's keys.
        heads: tensors of its class and polarity heads; empty for a plain PEFT adapter.
        card: its metadata; None for a plain PEFT adapter.
        prototypes: statistics of its training states, from which a router can start; empty if the folder has none.
    """

    path: Path
    peft_config: PeftConfig
    weights: dict[str, Tensor]
    heads: dict[str, Tensor]
    card: ExpertCard | None
    prototypes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name on the card, or the folder's name for a plain PEFT adapter."""
        return self.card.name if self.card else self.path.name

    @property
    def has_head_bias(self) -> bool | None:
        """Whether its class heads have a bias; None without class heads."""
        classes = [name for name in self.heads if name.startswith("classes.")]
        return any(name.endswith(".bias") for name in classes) if classes else None

    @property
    def digest(self) -> str:
        """SHA-256 of the adapter's weight file."""
        return sha256_of(self.path / ADAPTER)


def write_expert(
    folder: Path,
    card: ExpertCard,
    adapter: Adapter,
    weights: Mapping[str, Tensor],
    heads: Mapping[str, Tensor],
    config: str,
    metrics: Mapping[str, object],
    overwrite: bool = False,
    prototypes: Mapping[str, Tensor] | None = None,
) -> None:
    """Write an expert's folder atomically.

    Args:
        folder: the folder to create.
        card: the expert's metadata.
        adapter: its adapter, whose PEFT config is written.
        weights: its tensors under PEFT's keys, as `ExpertBank.adapter_parameters` returns them.
        heads: tensors of its class and polarity heads.
        config: the resolved config of the run as YAML.
        metrics: all metrics measured in training.
        overwrite: replace the folder if it exists.
        prototypes: statistics of its training states; None writes no file.

    Raises:
        Fault: if the folder exists and `overwrite` is false, or if it cannot be written.
    """
    with atomic_folder(folder, overwrite) as temporary:
        if prototypes is not None:
            save_tensors(temporary / PROTOTYPES, prototypes)
        write_adapter(temporary, adapter, weights)
        save_tensors(temporary / HEADS, heads)
        write_json(temporary / CARD, card.model_dump(mode="json"))
        write_json(temporary / METRICS, dict(metrics))
        write_text(temporary / CONFIG, config)
        write_text(temporary / README, _readme(card))


def write_adapter(folder: Path, adapter: Adapter, weights: Mapping[str, Tensor]) -> None:
    """Write PEFT's two files, which `PeftModel.from_pretrained(backbone, folder)` loads; no path of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / ADAPTER, weights)
    backbone = adapter.peft_config.get("base_model_name_or_path")
    portable = {"base_model_name_or_path": without_folders(backbone)} if isinstance(backbone, str) else {}
    write_json(folder / ADAPTER_CONFIG, adapter.peft_config | portable)


def read_adapter(folder: Path, finite: bool = True) -> tuple[PeftConfig, dict[str, Tensor]]:
    """Read PEFT's two files.

    Args:
        folder: that holds them.
        finite: refuse weights that are NaN or infinite.

    Returns:
        the content of `adapter_config.json`, and the weights.

    Raises:
        Fault: if one of them is missing or broken, if the adapter is not a plain LoRA, or a weight is not finite.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    check_adapter_settings(config, folder)
    if not (folder / ADAPTER).is_file() and (folder / "adapter_model.bin").is_file():
        raise Fault(f"{ADAPTER} in {folder}", "adapter_model.bin (pickle)", "save it again as safetensors with PEFT")
    return config, load_tensors(folder / ADAPTER, finite)


def read_expert(folder: Path) -> ExpertFolder:
    """Load an expert folder, checked against its manifest, or a plain PEFT adapter.

    Raises:
        Fault: if a file is missing, unlisted, unreadable, changed, incomplete or of a newer format, if a weight is not
            finite, or if the adapter is not a plain LoRA.
    """
    restore_folder(folder)
    with read_errors_as_faults(folder):
        if not folder.is_dir():
            raise Fault(f"an expert folder at {folder}", "no such folder", "train it first or choose another one")
        if not (folder / CARD).is_file() and not (folder / MANIFEST).is_file():
            config, weights = read_adapter(folder)
            return ExpertFolder(folder, config, weights, heads={}, card=None)
    check_manifest(folder, "an expert", EXPERT_FILES)
    card = read_expert_card(folder / CARD)
    config, weights = read_adapter(folder)
    hashes = read_manifest(folder)
    listed = isinstance(hashes, dict) and PROTOTYPES in hashes
    prototypes = load_tensors(folder / PROTOTYPES) if listed else {}
    return ExpertFolder(folder, config, weights, load_tensors(folder / HEADS), card, prototypes)


def read_expert_card(path: Path) -> ExpertCard:
    """Read an expert's card.

    Raises:
        Fault: if it is invalid or of another format version.
    """
    return read_record(path, ExpertCard, FORMAT, "expert card", "train the expert again")


def check_trained(expert: ExpertFolder) -> None:
    """Check that an adapter was trained: B is not zero everywhere.

    B may be zero if the expert kept its start, so that it computes what its shared expert computes.

    Raises:
        Fault: if it is untrained.
    """
    lora_b = [tensor for key, tensor in expert.weights.items() if ".lora_B" in key]
    if not any(tensor.any() for tensor in lora_b) and not (expert.card and expert.card.kept_start):
        raise Fault(f"a trained expert in {expert.path}", "an untrained one (B = 0)", "train it first")


def check_distinct(first: ExpertFolder, second: ExpertFolder) -> None:
    """Check that two experts have different weights, since a router cannot learn to distinguish equal ones.

    Experts that kept their start may be equal.

    Raises:
        Fault: if all tensors are equal.
    """
    if any(expert.card is not None and expert.card.kept_start for expert in (first, second)):
        return
    equal = first.weights.keys() == second.weights.keys() and all(
        torch.equal(tensor, second.weights[key]) for key, tensor in first.weights.items()
    )
    if equal:
        raise Fault(
            "experts with different weights",
            f"the same weights in {first.path} and {second.path}",
            "remove one of them, or train it again with another seed or other rows",
        )


def _readme(card: ExpertCard) -> str:
    notes = {task: f" ({kind})" for task, kind in card.kinds.items()}
    notes |= {task: f"{notes.get(task, '')}, for a target in the text" for task in card.target_tasks}
    tasks = "\n".join(
        f"- `{task}`: {', '.join(labels) or 'no labels'}{notes.get(task, '')}" for task, labels in card.tasks.items()
    )
    metrics = "\n".join(f"| {name} | {value:.4f} |" for name, value in card.metrics.items())
    return f"""---
library_name: peft
base_model: {without_folders(card.backbone.name)}
tags: [lora, finance, finmoe]
---
# Expert `{card.name}`

A LoRA expert for the domain `{card.domain}`, trained on a frozen `{without_folders(card.backbone.name)}`
(weights sha256 `{card.backbone.sha256}`), no adapter in its first {card.trunk_depth} layers.
{"It was trained on top of a shared expert and requires it." if card.shared else ""}
Tasks:

{tasks}

| best validation | |
|---|---|
{metrics}

`PeftModel.from_pretrained(backbone, folder)` loads the adapter; `{HEADS}` contains its heads, `{CONFIG}` the
resolved settings and `{MANIFEST}` the hash of every file.
"""

"""One expert on disk: PEFT's two files, our heads, its card, and the checks that let it join others.

Training one is `moe.training.trainer`'s, laying several beside one backbone is `moe.merging.merge`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from experts.atomic_io import MANIFEST, check_manifest, read_json, sha256_of, atomic_folder, write_json, write_text
from experts.cards import read_record
from experts.errors import Fault
from experts.lora import Adapter, LoraSpec
from experts.safetensors_io import load_tensors, save_tensors

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
HEADS, CARD, CONFIG, METRICS, README = "heads.safetensors", "expert.json", "config.yaml", "metrics.json", "README.md"
FORMAT = 2


class BackboneId(BaseModel):
    """Which backbone an expert was trained beside."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="hub name, folder, or `default` for the shipped one")
    revision: str | None = Field(None, description="hub commit, where there is one")
    sha256: str = Field(description="SHA-256 over its weight files")


class ExpertCard(BaseModel):
    """What an expert says of itself (`expert.json`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    name: str
    domain: str
    role: str
    backbone: BackboneId
    trunk_depth: int = Field(description="first layers without expert; the router reads the state after them")
    pooling: str
    template: str
    max_length: int
    tasks: dict[str, tuple[str, ...]] = Field(description="label names by task it was trained on")
    heads: dict[str, tuple[str, ...]] = Field(description="label names by class head, in the order of the logits")
    layers: dict[str, LoraSpec] = Field(description="rank and scaling of every layer that its adapter touches")
    head_kind: str
    polarity: bool = Field(description="whether a polarity head was trained")
    language: bool = Field(False, description="whether it learned plain text by the backbone's own head, and no labels")
    shared: str | None = Field(None, description="SHA-256 of the shared adapter it was trained on top of")
    always_on: bool = Field(False, description="whether it is itself the shared expert")
    data_sha256: dict[str, str] = Field(description="SHA-256 of the file of each task")
    seed: int
    steps: int
    metrics: dict[str, float] = Field(description="best validation metrics")
    versions: dict[str, str]


@dataclass(frozen=True)
class ExpertFolder:
    """One expert read from disk; `content` is PEFT's config. A plain PEFT adapter has neither `card` nor `heads`."""

    path: Path
    content: dict[str, Any]
    weights: dict[str, Tensor]
    heads: dict[str, Tensor]
    card: ExpertCard | None

    @property
    def name(self) -> str:
        """The card's name, or the folder's for a plain adapter."""
        return self.card.name if self.card else self.path.name

    @property
    def digest(self) -> str:
        """SHA-256 of the adapter's file."""
        return sha256_of(self.path / ADAPTER)


def write_expert(
    folder: Path,
    card: ExpertCard,
    adapter: Adapter,
    weights: Mapping[str, Tensor],
    heads: Mapping[str, Tensor],
    resolved: str,
    metrics: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write one expert's folder, whole or not at all.

    Args:
        weights: tensors under PEFT's keys, as `ExpertBank.parameters_of` gives them.
        heads: tensors of its class and polarity heads.
        resolved: the resolved config as YAML.
        metrics: all that was measured.

    Raises:
        Fault: when the folder exists and `overwrite` is false, or cannot be written.
    """
    with atomic_folder(folder, overwrite) as temporary:
        write_adapter(temporary, adapter, weights)
        save_tensors(temporary / HEADS, heads)
        write_json(temporary / CARD, card.model_dump(mode="json"))
        write_json(temporary / METRICS, dict(metrics))
        write_text(temporary / CONFIG, resolved)
        write_text(temporary / README, _readme(card))


def write_adapter(folder: Path, adapter: Adapter, weights: Mapping[str, Tensor]) -> None:
    """Write PEFT's two files, so that `PeftModel.from_pretrained(backbone, folder)` loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / ADAPTER, weights)
    write_json(folder / ADAPTER_CONFIG, adapter.peft_config)


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read PEFT's two files: its config's JSON, and the weights.

    Raises:
        Fault: when one is missing or broken, or the adapter is no LoRA.
    """
    content = read_json(folder / ADAPTER_CONFIG)
    if content.get("peft_type") != "LORA":
        raise Fault(f"a LoRA adapter in {folder}", f"peft_type {content.get('peft_type')!r}", "use a LoRA adapter")
    if not (folder / ADAPTER).is_file() and (folder / "adapter_model.bin").is_file():
        raise Fault(f"{ADAPTER} in {folder}", "adapter_model.bin (pickle)", "save it again as safetensors with PEFT")
    return content, load_tensors(folder / ADAPTER)


def read_expert(folder: Path) -> ExpertFolder:
    """Read an expert, ours (held against its manifest) or a plain PEFT adapter.

    Raises:
        Fault: when a file is missing, changed, half-written, of a newer format, or no LoRA.
    """
    if not folder.is_dir():
        raise Fault(f"an expert folder at {folder}", "no such folder", "train it first or name another")
    if not (folder / CARD).is_file() and not (folder / MANIFEST).is_file():
        content, weights = read_adapter(folder)
        return ExpertFolder(folder, content, weights, {}, None)
    check_manifest(folder, "an expert")
    card = read_expert_card(folder / CARD)
    content, weights = read_adapter(folder)
    return ExpertFolder(folder, content, weights, load_tensors(folder / HEADS), card)


def read_expert_card(path: Path) -> ExpertCard:
    """Read an expert's card.

    Raises:
        Fault: when it is broken or of another format.
    """
    return read_record(path, ExpertCard, FORMAT, "expert card", "train the expert again")


def check_trained(expert: ExpertFolder) -> None:
    """Refuse an adapter whose B is all zero: it changes nothing.

    Raises:
        Fault: when it is untrained or not finite.
    """
    updates = [tensor for key, tensor in expert.weights.items() if ".lora_B" in key]
    if not all(torch.isfinite(tensor).all() for tensor in expert.weights.values()):
        raise Fault(f"finite weights in {expert.path}", "NaN or infinity", "train it again with a lower rate")
    if not any(tensor.any() for tensor in updates):
        raise Fault(f"a trained expert in {expert.path}", "an untrained one (B = 0)", "train it first")


def check_distinct(first: ExpertFolder, second: ExpertFolder) -> None:
    """Refuse two experts with the same weights: the router could not tell them apart.

    Raises:
        Fault: when all tensors are equal.
    """
    same = first.weights.keys() == second.weights.keys() and all(
        torch.equal(tensor, second.weights[key]) for key, tensor in first.weights.items()
    )
    if same:
        raise Fault(
            "experts that differ",
            f"the same weights in {first.path} and {second.path}",
            "drop one, or train it from another seed or on other rows",
        )


def _readme(card: ExpertCard) -> str:
    tasks = "\n".join(f"- `{task}`: {', '.join(labels)}" for task, labels in card.tasks.items())
    metrics = "\n".join(f"| {name} | {value:.4f} |" for name, value in card.metrics.items())
    return f"""---
library_name: peft
base_model: {card.backbone.name}
tags: [lora, finance, finmoe]
---
# Expert `{card.name}`

A LoRA expert for the domain `{card.domain}`, trained beside a frozen `{card.backbone.name}`
(weights sha256 `{card.backbone.sha256}`), no adapter in its first {card.trunk_depth} layers.
{"It was trained on top of a shared expert and needs it." if card.shared else ""}
Tasks:

{tasks}

| best validation | |
|---|---|
{metrics}

`PeftModel.from_pretrained(backbone, folder)` loads the adapter; `{HEADS}` holds its heads, `{CONFIG}` the
resolved settings, `{MANIFEST}` the hash of every file.
"""

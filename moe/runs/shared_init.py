"""The trained expert that a run's shared expert starts from (`shared.init`): finding, reading and checking it.

Everything is checked without the backbone's weights: the adapter is attached to a backbone without storage.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoModel

from experts.adapter import read_adapter_config
from experts.adapter_bank import ExpertBank
from experts.atomic_io import MANIFEST, sha256_of
from experts.cards import EXPERTS, without_folders
from experts.domain import Labels, LabelSpace, has_labels, head_kind
from experts.errors import Fault
from experts.expert_io import ADAPTER, BackboneId, ExpertFolder, InitOrigin, check_trained, read_adapter, read_expert
from experts.expert_io import CARD as EXPERT_CARD
from experts.lora import Adapter
from experts.safetensors_io import load_tensors
from moe.checkpoints.expert import SHARED_NAME
from moe.checkpoints.file_names import CARD, HEADS
from moe.checkpoints.mixture import read_card
from moe.checkpoints.mixture_card import MixtureCard
from moe.config.messages import ConfigFault
from moe.config.run import RunSettings
from moe.model.backbone import identify_backbone, read_backbone_config
from moe.model.heads import Heads, head_key
from moe.model.mixture import Mixture
from moe.runs.model_ref import names_ready, ready_folder

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FILES = ("*.json", "*.safetensors", "*.yaml", "*.md", "LICENSE")
"""Files of a model on the Hub that are downloaded."""


@dataclass(frozen=True)
class TrainedExpert:
    """A trained expert as it was read, before it is compared with a run.

    Args:
        expert: its adapter; `heads` has one set of heads, without those of single experts.
        origin: where it comes from, for the card.
        labels: label names by head.
        backbone: the backbone that it was trained on; None for a plain PEFT adapter, which does not record it.
        settings: settings that the run must share, by key of the config.
    """

    expert: ExpertFolder
    origin: InitOrigin
    labels: Mapping[str, Labels] = field(default_factory=dict)
    backbone: BackboneId | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class SharedInit:
    """A trained expert to start from.

    Args:
        expert: its adapter; `heads` has one set of heads, without those of single experts.
        origin: where it comes from, for the card.
        labels: label names by head.
        adapter: the adapter on the layers of the run's backbone.
    """

    expert: ExpertFolder
    origin: InitOrigin
    labels: Mapping[str, Labels]
    adapter: Adapter

    def heads_for(self, space: LabelSpace, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of heads: trained ones as far as their labels are known, else fresh ones.

        A head starts from a trained head of its kind that has all of its labels, with the rows in its own order.

        Args:
            space: the run's label space.
            fresh: state dict of `Heads` with newly initialized weights.
        """
        state = dict(fresh)
        for head, labels in space.heads.items():
            kind = head_kind(head, labels)
            of_kind = {name: known for name, known in self.labels.items() if head_kind(name, known) == kind}
            source = next((name for name, known in of_kind.items() if has_labels(known, labels, kind)), None)
            if source is not None:
                state |= self._class_head(head_key(head), labels, head_key(source), self.labels[source])
        state |= {key: tensor for key, tensor in self.expert.heads.items() if key in fresh and _is_polarity(key)}
        return state

    def load_into(self, model: Mixture, name: str) -> None:
        """Load weights and heads into a model whose expert `name` has this adapter."""
        model.bank.load_adapter(name, self.expert.weights)
        model.bank.set_dropout(self.adapter.dropout)
        if isinstance(model.heads, Heads):
            model.heads.load_state_dict(self.heads_for(model.labels, model.heads.state_dict()))

    def _class_head(self, key: str, labels: Labels, source_key: str, known: Labels) -> dict[str, Tensor]:
        prefix, source_prefix = f"classes.{key}.", f"classes.{source_key}."
        own = {name: tensor for name, tensor in self.expert.heads.items() if name.startswith(source_prefix)}
        last = max(int(name.split(".")[-2]) for name in own)
        rows = [known.index(label) for label in labels]
        return {
            prefix + name.removeprefix(source_prefix): tensor[rows] if int(name.split(".")[-2]) == last else tensor
            for name, tensor in own.items()
        }


def _is_polarity(key: str) -> bool:
    return key.startswith("polarity.")


def load_shared_init(run: RunSettings) -> SharedInit | None:
    """Read the expert that `shared.init` names, and check that it fits the run.

    Returns:
        the expert, with its adapter on the layers of the run's backbone; None if the shared expert starts fresh.

    Raises:
        Fault: if it is missing, broken or untrained; `ConfigFault` with everything that does not fit the run.
    """
    if run.shared is None or run.shared.init is None:
        return None
    trained = read_trained_expert(run.shared.init)
    check_trained(trained.expert)
    if errors := list(_setting_errors(trained, run)):
        raise ConfigFault("shared.init", errors)
    adapter = _attach_without_weights(trained.expert, run)
    if not run.shared.frozen and "dropout" in run.shared.model_fields_set:
        adapter = Adapter(adapter.peft_config | {"lora_dropout": run.shared.dropout}, adapter.layers)
    return SharedInit(trained.expert, trained.origin, trained.labels, adapter)


def shared_init_errors(run: RunSettings) -> list[str]:
    """Return everything that is wrong with `shared.init`, for the check of a config; nothing without it."""
    try:
        load_shared_init(run)
    except ConfigFault as fault:
        return list(fault.faults)
    except Fault as fault:
        return [f"shared.init: {fault}"]
    return []


def read_trained_expert(init: str) -> TrainedExpert:
    """Read the expert that a value of `shared.init` names.

    Args:
        init: `ready`, a folder of an expert, of a mixture or of a PEFT adapter, or a hub id.

    Raises:
        Fault: if there is none, or its files are broken.
    """
    folder = _find(init)
    if (folder / CARD).is_file():
        return _of_mixture(folder, init)
    inside = folder.parent.parent / CARD  # the folder of an expert inside a mixture
    if inside.is_file() and not (folder / EXPERT_CARD).is_file():
        raise Fault(
            f"an expert of its own at {folder}",
            f"one inside the mixture {folder.parent.parent}",
            "give the mixture's folder, whose shared expert is used, or the folder that moe train-expert wrote",
        )
    expert = read_expert(folder)
    card = expert.card
    if card is None:
        return TrainedExpert(expert, InitOrigin(source=without_folders(init), sha256=expert.digest))
    if card.shared is not None:
        raise Fault(
            f"an expert that works alone at {folder}",
            f"one that was trained on top of the shared expert {card.shared[:12]}…",
            "start from that shared expert, or from a mixture of both",
        )
    settings = {
        "backbone.trunk_depth": card.trunk_depth,
        "backbone.pooling": card.pooling,
        "template": card.template,
        "language": card.language,
    }
    settings |= {} if card.language else {"heads.kind": card.head_kind}
    settings |= {} if expert.has_head_bias is None else {"heads.bias": expert.has_head_bias}
    origin = InitOrigin(
        source=without_folders(init), sha256=expert.digest, data_sha256=card.data_sha256, steps=card.steps
    )
    return TrainedExpert(expert, origin, card.heads, card.backbone, settings)


def _find(init: str) -> Path:
    """Return the folder of a model, which is downloaded if `init` is a hub id and no folder."""
    if names_ready(init):
        return ready_folder()
    if Path(init).is_dir() or not HUB_ID.fullmatch(init):
        if not Path(init).is_dir():
            raise Fault(
                "ready, the folder of an expert or a mixture, or a hub id (owner/name) as shared.init",
                repr(init),
                "fix shared.init",
            )
        return Path(init)
    try:
        return Path(snapshot_download(init, allow_patterns=list(FILES) + [f"*/{name}" for name in FILES]))
    except (OSError, ValueError) as error:  # offline, no such repository, or no access
        raise Fault(
            f"a model {init!r} as a folder, on the hub or in its cache",
            " ".join(str(error).split())[:160] or type(error).__name__,
            "fix shared.init, or go online once to download it",
        ) from error


def _of_mixture(folder: Path, init: str) -> TrainedExpert:
    card = read_card(folder)
    if not card.shared:
        raise Fault(
            f"a mixture with a shared expert at {folder}",
            f"one with the experts {', '.join(card.routed)} only",
            "give the folder of one of its experts that moe train-expert wrote, or a mixture with a shared expert",
        )
    path = folder / EXPERTS / card.shared[0]
    peft_config, weights = read_adapter(path)
    heads = {} if card.language else _average_heads(load_tensors(folder / HEADS), card)
    expert = ExpertFolder(path, peft_config, weights, heads, card=None)
    settings = {
        "backbone.trunk_depth": card.backbone_settings.trunk_depth,
        "backbone.pooling": card.backbone_settings.pooling,
        "template": card.template,
        "language": card.language,
    } | ({} if card.language else {"heads.kind": card.heads.kind, "heads.bias": card.heads.bias})
    origin = InitOrigin(
        source=without_folders(init),
        sha256=sha256_of(path / ADAPTER),
        mixture=sha256_of(folder / MANIFEST),
        data_sha256=card.data_sha256,
        steps=card.steps,
    )
    labels = LabelSpace.from_domains([domain.to_domain() for domain in card.domains]).heads
    return TrainedExpert(expert, origin, labels, card.backbone, settings)


def _average_heads(tensors: Mapping[str, Tensor], card: MixtureCard) -> dict[str, Tensor]:
    """Return one set of heads: the mixture's own, or the mean of its experts'."""
    if card.heads.merge == "averaged":
        return dict(tensors)
    prefixes = [f"experts.{name}." for name in card.routed]
    keys = [key.removeprefix(prefixes[0]) for key in tensors if key.startswith(prefixes[0])]
    return {key: torch.stack([tensors[prefix + key] for prefix in prefixes]).mean(0) for key in keys}


def _setting_errors(trained_expert: TrainedExpert, run: RunSettings) -> Iterator[str]:
    source = trained_expert.origin.source
    if trained_expert.backbone is None:
        return
    actual = identify_backbone(run.backbone)
    if trained_expert.backbone.sha256 != actual.sha256:
        trained_on = f"{trained_expert.backbone.name!r} with weights {trained_expert.backbone.sha256[:12]}…"
        yield (
            f"backbone.name is {actual.name!r} with weights {actual.sha256[:12]}…, but shared.init {source} is for "
            f"{trained_on}: use that backbone, another expert, or a fresh one (--set shared=null for none)"
        )
    own = {
        "backbone.trunk_depth": run.backbone.trunk_depth,
        "backbone.pooling": run.backbone.pooling,
        "template": run.template,
        "language": run.language is not None,
        "heads.kind": run.heads.kind,
        "heads.bias": run.heads.bias,
    }
    for key, trained in trained_expert.settings.items():
        if key == "language" and trained != own[key]:
            kind = "a language model" if trained else "a classifier"
            yield f"shared.init: {source} is an expert of {kind}, and the run is of the other kind: use another expert"
        elif trained != own[key]:
            yield f"{key} is {own[key]!r}, but shared.init {source} was trained with {trained!r}: set {key} to that"


def _attach_without_weights(expert: ExpertFolder, run: RunSettings) -> Adapter:
    """Return the adapter on the layers of the run's backbone, after attaching it to a backbone without storage.

    Raises:
        Fault: if PEFT cannot read it, or its layers, its ranks or the trunk do not fit the backbone.
    """
    with torch.device("meta"):
        backbone = AutoModel.from_config(read_backbone_config(run.backbone))
    bank = ExpertBank(backbone, run.backbone.trunk_depth)
    adapter = read_adapter_config(bank.layer_map, expert.path)
    bank.add_adapter(SHARED_NAME, adapter, always_on=True)
    bank.load_adapter(SHARED_NAME, expert.weights)
    return adapter

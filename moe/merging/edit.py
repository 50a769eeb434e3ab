"""A mixture's folder as its parts, and the mixture that comes of them when an expert joins, leaves or is replaced.

Nothing is trained and nothing written here; who may join, and what follows, is `moe.membership.update`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from experts.adapter import read_adapter_config
from experts.domain import Domain, LabelSpace
from experts.errors import Fault
from experts.expert_io import ExpertFolder, read_adapter
from experts.lora import LayerMap
from experts.safetensors_io import load_tensors
from moe.checkpoints.mixture import HEADS, ROUTER, build_mixture, load_strictly, read_card
from moe.checkpoints.mixture_card import DomainCard, MixtureCard, ExpertOrigin
from moe.merging.head_init import TrainedHeads, init_heads
from moe.model.backbone import Backbone
from moe.model.heads import MixedHeads, NoHeads
from moe.model.mixture import Mixture
from router.gate import Gate, GateSettings
from router.gate_transfer import transfer_gate


@dataclass(frozen=True)
class StoredMixture:
    """A mixture on disk, without its backbone.

    Args:
        folder: it.
        card: what it says of itself.
        experts: by name, each adapter, the shared one too; they have no cards of their own here.
        newcomer: one of them that came from a folder of its own, and is the only one with a card.
    """

    folder: Path
    card: MixtureCard
    experts: dict[str, ExpertFolder]
    newcomer: str | None = None

    @property
    def domains(self) -> dict[str, Domain]:
        """Its domains by name."""
        return {one.name: one.to_domain() for one in self.card.domains}

    @property
    def shared(self) -> ExpertFolder | None:
        """The expert that is always on."""
        return next((self.experts[name] for name in self.card.shared), None)


def read_stored_mixture(folder: Path) -> StoredMixture:
    """Read a mixture's card and adapters; every file is held against the manifest.

    Raises:
        Fault: when a file is missing or changed.
    """
    card = read_card(folder)
    names = (*card.routed, *card.shared)
    return StoredMixture(folder, card, {name: _adapter(folder / "experts" / name) for name in names})


def _adapter(path: Path) -> ExpertFolder:
    return ExpertFolder(path, *read_adapter(path), {}, None)


def with_expert(before: StoredMixture, newcomer: ExpertFolder, domain: Domain) -> StoredMixture:
    """The same with one more expert, the last of its domain.

    Raises:
        Fault: when the gates are weights that a person gave.
    """
    card = before.card
    if card.gate.fixed is not None:
        fixed = ", ".join(f"{one:g}" for one in card.gate.fixed)
        raise Fault(
            "a router for an expert to join", f"fixed gates {fixed}", "merge all experts with a weight for each"
        )
    old = next((one for one in card.domains if one.name == domain.name), None)
    tasks = {task: tuple(labels) for task, labels in domain.tasks.items()}
    first = old or DomainCard(name=domain.name, role=domain.role, experts=(), tasks=tasks)
    mine = first.model_copy(update={"experts": (*first.experts, newcomer.name)})
    domains = (
        *(mine if one is old else one for one in card.domains),
        *(() if old else (mine,)),
    )
    return _with(replace(before, card=card.model_copy(update={"domains": domains})), newcomer, newcomer.name)


def with_swapped_expert(before: StoredMixture, name: str, newcomer: ExpertFolder) -> StoredMixture:
    """The same with another adapter in an expert's place, under that expert's name."""
    return _with(before, newcomer, name)


def _with(before: StoredMixture, newcomer: ExpertFolder, name: str) -> StoredMixture:
    card, its = before.card, newcomer.card
    told = {
        "origins": card.origins | {name: ExpertOrigin.of(newcomer)},
        "data_sha256": card.data_sha256 | (its.data_sha256 if its else {}),
    }
    return replace(before, card=card.model_copy(update=told), experts=before.experts | {name: newcomer}, newcomer=name)


def without_expert(before: StoredMixture, name: str) -> StoredMixture:
    """The same without one routed expert, and without its domain where it was the only one of it."""
    card = before.card
    left = [
        one.model_copy(update={"experts": tuple(expert for expert in one.experts if expert != name)})
        for one in card.domains
    ]
    domains = tuple(one for one in left if one.experts)
    tasks = {task for one in domains for task in one.tasks}
    gone = {task for one in card.domains for task in one.tasks} - tasks
    told = {
        "domains": domains,
        "gate": _gate_without(card, domains, name),
        "layers": {one: layers for one, layers in card.layers.items() if one != name},
        "origins": {one: origin for one, origin in card.origins.items() if one != name},
        "data_sha256": {k: v for k, v in card.data_sha256.items() if k.removesuffix(" augmented") not in gone},
    }
    experts = {one: folder for one, folder in before.experts.items() if one != name}
    return replace(before, card=card.model_copy(update=told), experts=experts)


def _gate_without(card: MixtureCard, domains: tuple[DomainCard, ...], name: str) -> GateSettings:
    """Its settings for the experts that stay: fixed weights of theirs, no more of the largest than there are."""
    fixed, top = card.gate.fixed, card.gate.top_k
    if fixed is not None:
        fixed = tuple(one for expert, one in zip(card.routed, fixed, strict=True) if expert != name)
        if not sum(fixed):
            raise Fault("fixed gates of which some stay", f"all weight on {name}", "merge the others with new weights")
    groups = {
        "team": len({one.to_domain().group for one in domains}),
        "hard": 1,
    }.get(card.gate.kind, sum(len(one.experts) for one in domains))
    return card.gate.model_copy(update={"fixed": fixed, "top_k": None if top is None else min(top, groups)})


def build_edited_mixture(before: StoredMixture, after: StoredMixture, backbone: Backbone) -> tuple[Mixture, MixtureCard]:
    """The mixture of other members: what goes on is taken over, and only what is new starts anew.

    Args:
        before: the mixture as it lies on disk.
        after: the same with an expert more, less or another.
        backbone: loaded, and without experts yet.
    """
    layers = dict(after.card.layers)
    if (new := after.newcomer) is not None:
        layers[new] = read_adapter_config(LayerMap.from_model(backbone.model), after.experts[new].path, new).layers
    card = after.card.model_copy(update={"layers": layers})
    model = build_mixture(card, backbone, {name: one.peft_config for name, one in after.experts.items()})
    for name, one in after.experts.items():
        model.bank.load_adapter(name, one.weights)
    assert model.gate is not None
    columns = [before.card.routed.index(name) if name in before.card.routed else None for name in card.routed]
    transfer_gate(model.gate, _gate_of(before, backbone), columns)
    if not isinstance(model.heads, NoHeads):
        kept = isinstance(model.heads, MixedHeads)
        init_heads(model.heads, _teachers(before, after, kept), model.labels)
    return model.eval(), card


def _gate_of(before: StoredMixture, backbone: Backbone) -> Gate:
    groups = [one.group for one in before.domains.values() for _ in one.expert_names]
    gate = Gate(backbone.model.config.hidden_size, groups, before.card.gate)
    load_strictly(gate, load_tensors(before.folder / ROUTER), before.folder / ROUTER)
    return gate


def _teachers(before: StoredMixture, after: StoredMixture, kept: bool) -> Mapping[str, list[TrainedHeads]]:
    """What each expert's heads, or the one set for all, are taken from.

    Args:
        kept: heads are kept per expert.
    """
    space = LabelSpace.from_domains(list(before.domains.values()))
    tensors = load_tensors(before.folder / HEADS)

    def own(prefix: str) -> TrainedHeads:
        mine = {key.removeprefix(prefix): one for key, one in tensors.items() if key.startswith(prefix)}
        return TrainedHeads(before.folder / HEADS, mine, space.heads, space.tasks)

    new = [TrainedHeads.of(after.experts[after.newcomer])] if after.newcomer else []
    if not kept:
        return {"": [own(""), *new]}  # what the others rely on stays; a newcomer gives what nobody knew
    return {
        name: [*(new if name == after.newcomer else []), *([own(f"experts.{name}.")] if name in before.experts else [])]
        for name in after.card.routed
    }

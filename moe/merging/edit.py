"""Adding, removing and swapping experts of a mixture read from disk, without training and without writing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from experts.adapter import read_adapter_config
from experts.cards import EXPERTS
from experts.domain import SCORE, Domain, LabelSpace
from experts.errors import Fault
from experts.expert_io import ExpertFolder, read_adapter
from experts.lora import LayerMap
from experts.safetensors_io import load_tensors
from moe.checkpoints.file_names import HEADS, ROUTER
from moe.checkpoints.mixture import (
    EarlierRouter,
    build_mixture,
    earlier_router_file,
    load_strictly,
    read_card,
    read_earlier_routers,
)
from moe.checkpoints.mixture_card import DomainCard, ExpertOrigin, MixtureCard
from moe.merging.head_init import TrainedHeads, init_heads
from moe.merging.router_init import add_to_router
from moe.model.backbone import Backbone
from moe.model.heads import MixedHeads, NoHeads
from moe.model.mixture import Mixture
from router.gate import Gate
from router.gate_settings import GateSettings
from router.gate_transfer import transfer_gate


@dataclass(frozen=True)
class StoredMixture:
    """A mixture read from disk, without its backbone.

    Args:
        folder: where it was read from.
        card: its metadata.
        experts: adapters by name, including the shared one. Those read from the mixture have no expert card.
        new_expert: name of the expert that was read from its own folder and may have a card.
        earlier: by expert that joined the mixture, the router before it.
        removed: name of the expert that was removed.
    """

    folder: Path
    card: MixtureCard
    experts: dict[str, ExpertFolder]
    new_expert: str | None = None
    earlier: Mapping[str, EarlierRouter] = field(default_factory=dict)
    removed: str | None = None

    @property
    def domains(self) -> dict[str, Domain]:
        """Domains by name."""
        return {domain.name: domain.to_domain() for domain in self.card.domains}

    @property
    def shared(self) -> ExpertFolder | None:
        """The expert that is always on, if there is one."""
        return next((self.experts[name] for name in self.card.shared), None)


def read_stored_mixture(folder: Path) -> StoredMixture:
    """Read a mixture's card and adapters, and check every file against the manifest.

    Raises:
        Fault: if a file is missing or changed.
    """
    card = read_card(folder)
    paths = {name: folder / EXPERTS / name for name in (*card.routed, *card.shared)}
    experts = {name: ExpertFolder(path, *read_adapter(path), {}, None) for name, path in paths.items()}
    return StoredMixture(folder, card, experts, earlier=read_earlier_routers(folder, card))


def with_expert(before: StoredMixture, new_expert: ExpertFolder, domain: Domain) -> StoredMixture:
    """Return the mixture with one more expert, the last of its domain.

    Raises:
        Fault: if the gates are fixed weights.
    """
    card = before.card
    if card.gate.fixed is not None:
        fixed = ", ".join(f"{weight:g}" for weight in card.gate.fixed)
        raise Fault(
            "a mixture with a router, to add an expert",
            f"fixed gates {fixed}",
            "merge all experts again, with a weight for each",
        )
    old = next((known for known in card.domains if known.name == domain.name), None)
    tasks = {task: tuple(labels) for task, labels in domain.tasks.items()}
    base = old or DomainCard(
        name=domain.name,
        role=domain.role,
        experts=(),
        tasks=tasks,
        target_tasks=domain.target_tasks,
        kinds=dict(domain.kinds),
    )
    extended = base.model_copy(update={"experts": (*base.experts, new_expert.name)})
    domains = (
        *(extended if known is old else known for known in card.domains),
        *(() if old else (extended,)),
    )
    changes = {"domains": domains, "polarity": card.polarity or SCORE in base.kinds.values()}
    return _set_expert(replace(before, card=card.model_copy(update=changes)), new_expert, new_expert.name)


def with_swapped_expert(before: StoredMixture, name: str, new_expert: ExpertFolder) -> StoredMixture:
    """Return the mixture with another adapter under an existing expert's name."""
    return _set_expert(before, new_expert, name)


def _set_expert(before: StoredMixture, new_expert: ExpertFolder, name: str) -> StoredMixture:
    card, expert_card = before.card, new_expert.card
    changes = {
        "origins": card.origins | {name: ExpertOrigin.of(new_expert)},
        "data_sha256": card.data_sha256 | (expert_card.data_sha256 if expert_card else {}),
    }
    experts = before.experts | {name: new_expert}
    return replace(before, card=card.model_copy(update=changes), experts=experts, new_expert=name)


def without_expert(before: StoredMixture, name: str) -> StoredMixture:
    """Return the mixture without one routed expert, and without its domain if that has no other expert."""
    card = before.card
    reduced = [
        domain.model_copy(update={"experts": tuple(expert for expert in domain.experts if expert != name)})
        for domain in card.domains
    ]
    domains = tuple(domain for domain in reduced if domain.experts)
    tasks = {task for domain in domains for task in domain.tasks}
    removed = {task for domain in card.domains for task in domain.tasks} - tasks
    changes = {
        "domains": domains,
        "gate": _gate_without(card, domains, name),
        "layers": {expert: layers for expert, layers in card.layers.items() if expert != name},
        "origins": {expert: origin for expert, origin in card.origins.items() if expert != name},
        "data_sha256": {k: v for k, v in card.data_sha256.items() if k.removesuffix(" augmented") not in removed},
    }
    experts = {expert: folder for expert, folder in before.experts.items() if expert != name}
    earlier = {
        expert: router for expert, router in before.earlier.items() if expert != name and name not in router.experts
    }
    return replace(before, card=card.model_copy(update=changes), experts=experts, earlier=earlier, removed=name)


def router_before(before: StoredMixture) -> EarlierRouter:
    """Return the router of a mixture on disk, to be kept when an expert joins it."""
    return EarlierRouter(before.card.routed, load_tensors(before.folder / ROUTER))


def _gate_without(card: MixtureCard, domains: tuple[DomainCard, ...], name: str) -> GateSettings:
    """Return the gate settings for the remaining experts: their fixed weights, and `top_k` at most their number."""
    fixed, top = card.gate.fixed, card.gate.top_k
    if fixed is not None:
        fixed = tuple(weight for expert, weight in zip(card.routed, fixed, strict=True) if expert != name)
        if not sum(fixed):
            raise Fault(
                "fixed gates with weight on other experts", f"all weight on {name}", "merge the others with new weights"
            )
    groups = {
        "team": len({domain.to_domain().group for domain in domains}),
        "hard": 1,
    }.get(card.gate.kind, sum(len(domain.experts) for domain in domains))
    return card.gate.model_copy(update={"fixed": fixed, "top_k": None if top is None else min(top, groups)})


def build_edited_mixture(
    before: StoredMixture, after: StoredMixture, backbone: Backbone
) -> tuple[Mixture, MixtureCard]:
    """Build the edited mixture: existing weights are copied, only new parts are initialized.

    The router that the mixture had before an expert joined it comes back with the removal of that expert, if the others
    are still the same.

    Args:
        before: the mixture on disk.
        after: the mixture with an expert added, removed or swapped.
        backbone: loaded, without experts.
    """
    layers = dict(after.card.layers)
    configs = {name: expert.peft_config for name, expert in after.experts.items()}
    if (new := after.new_expert) is not None:
        adapter = read_adapter_config(LayerMap.from_model(backbone.model), after.experts[new].path)
        layers[new], configs[new] = adapter.layers, adapter.peft_config
    card = after.card.model_copy(update={"layers": layers})
    model = build_mixture(card, backbone, configs)
    for name, expert in after.experts.items():
        model.bank.load_adapter(name, expert.weights)
    assert model.gate is not None
    columns = [before.card.routed.index(name) if name in before.card.routed else None for name in card.routed]
    earlier = before.earlier.get(after.removed or "")
    if after.removed is not None and earlier is not None and earlier.experts == card.routed:
        load_strictly(model.gate, earlier.tensors, before.folder / earlier_router_file(after.removed))
    else:
        old_gate = _load_gate(before, backbone)
        transfer_gate(model.gate, old_gate, columns, cap=model.gate.prior is None)
        if None in columns:
            add_to_router(model, after.experts[card.routed[columns.index(None)]], columns, old_gate)
    if not isinstance(model.heads, NoHeads):
        per_expert = isinstance(model.heads, MixedHeads)
        init_heads(model.heads, _trained_heads(before, after, per_expert), model.labels)
    return model.eval(), card


def _load_gate(before: StoredMixture, backbone: Backbone) -> Gate:
    groups = [domain.group for domain in before.domains.values() for _ in domain.expert_names]
    gate = Gate(backbone.model.config.hidden_size, groups, before.card.gate)
    load_strictly(gate, load_tensors(before.folder / ROUTER), before.folder / ROUTER)
    return gate


def _trained_heads(before: StoredMixture, after: StoredMixture, per_expert: bool) -> Mapping[str, list[TrainedHeads]]:
    """Return the trained heads that each expert's heads, or the single set of heads (key ""), start from.

    Args:
        per_expert: whether the mixture has one set of heads per expert.
    """
    space = LabelSpace.from_domains(list(before.domains.values()))
    tensors = load_tensors(before.folder / HEADS)

    def existing(prefix: str) -> TrainedHeads:
        own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        return TrainedHeads(before.folder / HEADS, own, space.heads, space.tasks, space.kinds)

    new = [TrainedHeads.of(after.experts[after.new_expert])] if after.new_expert else []
    if not per_expert:
        return {"": [existing(""), *new]}  # existing rows stay; the new expert adds rows that were untrained
    return {
        name: [
            *(new if name == after.new_expert else []),
            *([existing(f"experts.{name}.")] if name in before.experts else []),
        ]
        for name in after.card.routed
    }

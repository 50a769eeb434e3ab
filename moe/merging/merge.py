"""Expert folders → one mixture, and the checks that refuse what does not fit.

No weight of an adapter is changed. Heads are `moe.merging.head_init`', folders `experts.expert_io`'s and
`moe.checkpoints.mixture`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from experts.adapter import read_adapter_config
from experts.domain import Domain
from experts.errors import Fault
from experts.expert_io import BackboneId, ExpertFolder, check_distinct, check_trained
from experts.lora import LayerMap
from moe.checkpoints.mixture import build_mixture, check_same_backbone
from moe.checkpoints.mixture_card import DomainCard, MixtureCard, ExpertOrigin
from moe.config.run import RunSettings
from moe.console import info
from moe.merging.head_init import TrainedHeads, init_heads
from moe.model.backbone import Backbone, BackboneSettings
from moe.model.heads import HeadSettings, NoHeads
from moe.model.mixture import Mixture
from moe.runs.workspace import package_versions


@dataclass(frozen=True)
class MergeParts:
    """What is merged: routed experts in the order of the config's domains, and the shared one if there is one."""

    experts: list[ExpertFolder]
    domains: list[Domain]
    shared: ExpertFolder | None


def merge(run: RunSettings, experts: Sequence[ExpertFolder], backbone: Backbone) -> tuple[Mixture, MixtureCard]:
    """Lay experts beside one backbone, with a fresh router and merged heads.

    Raises:
        Fault: when experts do not fit the backbone, the config or each other; both sides are named.
    """
    parts = check_merge(run, experts, backbone.id)
    everyone = [*parts.experts, *([parts.shared] if parts.shared else [])]
    layers = LayerMap.from_model(backbone.model)
    adapters = {one.name: read_adapter_config(layers, one.path, one.name) for one in everyone}
    card = MixtureCard(
        stage="moe-init",
        backbone=backbone.id,
        backbone_settings=run.backbone,
        template=run.template,
        domains=tuple(
            DomainCard(
                name=d.name, role=d.role, experts=d.expert_names, tasks={t: tuple(v) for t, v in d.tasks.items()}
            )
            for d in parts.domains
        ),
        shared=(parts.shared.name,) if parts.shared else (),
        layers={name: one.layers for name, one in adapters.items()},
        gate=run.gate,
        heads=run.heads,
        polarity=any(one.card is not None and one.card.polarity for one in everyone),
        language=run.language is not None,
        seed=run.seed,
        origins={one.name: ExpertOrigin.of(one) for one in everyone},
        data_sha256={k: v for one in everyone if one.card for k, v in one.card.data_sha256.items()},
        versions=package_versions(),
    )
    model = build_mixture(card, backbone, {name: one.peft_config for name, one in adapters.items()})
    for one in everyone:
        model.bank.load_adapter(one.name, one.weights)
    if not isinstance(model.heads, NoHeads):
        init_heads(model.heads, {one.name: [TrainedHeads.of(one)] for one in parts.experts}, model.labels)
    return model.eval(), card


def check_merge(run: RunSettings, experts: Sequence[ExpertFolder], backbone: BackboneId) -> MergeParts:
    """All checks that need no weight of the backbone.

    Raises:
        Fault: for nothing to merge, another backbone, trunk or head kind, clashing labels, equal or untrained experts.
    """
    shared = [one for one in experts if one.card and one.card.always_on]
    routed = [one for one in experts if one not in shared]
    if not routed:
        raise Fault("experts to merge", "none", "train some first: moe train-expert --all")
    for one in experts:
        check_trained(one)
        if one.card:
            check_same_backbone(one.card.backbone, backbone, str(one.path))
            check_same_settings(one, run.backbone, run.template, run.heads, run.language is not None, "the config")
    for first, second in combinations(experts, 2):
        _refuse_same_name(first, second)
        check_distinct(first, second)
    check_shared_expert(routed, shared[0] if shared else None)
    domains = _domains(run, routed)
    order = [name for domain in domains for name in domain.expert_names]
    return MergeParts(sorted(routed, key=lambda one: order.index(one.name)), domains, shared[0] if shared else None)


def check_same_settings(
    one: ExpertFolder, backbone: BackboneSettings, template: str, heads: HeadSettings, language: bool, who: str
) -> None:
    """Refuse an expert that reads texts in another way than the others.

    Args:
        who: whose settings these are, as people say it.

    Raises:
        Fault: naming the setting and both values.
    """
    assert one.card is not None
    pairs = {
        "backbone.trunk_depth": (one.card.trunk_depth, backbone.trunk_depth),
        "backbone.pooling": (one.card.pooling, backbone.pooling),
        "template": (one.card.template, template),
        "heads.kind": (one.card.head_kind, heads.kind),
        "language": (one.card.language, language),
    }
    for key, (its, ours) in pairs.items():
        if its != ours:
            raise Fault(
                f"{key} {ours!r}, as {who} says, in {one.path}", repr(its), f"set {key} to it, or train it again"
            )


def _refuse_same_name(first: ExpertFolder, second: ExpertFolder) -> None:
    if first.name == second.name:
        raise Fault(
            "a name of its own for each expert",
            f"{first.name} in {first.path} and in {second.path}",
            "drop one, or train it under another domain",
        )


def check_shared_expert(routed: Sequence[ExpertFolder], shared: ExpertFolder | None) -> None:
    """An expert trained on top of a shared one is worth nothing without exactly that one.

    Raises:
        Fault: naming both.
    """
    present = shared.digest if shared else None
    for one in routed:
        needed = one.card.shared if one.card else None
        if one.card and needed != present:
            raise Fault(
                f"for {one.path} " + (f"the shared expert {needed[:12]}…" if needed else "no shared expert"),
                f"{shared.path} ({present[:12]}…)" if shared and present else "none",
                "merge it with the one that it was trained with, or train it again",
            )


def _domains(run: RunSettings, routed: Sequence[ExpertFolder]) -> list[Domain]:
    members: dict[str, list[str]] = {}
    declared = {domain.name: domain for domain in run.domain_list()}
    for one in routed:
        members.setdefault(domain_of(one, declared), []).append(one.name)
    return [
        Domain(d.name, d.tasks, d.role, len(members[d.name]), tuple(members[d.name]))
        for d in declared.values()
        if d.name in members
    ]


def domain_of(one: ExpertFolder, declared: Mapping[str, Domain]) -> str:
    """The declared domain that an expert belongs to, its label sets being the config's.

    A plain PEFT adapter belongs to the domain that its folder is called by.

    Raises:
        Fault: when there is no such domain, or its labels are others.
    """
    name = one.card.domain if one.card else one.path.name
    if name not in declared:
        raise Fault(
            f"a domain of the config ({', '.join(declared)}) for {one.path}",
            repr(name),
            "declare it under domains, or name the folder after one of them",
        )
    if not one.card:
        info(f"{name}: a plain PEFT adapter, without heads; its heads start fresh")
        return name
    for task, labels in one.card.tasks.items():
        ours = tuple(declared[name].tasks.get(task, ()))
        if ours != tuple(labels):
            raise Fault(
                f"labels {', '.join(ours) or '(none)'} for task {task}, as the config says, in {one.path}",
                ", ".join(labels),
                "give the config the labels it was trained on, or train it again",
            )
    return name

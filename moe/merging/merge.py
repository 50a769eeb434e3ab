"""Merging of expert folders into one mixture, with checks that they fit. No weight of an adapter is changed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from experts.adapter import read_adapter_config
from experts.domain import CLASSES, Domain
from experts.errors import Fault
from experts.expert_io import BackboneId, ExpertFolder, check_distinct, check_trained
from experts.lora import LayerMap
from moe.checkpoints.mixture import build_mixture, check_same_backbone
from moe.checkpoints.mixture_card import DomainCard, ExpertOrigin, MixtureCard
from moe.config.run import RunSettings
from moe.console import info
from moe.merging.head_init import TrainedHeads, init_heads
from moe.merging.router_init import init_router
from moe.model.backbone import Backbone, BackboneSettings
from moe.model.heads import HeadSettings, NoHeads
from moe.model.mixture import Mixture
from moe.runs.versions import package_versions


@dataclass(frozen=True)
class MergeParts:
    """The experts to merge: routed ones in the order of the config's domains, and the shared one if there is one."""

    experts: list[ExpertFolder]
    domains: list[Domain]
    shared: ExpertFolder | None


def merge(run: RunSettings, experts: Sequence[ExpertFolder], backbone: Backbone) -> tuple[Mixture, MixtureCard]:
    """Add experts to one backbone, with a router that starts as `gate.init` says, and merged heads.

    Raises:
        Fault: if experts do not fit the backbone, the config or each other, or lack what the router starts from.
    """
    parts = check_merge(run, experts, backbone.id)
    all_experts = [*parts.experts, *([parts.shared] if parts.shared else [])]
    layers = LayerMap.from_model(backbone.model)
    adapters = {expert.name: read_adapter_config(layers, expert.path) for expert in all_experts}
    card = MixtureCard(
        stage="moe-init",
        backbone=backbone.id,
        backbone_settings=run.backbone,
        template=run.template,
        domains=tuple(
            DomainCard(
                name=domain.name,
                role=domain.role,
                experts=domain.expert_names,
                tasks={task: tuple(labels) for task, labels in domain.tasks.items()},
                target_tasks=domain.target_tasks,
                kinds=dict(domain.kinds),
            )
            for domain in parts.domains
        ),
        shared=(parts.shared.name,) if parts.shared else (),
        layers={name: adapter.layers for name, adapter in adapters.items()},
        gate=run.gate,
        heads=run.heads,
        polarity=any(expert.card is not None and expert.card.polarity for expert in all_experts),
        language=run.language is not None,
        seed=run.seed,
        origins={expert.name: ExpertOrigin.of(expert) for expert in all_experts},
        data_sha256={k: v for expert in all_experts if expert.card for k, v in expert.card.data_sha256.items()},
        versions=package_versions(),
    )
    model = build_mixture(card, backbone, {name: adapter.peft_config for name, adapter in adapters.items()})
    for expert in all_experts:
        model.bank.load_adapter(expert.name, expert.weights)
    init_router(model, parts.experts)
    if not isinstance(model.heads, NoHeads):
        init_heads(model.heads, {expert.name: [TrainedHeads.of(expert)] for expert in parts.experts}, model.labels)
    return model.eval(), card


def check_merge(run: RunSettings, experts: Sequence[ExpertFolder], backbone: BackboneId) -> MergeParts:
    """Run all checks that need no weight of the backbone.

    Raises:
        Fault: if there is nothing to merge, if backbones, trunks, head kinds or labels differ, or if experts are equal
            or untrained.
    """
    shared = [expert for expert in experts if expert.card and expert.card.always_on]
    routed = [expert for expert in experts if expert not in shared]
    if not routed:
        raise Fault("experts to merge", "none", "train some first: moe train-expert --all")
    for expert in experts:
        check_trained(expert)
        if expert.card:
            check_same_backbone(expert.card.backbone, backbone, str(expert.path))
            check_same_settings(
                expert,
                backbone=run.backbone,
                template=run.template,
                heads=run.heads,
                language=run.language is not None,
                source="the config",
            )
    for first, second in combinations(experts, 2):
        _check_names_differ(first, second)
        check_distinct(first, second)
    check_shared_expert(routed, shared[0] if shared else None)
    domains = _domains(run, routed)
    order = [name for domain in domains for name in domain.expert_names]
    return MergeParts(
        sorted(routed, key=lambda expert: order.index(expert.name)), domains, shared[0] if shared else None
    )


def check_same_settings(
    expert: ExpertFolder,
    *,
    backbone: BackboneSettings,
    template: str,
    heads: HeadSettings,
    language: bool,
    source: str,
) -> None:
    """Check that an expert was trained with the settings of the others.

    Args:
        source: where these settings come from, for the message.

    Raises:
        Fault: if a setting differs.
    """
    assert expert.card is not None
    pairs = {
        "backbone.trunk_depth": (expert.card.trunk_depth, backbone.trunk_depth),
        "backbone.pooling": (expert.card.pooling, backbone.pooling),
        "template": (expert.card.template, template),
        "heads.kind": (expert.card.head_kind, heads.kind),
        "language": (expert.card.language, language),
    } | ({} if expert.has_head_bias is None else {"heads.bias": (expert.has_head_bias, heads.bias)})
    for key, (value, expected) in pairs.items():
        if value != expected:
            raise Fault(
                f"{key} {expected!r}, as in {source}, for {expert.path}",
                repr(value),
                f"set {key} to this value, or train the expert again",
            )


def _check_names_differ(first: ExpertFolder, second: ExpertFolder) -> None:
    if first.name == second.name:
        raise Fault(
            "a different name for each expert",
            f"{first.name} in {first.path} and in {second.path}",
            "leave one out, or train it under another domain",
        )


def check_shared_expert(routed: Sequence[ExpertFolder], shared: ExpertFolder | None) -> None:
    """Check that experts were trained on top of this shared expert, without which their weights mean nothing.

    Raises:
        Fault: if the shared expert differs.
    """
    present = shared.digest if shared else None
    for expert in routed:
        needed = expert.card.shared if expert.card else None
        if expert.card and needed != present:
            raise Fault(
                f"for {expert.path} " + (f"the shared expert {needed[:12]}…" if needed else "no shared expert"),
                f"{shared.path} ({present[:12]}…)" if shared and present else "none",
                "merge it with the shared expert it was trained with, or train it again",
            )


def _domains(run: RunSettings, routed: Sequence[ExpertFolder]) -> list[Domain]:
    names: dict[str, list[str]] = {}
    declared = {domain.name: domain for domain in run.domain_list()}
    for expert in routed:
        names.setdefault(domain_of(expert, declared), []).append(expert.name)
    return [
        replace(domain, experts=len(names[domain.name]), custom_expert_names=tuple(names[domain.name]))
        for domain in declared.values()
        if domain.name in names
    ]


def check_same_targets(expert: ExpertFolder, targets: Collection[str], source: str) -> None:
    """Check that an expert's tasks have a target where those of its domain have one.

    Args:
        targets: the domain's tasks with a target.
        source: where they come from, for the message.

    Raises:
        Fault: if a task has a target on one side only.
    """
    if expert.card is None:
        return
    for task in expert.card.tasks:
        trained, wanted = (("a target" if task in tasks else "none") for tasks in (expert.card.target_tasks, targets))
        if trained != wanted:
            raise Fault(
                f"{wanted} for task {task}, as in {source}, for {expert.path}",
                trained,
                "set columns.target of the task as it was for its training, or train the expert again",
            )


def domain_of(expert: ExpertFolder, declared: Mapping[str, Domain]) -> str:
    """Return the declared domain of an expert, whose label sets must be those of the config.

    The domain of a plain PEFT adapter is the name of its folder.

    Raises:
        Fault: if there is no such domain, or its labels differ.
    """
    name = expert.card.domain if expert.card else expert.path.name
    if name not in declared:
        raise Fault(
            f"a domain of the config ({', '.join(declared)}) for {expert.path}",
            repr(name),
            "declare it under domains, or name the folder after one of them",
        )
    if not expert.card:
        info(f"{name}: a plain PEFT adapter without heads; its heads are initialized randomly")
        return name
    for task, labels in expert.card.tasks.items():
        expected = tuple(declared[name].tasks.get(task, ()))
        if expected != tuple(labels):
            raise Fault(
                f"labels {', '.join(expected) or '(none)'} for task {task}, as in the config, for {expert.path}",
                ", ".join(labels),
                "use the labels in the config that it was trained on, or train it again",
            )
        trained, wanted = (its.kinds.get(task, CLASSES) for its in (expert.card, declared[name]))
        if trained != wanted:
            raise Fault(
                f"task {task} of the kind {wanted}, as in the config, for {expert.path}",
                trained,
                "set kind of the task as it was for its training, or train the expert again",
            )
    check_same_targets(expert, declared[name].target_tasks, "the config")
    return name

"""Expert folders → one mixture: the checks that refuse what does not fit, and the heads that come of theirs.

No weight of an adapter is changed. Reading and writing folders is `experts.folder`'s and `moe.folder`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from experts.adapter import read_config
from experts.domain import Domain, LabelSpace
from experts.errors import Fault
from experts.folder import BackboneId, ExpertFolder, refuse_equal, refuse_untrained
from experts.lora import LayerMap
from moe.backbone import Backbone
from moe.config import RunSettings
from moe.folder import DomainCard, MixtureCard, build_mixture, load_strictly, refuse_other_backbone
from moe.heads import Heads, MixedHeads, NoHeads, head_key
from moe.model import Mixture
from moe.progress import say
from moe.workspace import versions


@dataclass(frozen=True)
class Parts:
    """What is merged: routed experts in the order of the config's domains, and the shared one if there is one."""

    experts: list[ExpertFolder]
    domains: list[Domain]
    shared: ExpertFolder | None


def merge(run: RunSettings, experts: Sequence[ExpertFolder], backbone: Backbone) -> tuple[Mixture, MixtureCard]:
    """Lay experts beside one backbone, with a fresh router and merged heads.

    Raises:
        Fault: when experts do not fit the backbone, the config or each other; both sides are named.
    """
    parts = check_parts(run, experts, backbone.id)
    everyone = [*parts.experts, *([parts.shared] if parts.shared else [])]
    layers = LayerMap.of(backbone.model)
    adapters = {one.name: read_config(layers, one.path, one.name) for one in everyone}
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
        data_sha256={k: v for one in everyone if one.card for k, v in one.card.data_sha256.items()},
        versions=versions(),
    )
    model = build_mixture(card, backbone, {name: one.content for name, one in adapters.items()})
    for one in everyone:
        model.bank.load(one.name, one.weights)
    if not isinstance(model.heads, NoHeads):
        fill_heads(model.heads, parts.experts, model.labels)
    return model.eval(), card


def check_parts(run: RunSettings, experts: Sequence[ExpertFolder], backbone: BackboneId) -> Parts:
    """All checks that need no weight of the backbone.

    Raises:
        Fault: for nothing to merge, another backbone, trunk or head kind, clashing labels, equal or untrained experts.
    """
    shared = [one for one in experts if one.card and one.card.always_on]
    routed = [one for one in experts if one not in shared]
    if not routed:
        raise Fault("experts to merge", "none", "train some first: moe train-expert --all")
    for one in experts:
        refuse_untrained(one)
        if one.card:
            refuse_other_backbone(one.card.backbone, backbone, str(one.path))
            _refuse_other_settings(one, run)
    for first, second in combinations(experts, 2):
        _refuse_same_name(first, second)
        refuse_equal(first, second)
    _refuse_other_shared(routed, shared[0] if shared else None)
    domains = _domains(run, routed)
    order = [name for domain in domains for name in domain.expert_names]
    return Parts(sorted(routed, key=lambda one: order.index(one.name)), domains, shared[0] if shared else None)


def _refuse_other_settings(one: ExpertFolder, run: RunSettings) -> None:
    assert one.card is not None
    pairs = {
        "backbone.trunk_depth": (one.card.trunk_depth, run.backbone.trunk_depth),
        "backbone.pooling": (one.card.pooling, run.backbone.pooling),
        "template": (one.card.template, run.template),
        "heads.kind": (one.card.head_kind, run.heads.kind),
        "language": (one.card.language, run.language is not None),
    }
    for key, (its, ours) in pairs.items():
        if its != ours:
            raise Fault(
                f"{key} {ours!r}, as the config says, in {one.path}", repr(its), f"set {key} to it, or train it again"
            )


def _refuse_same_name(first: ExpertFolder, second: ExpertFolder) -> None:
    if first.name == second.name:
        raise Fault(
            "a name of its own for each expert",
            f"{first.name} in {first.path} and in {second.path}",
            "drop one, or train it under another domain",
        )


def _refuse_other_shared(routed: Sequence[ExpertFolder], shared: ExpertFolder | None) -> None:
    """An expert trained on top of a shared one is worth nothing without exactly that one."""
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
        members.setdefault(_domain_of(one, declared), []).append(one.name)
    return [
        Domain(d.name, d.tasks, d.role, len(members[d.name]), tuple(members[d.name]))
        for d in declared.values()
        if d.name in members
    ]


def _domain_of(one: ExpertFolder, declared: Mapping[str, Domain]) -> str:
    """The declared domain that an expert belongs to, its label sets being the config's.

    A plain PEFT adapter belongs to the domain that its folder is called by.
    """
    name = one.card.domain if one.card else one.path.name
    if name not in declared:
        raise Fault(
            f"a domain of the config ({', '.join(declared)}) for {one.path}",
            repr(name),
            "declare it under domains, or name the folder after one of them",
        )
    if not one.card:
        say(f"{name}: a plain PEFT adapter, without heads; its heads start fresh")
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


Rows = tuple[Tensor, Tensor]


def fill_heads(heads: Heads | MixedHeads, experts: Sequence[ExpertFolder], labels: LabelSpace) -> None:
    """Average the experts' heads, or keep them apart; rows of labels that an expert never saw are the others' mean.

    Experts start their heads from one seed, so that hidden layers may be averaged too.
    """
    layout = next(iter(heads.experts.values())) if isinstance(heads, MixedHeads) else heads
    assert isinstance(layout, Heads)
    fresh = layout.state_dict()
    given = [_in_layout(one, fresh, labels) for one in experts]
    means = {key: _mean([one[key] for one in given if key in one], tensor) for key, tensor in fresh.items()}
    if isinstance(heads, Heads):
        return load_strictly(heads, means, experts[0].path)
    for one, own in zip(experts, given, strict=True):
        head = heads.experts[one.name]
        whole = {key: torch.where(own[key][1], own[key][0], means[key]) if key in own else means[key] for key in means}
        load_strictly(head, whole, one.path)
    return None


def _mean(given: Sequence[Rows], fresh: Tensor) -> Tensor:
    """The mean of what was trained, and the fresh value where nothing was."""
    if not given:
        return fresh
    total = torch.stack([torch.where(trained, tensor, 0.0) for tensor, trained in given]).sum(0)
    count = torch.stack([trained.expand_as(tensor) for tensor, trained in given]).sum(0)
    return torch.where(count > 0, total / count.clamp(min=1), fresh)


def _in_layout(one: ExpertFolder, fresh: Mapping[str, Tensor], labels: LabelSpace) -> dict[str, Rows]:
    """An expert's head tensors under the mixture's names, each with where it was trained."""
    if one.card is None:
        return {}
    found: dict[str, Rows] = {}
    for head, names in one.card.heads.items():
        tasks = [task for task, own in one.card.tasks.items() if set(own) <= set(names)]
        if not tasks:
            continue
        target = labels.head_of[tasks[0]]
        trained = {label for task in tasks for label in one.card.tasks[task]}
        found |= _class_rows(one.heads, head_key(head), names, head_key(target), labels.heads[target], trained, fresh)
    for key, tensor in one.heads.items():
        if key.startswith("polarity.") and key in fresh:
            found[key] = (tensor, torch.ones_like(tensor, dtype=torch.bool))
    return found


def _class_rows(
    heads: Mapping[str, Tensor],
    source: str,
    names: Sequence[str],
    target: str,
    wanted: Sequence[str],
    trained: set[str],
    fresh: Mapping[str, Tensor],
) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    own = {key: tensor for key, tensor in heads.items() if key.startswith(f"classes.{source}.")}
    last = max(int(key.split(".")[-2]) for key in own)
    for key, tensor in own.items():
        layer, kind = key.split(".")[-2:]
        place = f"classes.{target}.{layer}.{kind}"
        if int(layer) != last:
            found[place] = (tensor, torch.ones_like(tensor, dtype=torch.bool))
            continue
        rows, known = fresh[place].clone().cpu(), torch.zeros(len(wanted), dtype=torch.bool)
        for i, label in enumerate(wanted):
            if label in trained:
                rows[i], known[i] = tensor[list(names).index(label)], True
        found[place] = (rows, known.reshape(-1, *[1] * (rows.dim() - 1)).expand_as(rows))
    return found

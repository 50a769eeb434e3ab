"""Whether an expert fits a mixture: its name, domain, labels, backbone and settings.

Changing the mixture is left to `moe.membership.update`.
"""

from collections.abc import Mapping, Sequence

from experts.domain import Domain
from experts.errors import Fault, suggest
from experts.expert_io import ExpertFolder, check_distinct, check_trained
from moe.checkpoints.mixture import check_same_backbone
from moe.merging.edit import StoredMixture
from moe.merging.merge import domain_of, check_same_settings, check_shared_expert


def check_known_expert(before: StoredMixture, name: str) -> None:
    """Raise a Fault unless `name` is one of the routed experts of a mixture."""
    routed = before.card.routed
    if name in before.card.shared:
        raise Fault(
            f"one of the routed experts {', '.join(routed)}",
            f"{name}, which is always on",
            "the others were trained on top of it: train and merge anew",
        )
    if name not in routed:
        raise Fault(f"one of the experts {', '.join(routed)} of {before.folder}", repr(name), suggest(name, routed))


def resolve_domain(before: StoredMixture, newcomer: ExpertFolder, declared: Mapping[str, Domain]) -> Domain:
    """The newcomer's domain; one that the mixture knows already has to have the same labels there."""
    domain = declared[domain_of(newcomer, declared)]
    if domain.name in before.domains:
        check_same_labels(before.domains[domain.name], domain.tasks, str(newcomer.path))
    return domain


def check_same_domain(owner: Domain, newcomer: ExpertFolder) -> None:
    """Raise a Fault unless an expert was trained on this domain, with the same tasks and labels."""
    name = newcomer.card.domain if newcomer.card else newcomer.path.name
    if name != owner.name:
        raise Fault(f"an expert of the domain {owner.name} at {newcomer.path}", f"one of {name}", "name another")
    if newcomer.card:
        check_same_labels(owner, newcomer.card.tasks, str(newcomer.path))


def check_same_labels(owner: Domain, tasks: Mapping[str, Sequence[str]], where: str) -> None:
    """Raise a Fault unless these tasks and their labels are the domain's."""
    ours, theirs = (
        "; ".join(f"{task}: {', '.join(labels)}" for task, labels in sorted(some.items())) or "no task"
        for some in (owner.tasks, tasks)
    )
    if ours != theirs:
        raise Fault(
            f"the tasks and labels of {owner.name} in the mixture ({ours}), in {where}",
            theirs,
            "train it on these, or merge the experts anew",
        )


def check_expert_fits(before: StoredMixture, newcomer: ExpertFolder) -> None:
    """What `moe merge` refuses."""
    card = before.card
    check_trained(newcomer)
    if newcomer.card:
        check_same_backbone(newcomer.card.backbone, card.backbone, str(newcomer.path))
        ours = (card.backbone_settings, card.template, card.heads, card.language)
        check_same_settings(newcomer, *ours, who="the mixture")
    check_shared_expert([newcomer], before.shared)
    for one in before.experts.values():
        check_distinct(newcomer, one)

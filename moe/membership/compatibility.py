"""Whether an expert fits a mixture: its name, domain, labels, backbone and settings.

Changing the mixture is left to `moe.membership.update`.
"""

from collections.abc import Mapping, Sequence

from experts.domain import Domain
from experts.errors import Fault, guess
from experts.expert_io import ExpertFolder, refuse_equal, refuse_untrained
from moe.checkpoints.mixture import refuse_other_backbone
from moe.merging.edit import Members
from moe.merging.merge import domain_of, refuse_other_settings, refuse_other_shared


def refuse_unknown_expert(before: Members, name: str) -> None:
    """Raise a Fault unless `name` is one of the routed experts of a mixture."""
    routed = before.card.routed
    if name in before.card.shared:
        raise Fault(
            f"one of the routed experts {', '.join(routed)}",
            f"{name}, which is always on",
            "the others were trained on top of it: train and merge anew",
        )
    if name not in routed:
        raise Fault(f"one of the experts {', '.join(routed)} of {before.folder}", repr(name), guess(name, routed))


def shared_domain(before: Members, newcomer: ExpertFolder, declared: Mapping[str, Domain]) -> Domain:
    """The newcomer's domain; one that the mixture knows already has to have the same labels there."""
    domain = declared[domain_of(newcomer, declared)]
    if domain.name in before.domains:
        refuse_other_labels(before.domains[domain.name], domain.tasks, str(newcomer.path))
    return domain


def refuse_other_domain(owner: Domain, newcomer: ExpertFolder) -> None:
    """Raise a Fault unless an expert was trained on this domain, with the same tasks and labels."""
    name = newcomer.card.domain if newcomer.card else newcomer.path.name
    if name != owner.name:
        raise Fault(f"an expert of the domain {owner.name} at {newcomer.path}", f"one of {name}", "name another")
    if newcomer.card:
        refuse_other_labels(owner, newcomer.card.tasks, str(newcomer.path))


def refuse_other_labels(owner: Domain, tasks: Mapping[str, Sequence[str]], where: str) -> None:
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


def refuse_misfit(before: Members, newcomer: ExpertFolder) -> None:
    """What `moe merge` refuses."""
    card = before.card
    refuse_untrained(newcomer)
    if newcomer.card:
        refuse_other_backbone(newcomer.card.backbone, card.backbone, str(newcomer.path))
        ours = (card.backbone_settings, card.template, card.heads, card.language)
        refuse_other_settings(newcomer, *ours, who="the mixture")
    refuse_other_shared([newcomer], before.shared)
    for one in before.experts.values():
        refuse_equal(newcomer, one)

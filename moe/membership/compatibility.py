"""Checks that an expert fits a mixture: its name, domain, labels, backbone and settings."""

from collections.abc import Mapping, Sequence

from experts.domain import Domain
from experts.errors import Fault, suggest
from experts.expert_io import ExpertFolder, check_distinct, check_trained
from moe.checkpoints.mixture import check_same_backbone
from moe.merging.edit import StoredMixture
from moe.merging.merge import check_same_settings, check_shared_expert, domain_of


def check_known_expert(before: StoredMixture, name: str) -> None:
    """Check that `name` is one of a mixture's routed experts.

    Raises:
        Fault: if it is not.
    """
    routed = before.card.routed
    if name in before.card.shared:
        raise Fault(
            f"one of the routed experts {', '.join(routed)}",
            f"{name}, which is always on",
            "the other experts were trained on top of it: train and merge them again",
        )
    if name not in routed:
        raise Fault(f"one of the experts {', '.join(routed)} of {before.folder}", repr(name), suggest(name, routed))


def resolve_domain(before: StoredMixture, new_expert: ExpertFolder, declared: Mapping[str, Domain]) -> Domain:
    """Return the new expert's domain; if the mixture already has it, its labels must be the same.

    Raises:
        Fault: if the domain is not declared, or its labels differ.
    """
    domain = declared[domain_of(new_expert, declared)]
    if domain.name in before.domains:
        check_same_labels(before.domains[domain.name], domain.tasks, domain.target_tasks, str(new_expert.path))
    return domain


def check_same_domain(domain: Domain, new_expert: ExpertFolder) -> None:
    """Check that an expert was trained on this domain, with the same tasks and labels.

    Raises:
        Fault: if it was not.
    """
    name = new_expert.card.domain if new_expert.card else new_expert.path.name
    if name != domain.name:
        raise Fault(
            f"an expert of the domain {domain.name} at {new_expert.path}", f"one of {name}", "choose another expert"
        )
    if new_expert.card:
        check_same_labels(domain, new_expert.card.tasks, new_expert.card.target_tasks, str(new_expert.path))


def check_same_labels(
    domain: Domain, tasks: Mapping[str, Sequence[str]], target_tasks: Sequence[str], source: str
) -> None:
    """Check that these tasks and their labels are those of the domain.

    Args:
        tasks: labels by task.
        target_tasks: those of the tasks whose rows name a target.
        source: where the tasks come from, for the message.

    Raises:
        Fault: if they differ.
    """
    own, other = (
        "; ".join(
            f"{task}{' (with a target)' if task in with_target else ''}: {', '.join(labels)}"
            for task, labels in sorted(labels_by_task.items())
        )
        or "no task"
        for labels_by_task, with_target in ((domain.tasks, domain.target_tasks), (tasks, target_tasks))
    )
    if own != other:
        raise Fault(
            f"the tasks and labels of {domain.name} as in the mixture ({own}), for {source}",
            other,
            "train the expert on these labels, or merge all experts again",
        )


def check_expert_fits(before: StoredMixture, new_expert: ExpertFolder) -> None:
    """Run the checks of `moe merge` on a new expert.

    Raises:
        Fault: if it is untrained, equal to another expert, or differs in backbone, settings or shared expert.
    """
    card = before.card
    check_trained(new_expert)
    if new_expert.card:
        check_same_backbone(new_expert.card.backbone, card.backbone, str(new_expert.path))
        check_same_settings(
            new_expert,
            backbone=card.backbone_settings,
            template=card.template,
            heads=card.heads,
            language=card.language,
            source="the mixture",
        )
    check_shared_expert([new_expert], before.shared)
    for expert in before.experts.values():
        check_distinct(new_expert, expert)

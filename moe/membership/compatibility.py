"""Checks that an expert fits a mixture: its name, domain, labels, backbone and settings."""

from collections.abc import Mapping

from experts.domain import Domain
from experts.errors import Fault, suggest
from experts.expert_io import ExpertCard, ExpertFolder, check_distinct, check_trained
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
        check_same_labels(before.domains[domain.name], domain, str(new_expert.path))
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
        check_same_labels(domain, new_expert.card, str(new_expert.path))


def check_same_labels(domain: Domain, other: Domain | ExpertCard, source: str) -> None:
    """Check that the tasks of another domain or of an expert, their kinds and their labels are those of the domain.

    Args:
        source: where the other tasks come from, for the message.

    Raises:
        Fault: if they differ.
    """
    own, others = (_describe_tasks(tasks) for tasks in (domain, other))
    if own != others:
        raise Fault(
            f"the tasks and labels of {domain.name} as in the mixture ({own}), for {source}",
            others,
            "train the expert on these labels, or merge all experts again",
        )


def _describe_tasks(domain: Domain | ExpertCard) -> str:
    notes = {task: f" ({kind})" for task, kind in domain.kinds.items()}
    notes |= {task: f"{notes.get(task, '')} (with a target)" for task in domain.target_tasks}
    tasks = (f"{task}{notes.get(task, '')}: {', '.join(labels)}" for task, labels in sorted(domain.tasks.items()))
    return "; ".join(tasks) or "no task"


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

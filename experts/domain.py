"""Domains, with their role, experts, tasks and labels, and the label space that assigns class heads to tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from experts.errors import Fault

Labels = tuple[str, ...]
Kind = Literal["classes", "multi_label", "ordinal", "score"]
"""What rows of a task are labelled with: one of its labels, any number of them, one of ordered labels, or a score."""
KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSES: Kind = "classes"
ORDINAL: Kind = "ordinal"
SCORE: Kind = "score"


@dataclass(frozen=True)
class Domain:
    """One domain of text.

    Args:
        name: lower-case; used for the domain's experts and for `--data-type`.
        tasks: label names by task, none for a task of the kind `score`; a single task has the domain's name.
        role: the group of its experts in team gates (FinTeamExperts eq. 3); the domain's name by default.
        experts: number of its experts (K).
        custom_expert_names: names of its experts, if they are not the default ones.
        target_tasks: those of its tasks whose rows name a target, an entity of the text that the label is about.
        kinds: kind of each task that is not of the kind `classes`.
    """

    name: str
    tasks: Mapping[str, Labels] = field(default_factory=dict)
    role: str = ""
    experts: int = 1
    custom_expert_names: tuple[str, ...] = ()
    target_tasks: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The role, or the domain's name if it has no role."""
        return self.role or self.name

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Names of the domain's experts: `news`, or `news-1`, `news-2` … if it has several."""
        if self.custom_expert_names:
            return self.custom_expert_names
        return (self.name,) if self.experts == 1 else tuple(f"{self.name}-{k + 1}" for k in range(self.experts))


@dataclass(frozen=True)
class LabelSpace:
    """The class heads of a mixture and the tasks that use them (method 3).

    Tasks of one kind with equal label sets share a head. A task whose labels are a subset of those of another task of
    its kind shares that task's head, with the other labels masked. Ordinal tasks share a head only if their labels are
    equal, in the same order. A task without labels, of the kind `score`, has no class head: the polarity head, which
    all tasks share, answers it.

    Args:
        heads: label names by head, in the order of the logits.
        tasks: label names by task, none for a task with a score alone.
        head_by_task: name of the head that a task uses, for tasks with labels.
        domain_by_task: name of the domain that a task belongs to.
        target_tasks: tasks whose rows name a target, an entity of the text that the label is about.
        kinds: kind of each task that is not of the kind `classes`.
    """

    heads: dict[str, Labels]
    tasks: dict[str, Labels]
    head_by_task: dict[str, str]
    domain_by_task: dict[str, str]
    target_tasks: frozenset[str] = frozenset()
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @classmethod
    def from_domains(cls, domains: Sequence[Domain]) -> "LabelSpace":
        """Assign heads to the tasks of these domains.

        Raises:
            Fault: if two domains have a task of the same name, or labels differ only in case.
        """
        tasks = _collect_tasks(domains)
        _check_spellings(tasks)
        kinds = {task: kind for domain in domains for task, kind in domain.kinds.items() if kind != CLASSES}
        heads: dict[str, Labels] = {}
        head_by_task: dict[str, str] = {}
        for kind in KINDS:
            own = {task: labels for task, labels in tasks.items() if labels and kinds.get(task, CLASSES) == kind}
            sets = list(dict.fromkeys(own.values())) if kind == ORDINAL else _maximal_sets(own)
            of_kind = {head_name(labels, kind): labels for labels in sets}
            heads |= of_kind
            head_by_task |= {
                task: next(head for head, known in of_kind.items() if has_labels(known, labels, kind))
                for task, labels in own.items()
            }
        head_by_task = {task: head_by_task[task] for task in tasks if task in head_by_task}
        domain_by_task = {task: domain.name for domain in domains for task in domain.tasks}
        target_tasks = frozenset(task for domain in domains for task in domain.target_tasks)
        return cls(heads, tasks, head_by_task, domain_by_task, target_tasks, kinds)

    def kind(self, task: str) -> Kind:
        """Return the kind of a task."""
        return self.kinds.get(task, CLASSES)

    def mask(self, task: str) -> tuple[bool, ...]:
        """Return which of its head's labels a task with labels uses, in the order of the logits (K,)."""
        labels = set(self.tasks[task])
        return tuple(label in labels for label in self.heads[self.head_by_task[task]])

    @property
    def score_tasks(self) -> tuple[str, ...]:
        """The tasks with a score alone, in the order declared."""
        return tuple(task for task in self.tasks if self.kind(task) == SCORE)

    def tasks_of(self, domain: str) -> tuple[str, ...]:
        """Return the tasks of a domain, in the order declared."""
        return tuple(task for task, task_domain in self.domain_by_task.items() if task_domain == domain)

    def default_task(self, domain: str | None, target: bool = False) -> str | None:
        """Return the task that answers a text: the domain's first, else that of all domains, with or without a target.

        Args:
            domain: name of the domain; None leaves it open.
            target: whether the text comes with a target.

        Returns:
            the task, or None if no task has a target, or all have one.
        """
        candidates = [task for task in self.tasks if (task in self.target_tasks) is target]
        return next((task for task in candidates if self.domain_by_task[task] == domain), next(iter(candidates), None))


def head_name(labels: Sequence[str], kind: Kind) -> str:
    """Return the name of the head of a label set for tasks of a kind."""
    return "-".join(labels) if kind == CLASSES else f"{kind}:{'-'.join(labels)}"


def head_kind(name: str, labels: Sequence[str]) -> Kind:
    """Return the kind of the tasks of a head, from its name and its labels."""
    return next((kind for kind in KINDS if head_name(labels, kind) == name), CLASSES)


def has_labels(known: Sequence[str], labels: Sequence[str], kind: Kind) -> bool:
    """Return whether a head with some known labels can predict these labels of a task of its kind."""
    return tuple(known) == tuple(labels) if kind == ORDINAL else set(labels) <= set(known)


def _maximal_sets(tasks: Mapping[str, Labels]) -> list[Labels]:
    """The label sets of some tasks that are no subset of another one, in the order of the tasks."""
    sets = sorted({frozenset(labels): labels for labels in reversed(list(tasks.values()))}.values(), key=len)
    maximal = [labels for labels in sets if not any(set(labels) < set(other) for other in sets)]
    return sorted(maximal, key=list(tasks.values()).index)


def _collect_tasks(domains: Sequence[Domain]) -> dict[str, Labels]:
    tasks: dict[str, Labels] = {}
    domain_by_task: dict[str, str] = {}
    for domain in domains:
        for task, labels in domain.tasks.items():
            if task in tasks:
                first = f"{domain_by_task[task]} ({', '.join(tasks[task])})"
                raise Fault(
                    "unique task names",
                    f"{task} in {first} and in {domain.name} ({', '.join(labels)})",
                    "rename one of the tasks",
                )
            tasks[task], domain_by_task[task] = tuple(labels), domain.name
    return tasks


def _check_spellings(tasks: Mapping[str, Labels]) -> None:
    spellings: dict[str, tuple[str, str]] = {}
    for task, labels in tasks.items():
        for label in labels:
            first_label, first_task = spellings.setdefault(label.casefold(), (label, task))
            if first_label != label:
                raise Fault(
                    "the same spelling of a label in all tasks",
                    f"{first_label!r} in {first_task} and {label!r} in {task}",
                    "use the same label names in both tasks, with label_map where the files differ",
                )

"""What a domain is: its name, its role, how many experts it has, its tasks and their labels; which heads they share.

Where its rows come from is told in `moe.data`; how it is trained in `moe.config.stages`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from experts.errors import Fault

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """One domain of text.

    Args:
        name: lower-case; names the domain's experts and its `--data-type`.
        role: the group its experts share in team gates (FinTeamExperts eq. 3); its own name by default.
        experts: how many experts it has (K).
        tasks: label names by task; a domain with one task calls it by its own name.
        members: its experts' names, where they are not the usual ones.
    """

    name: str
    tasks: Mapping[str, Labels] = field(default_factory=dict)
    role: str = ""
    experts: int = 1
    members: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The role, or the domain's own name where it has none."""
        return self.role or self.name

    @property
    def expert_names(self) -> tuple[str, ...]:
        """`news`, or `news-1`, `news-2` … where the domain has several."""
        if self.members:
            return self.members
        return (self.name,) if self.experts == 1 else tuple(f"{self.name}-{k + 1}" for k in range(self.experts))


@dataclass(frozen=True)
class LabelSpace:
    """The class heads of a mixture and the task that each answers (method 3).

    Equal label sets share a head; a set within a larger one shares the larger one's head, its other labels masked.

    Args:
        heads: label names by head, in the order of the logits.
        tasks: label names by task.
        head_of: the head by task.
        domain_of: the domain by task.
    """

    heads: dict[str, Labels]
    tasks: dict[str, Labels]
    head_of: dict[str, str]
    domain_of: dict[str, str]

    @classmethod
    def of(cls, domains: Sequence[Domain]) -> "LabelSpace":
        """Lay out the heads for these domains.

        Raises:
            Fault: when a task name is used twice, or labels differ in spelling only.
        """
        tasks = _tasks_of(domains)
        _refuse_spellings(tasks)
        sets = sorted({frozenset(labels): labels for labels in reversed(tasks.values())}.values(), key=len)
        widest = [one for one in sets if not any(set(one) < set(other) for other in sets)]
        heads = {"-".join(labels): labels for labels in sorted(widest, key=list(tasks.values()).index)}
        head_of = {task: next(h for h, whole in heads.items() if set(own) <= set(whole)) for task, own in tasks.items()}
        return cls(heads, tasks, head_of, {task: domain.name for domain in domains for task in domain.tasks})

    def mask(self, task: str) -> tuple[bool, ...]:
        """Which of its head's labels a task uses, in the head's order (K,)."""
        own = set(self.tasks[task])
        return tuple(label in own for label in self.heads[self.head_by_task[task]])

    def tasks_of(self, domain: str) -> tuple[str, ...]:
        """The tasks of a domain, in the order declared."""
        return tuple(task for task, owner in self.domain_by_task.items() if owner == domain)


def _tasks_of(domains: Sequence[Domain]) -> dict[str, Labels]:
    tasks: dict[str, Labels] = {}
    owner: dict[str, str] = {}
    for domain in domains:
        for task, labels in domain.tasks.items():
            if task in tasks:
                raise Fault(
                    "each task name once",
                    f"{task} in {owner[task]} ({', '.join(tasks[task])}) and in {domain.name} ({', '.join(labels)})",
                    "rename one of them",
                )
            tasks[task], owner[task] = tuple(labels), domain.name
    return tasks


def _refuse_spellings(tasks: Mapping[str, Labels]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for task, labels in tasks.items():
        for label in labels:
            first, where = seen.setdefault(label.casefold(), (label, task))
            if first != label:
                raise Fault(
                    "one spelling a label",
                    f"{first!r} in {where} and {label!r} in {task}",
                    "give both tasks the same label names, by label_map where the files differ",
                )

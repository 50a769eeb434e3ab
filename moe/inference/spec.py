"""What turns a model's scores into predictions: labels, tasks, domains, experts, template and temperatures.

Nothing here needs torch, so that a graph can predict without it.
"""

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from experts.domain import CLASSES, Kind
from experts.errors import Fault, suggest
from moe.data.text_checks import window_overlap
from moe.kinds.registry import task_kind
from moe.model.mode import Routing


class TaskInferenceSpec(BaseModel):
    """One task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: tuple[str, ...] = Field(description="in the order of its probabilities; none for a task with a score alone")
    domain: str
    head: str | None = Field(description="its classification head, a key of `heads`; null: the polarity head alone")
    columns: tuple[int, ...] = Field(description="indices of its labels' logits in the head's output")
    temperature: float = Field(description="divisor of the logits; 1 without calibration")
    sign: tuple[str, str] | None = Field(description="its negative and its positive label, if there are any")
    target: bool = Field(False, description="whether it asks for the sentiment towards a target in the text")
    kind: Kind = Field(
        CLASSES,
        description="`multi_label`: probabilities are sigmoids, not a softmax, of the logits; "
        "`score`: the polarity is the answer, and there are no probabilities",
    )
    thresholds: tuple[float, ...] | None = Field(
        None, description="of a multi-label task, probability from which each label is predicted; none: 0.5"
    )

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only other kinds than `classes` have."""
        spec: dict[str, Any] = serialize(self)
        unused = {"kind", "thresholds"} if self.kind == CLASSES else set()
        return {name: value for name, value in spec.items() if name not in unused}

    def polarity(self, probabilities: np.ndarray) -> float | None:
        """p(positive) − p(negative) of probabilities (K,), for labels that have a sign; else None."""
        if self.sign is None:
            return None
        negative, positive = (self.labels.index(label) for label in self.sign)
        return float(probabilities[positive] - probabilities[negative])


class DomainInferenceSpec(BaseModel):
    """One domain; its index in the list is its number in the graph's input."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    experts: tuple[str, ...]
    task: str | None = Field(description="task to predict for a text without a target, if the router prefers it")
    target_task: str | None = Field(None, description="task to predict for a text with a target; None without any")
    trained: bool = Field(True, description="false for the other domains of a single expert's run")


class InferenceSpec(BaseModel):
    """Content of `reading.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = Field(description="prompt template; {text} is replaced by the text before tokenization")
    max_length: int = Field(description="maximum number of tokens, special tokens included")
    windows: int = Field(1, description="most windows in which a longer text is read; 1 truncates it")
    pooling: str = Field(description="`mean` of the hidden states of real tokens, or the `last` one")
    experts: tuple[str, ...] = Field(description="in the order of the routing weights")
    domains: tuple[DomainInferenceSpec, ...]
    tasks: dict[str, TaskInferenceSpec]
    heads: dict[str, str] = Field(description="prefix of each classification head's tensors in heads.safetensors")
    routing: Routing = Field("soft", description="what routing `auto` is")
    polarity: str | None = Field(description="activation that bounds the polarity head's output; None without a head")

    @property
    def window_overlap(self) -> int:
        """Tokens that two windows of a text share."""
        return window_overlap(self.max_length, self.windows)

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of all tasks, each once (L)."""
        return tuple(dict.fromkeys(label for task in self.tasks.values() for label in task.labels))

    @property
    def has_sets(self) -> bool:
        """Whether a task predicts any number of labels."""
        return any(task_kind(task.kind).is_set for task in self.tasks.values())

    @property
    def score_tasks(self) -> tuple[str, ...]:
        """Names of the tasks with a score alone."""
        return tuple(name for name, task in self.tasks.items() if not task_kind(task.kind).has_labels)

    def require_labels(self, task: str, use: str) -> None:
        """Check that a task has labels.

        Args:
            use: what needs them, for the message.

        Raises:
            Fault: if it has a score alone; it lists the tasks with labels.
        """
        if task in self.score_tasks:
            labelled = [name for name in self.tasks if name not in self.score_tasks]
            remedy = (
                f"choose one of {', '.join(labelled)}" if labelled else "use moe infer, or /v1/predict of the service"
            )
            raise Fault(f"a task with labels for {use}", f"{task}, which has a score alone", remedy)

    @property
    def trained_domains(self) -> tuple[DomainInferenceSpec, ...]:
        """Domains that the model was trained on: one for a single expert, all for a mixture."""
        return tuple(domain for domain in self.domains if domain.trained)

    @property
    def domain_expert_mask(self) -> np.ndarray:
        """Which experts belong to each domain, (G, E) bool."""
        rows = [[name in domain.experts for name in self.experts] for domain in self.domains]
        return np.array(rows, dtype=bool).reshape(len(self.domains), len(self.experts))

    def tasks_of(self, domain: str) -> tuple[str, ...]:
        """Return the tasks of a domain, in the order declared."""
        return tuple(name for name, task in self.tasks.items() if task.domain == domain)

    def default_task(self, domain: str | None, target: bool = False) -> str | None:
        """Return the task that answers a text: the domain's first, else that of all domains, with or without a target.

        Args:
            domain: name of the domain; None leaves it open.
            target: whether the text comes with a target.

        Returns:
            the task, or None if no task has a target, or all have one.
        """
        candidates = [name for name, task in self.tasks.items() if task.target is target]
        return next((name for name in candidates if self.tasks[name].domain == domain), next(iter(candidates), None))

    @property
    def target_tasks(self) -> tuple[str, ...]:
        """Names of the tasks with a target."""
        return tuple(name for name, task in self.tasks.items() if task.target)

    def reads_targets(self, task: str | None) -> bool:
        """Whether a task has a target; without a task, whether any has one."""
        return bool(self.target_tasks) if task is None else self.tasks[task].target

    def needs_target(self, task: str | None) -> bool:
        """Whether a text cannot be predicted without a target: the task has one, or without a task all have one."""
        return self.tasks[task].target if task is not None else len(self.target_tasks) == len(self.tasks)

    def check_request(self, task: str | None, domain: str | None, target: bool | None = None) -> None:
        """Check that the model knows a task and a domain, and has a task for texts with or without a target.

        Args:
            target: whether the texts have a target; None if some may have one.

        Raises:
            Fault: if it does not; it lists the known ones.
        """
        domains = [known.name for known in self.domains]
        if domain is not None and domain not in domains:
            raise Fault(f"one of the domains {', '.join(domains)}", repr(domain), suggest(domain, domains))
        tasks = self.tasks_of(domain) if domain else tuple(self.tasks)
        if task is not None and task not in tasks:
            raise Fault(f"one of the tasks {', '.join(tasks)}", repr(task), suggest(task, tasks))
        if target and not self.target_tasks:
            raise Fault("a model with a task for targets", "one whose tasks are about whole texts", "remove the target")
        if target and not self.reads_targets(task):
            known = ", ".join(self.target_tasks)
            raise Fault(f"one of the tasks with a target, {known}", repr(task), "choose one, or remove the target")
        if target is False and self.needs_target(task):
            raise Fault(f"a target for task {task or self.target_tasks[0]}", "none", "name an entity of the text")

"""Initialization of a mixture's heads from its experts' trained heads, whose label sets may differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from experts.domain import CLASSES, Kind, Labels, LabelSpace, has_labels, head_kind
from experts.expert_io import ExpertFolder
from moe.checkpoints.mixture import load_strictly
from moe.model.heads import Heads, MixedHeads, head_key

Rows = tuple[Tensor, Tensor]
"""A head's tensor, and a mask of its trained values."""


@dataclass(frozen=True)
class TrainedHeads:
    """Trained heads.

    Args:
        source: their folder or file, for messages.
        tensors: state dict of `Heads`.
        heads: label names by head.
        tasks: label names by task that they were trained on.
        kinds: kind of each task that is not of the kind `classes`.
    """

    source: Path
    tensors: Mapping[str, Tensor]
    heads: Mapping[str, Labels]
    tasks: Mapping[str, Labels]
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @classmethod
    def of(cls, expert: ExpertFolder) -> "TrainedHeads":
        """Return an expert's own heads; empty for a plain adapter."""
        if expert.card is None:
            return cls(expert.path, {}, {}, {})
        return cls(expert.path, expert.heads, expert.card.heads, expert.card.tasks, expert.card.kinds)

    def tasks_of(self, head: str) -> list[str]:
        """Return the tasks that a head was trained on: those of its kind whose labels it has."""
        labels = self.heads[head]
        kind = head_kind(head, labels)
        of_kind = {task: own for task, own in self.tasks.items() if self.kinds.get(task, CLASSES) == kind}
        return [task for task, own in of_kind.items() if has_labels(labels, own, kind)]


def init_heads(heads: Heads | MixedHeads, given: Mapping[str, Sequence[TrainedHeads]], labels: LabelSpace) -> None:
    """Initialize heads from trained ones: their average, or one set per expert.

    In a set per expert, rows of labels that the expert was not trained on are the mean of the others. All experts
    initialize their heads from one seed, so hidden layers can be averaged too.

    Args:
        given: by expert, the heads to copy from; the first one that has a trained row is used for it.
    """
    layout = next(iter(heads.experts.values())) if isinstance(heads, MixedHeads) else heads
    assert isinstance(layout, Heads)
    fresh = {key: tensor.cpu() for key, tensor in layout.state_dict().items()}
    trained = {
        name: _first_trained([_to_layout(source, fresh, labels) for source in sources])
        for name, sources in given.items()
    }
    means = {
        key: _mean([rows[key] for rows in trained.values() if key in rows], tensor) for key, tensor in fresh.items()
    }
    if isinstance(heads, Heads):
        return load_strictly(heads, means, next(iter(given.values()))[0].source)
    for name, own in trained.items():
        state = {key: torch.where(own[key][1], own[key][0], means[key]) if key in own else means[key] for key in means}
        load_strictly(heads.experts[name], state, given[name][0].source)
    return None


def _first_trained(parts: Sequence[Mapping[str, Rows]]) -> dict[str, Rows]:
    """Merge tensors by taking each value from the first part in which it is trained."""
    merged: dict[str, Rows] = {}
    for part in parts:
        for key, (tensor, trained) in part.items():
            earlier, earlier_trained = merged.get(key, (tensor, trained))
            merged[key] = torch.where(earlier_trained, earlier, tensor), earlier_trained | trained
    return merged


def _mean(given: Sequence[Rows], fresh: Tensor) -> Tensor:
    """Return the mean of the trained values, and the fresh value where none was trained."""
    if not given:
        return fresh
    total = torch.stack([torch.where(trained, tensor, 0.0) for tensor, trained in given]).sum(0)
    count = torch.stack([trained.expand_as(tensor) for tensor, trained in given]).sum(0)
    return torch.where(count > 0, total / count.clamp(min=1), fresh)


def _to_layout(source: TrainedHeads, fresh: Mapping[str, Tensor], labels: LabelSpace) -> dict[str, Rows]:
    """Return the trained tensors under the names and rows of the new heads."""
    parts = []
    for head, names in source.heads.items():
        tasks = [task for task in source.tasks_of(head) if task in labels.tasks]
        for target in dict.fromkeys(labels.head_by_task[task] for task in tasks):
            trained = {label for task in tasks for label in source.tasks[task]}
            parts.append(
                _class_rows(
                    source.tensors,
                    fresh,
                    source_key=head_key(head),
                    source_labels=names,
                    target_key=head_key(target),
                    target_labels=labels.heads[target],
                    trained=trained,
                )
            )
    parts.append(
        {
            key: (tensor, torch.ones_like(tensor, dtype=torch.bool))
            for key, tensor in source.tensors.items()
            if key.startswith("polarity.") and key in fresh
        }
    )
    return _first_trained(parts)


def _class_rows(
    tensors: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    *,
    source_key: str,
    source_labels: Sequence[str],
    target_key: str,
    target_labels: Sequence[str],
    trained: set[str],
) -> dict[str, Rows]:
    """Return one class head's tensors with its rows in the order of the target's labels."""
    rows_by_key: dict[str, Rows] = {}
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(f"classes.{source_key}.")}
    last = max(int(key.split(".")[-2]) for key in own)
    for key, tensor in own.items():
        layer, kind = key.split(".")[-2:]
        target = f"classes.{target_key}.{layer}.{kind}"
        if int(layer) != last:
            rows_by_key[target] = (tensor, torch.ones_like(tensor, dtype=torch.bool))
            continue
        rows, known = fresh[target].clone(), torch.zeros(len(target_labels), dtype=torch.bool)
        for i, label in enumerate(target_labels):
            if label in trained:
                rows[i], known[i] = tensor[list(source_labels).index(label)], True
        rows_by_key[target] = (rows, known.reshape(-1, *[1] * (rows.dim() - 1)).expand_as(rows))
    return rows_by_key

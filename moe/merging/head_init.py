"""Heads made of other heads: whose row of a label is taken where label sets differ, and what stands where nobody knew.

Which experts come together is `moe.merging.merge`'s and `moe.membership.update`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experts.domain import Labels, LabelSpace
from experts.expert_io import ExpertFolder
from moe.checkpoints.mixture import load_strictly
from moe.model.heads import Heads, MixedHeads, head_key

Rows = tuple[Tensor, Tensor]
"""A head's tensor, and where in it something was learned."""


@dataclass(frozen=True)
class TrainedHeads:
    """Heads that were trained.

    Args:
        source: the folder that they lie in.
        tensors: under the names of `Heads`.
        heads: label names by head.
        tasks: label names by task that they were trained on.
    """

    source: Path
    tensors: Mapping[str, Tensor]
    heads: Mapping[str, Labels]
    tasks: Mapping[str, Labels]

    @classmethod
    def of(cls, one: ExpertFolder) -> "Taught":
        """An expert's own heads; none of a plain adapter."""
        if one.card is None:
            return cls(one.path, {}, {}, {})
        return cls(one.path, one.heads, one.card.heads, one.card.tasks)


def init_heads(heads: Heads | MixedHeads, given: Mapping[str, Sequence[TrainedHeads]], labels: LabelSpace) -> None:
    """Average the experts' heads, or keep them apart; rows of labels that an expert never saw are the others' mean.

    Experts start their heads from one seed, so that hidden layers may be averaged too.

    Args:
        given: by expert what its heads are taken from: the first that knows a row gives it.
    """
    layout = next(iter(heads.experts.values())) if isinstance(heads, MixedHeads) else heads
    assert isinstance(layout, Heads)
    fresh = {key: tensor.cpu() for key, tensor in layout.state_dict().items()}
    found = {name: _first_known([_in_layout(one, fresh, labels) for one in some]) for name, some in given.items()}
    means = {key: _mean([one[key] for one in found.values() if key in one], tensor) for key, tensor in fresh.items()}
    if isinstance(heads, Heads):
        return load_strictly(heads, means, next(iter(given.values()))[0].source)
    for name, own in found.items():
        whole = {key: torch.where(own[key][1], own[key][0], means[key]) if key in own else means[key] for key in means}
        load_strictly(heads.experts[name], whole, given[name][0].source)
    return None


def _first_known(parts: Sequence[Mapping[str, Rows]]) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for part in parts:
        for key, (tensor, trained) in part.items():
            before, known = found.get(key, (tensor, trained))
            found[key] = torch.where(known, before, tensor), known | trained
    return found


def _mean(given: Sequence[Rows], fresh: Tensor) -> Tensor:
    """The mean of what was trained, and the fresh value where nothing was."""
    if not given:
        return fresh
    total = torch.stack([torch.where(trained, tensor, 0.0) for tensor, trained in given]).sum(0)
    count = torch.stack([trained.expand_as(tensor) for tensor, trained in given]).sum(0)
    return torch.where(count > 0, total / count.clamp(min=1), fresh)


def _in_layout(one: TrainedHeads, fresh: Mapping[str, Tensor], labels: LabelSpace) -> dict[str, Rows]:
    """Head tensors under the names of these heads, each with where it was trained."""
    parts = []
    for head, names in one.heads.items():
        tasks = [task for task, own in one.tasks.items() if set(own) <= set(names) and task in labels.tasks]
        for target in dict.fromkeys(labels.head_by_task[task] for task in tasks):
            trained = {label for task in tasks for label in one.tasks[task]}
            parts.append(
                _class_rows(one.tensors, head_key(head), names, head_key(target), labels.heads[target], trained, fresh)
            )
    parts.append(
        {
            key: (tensor, torch.ones_like(tensor, dtype=torch.bool))
            for key, tensor in one.tensors.items()
            if key.startswith("polarity.") and key in fresh
        }
    )
    return _first_known(parts)


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
        rows, known = fresh[place].clone(), torch.zeros(len(wanted), dtype=torch.bool)
        for i, label in enumerate(wanted):
            if label in trained:
                rows[i], known[i] = tensor[list(names).index(label)], True
        found[place] = (rows, known.reshape(-1, *[1] * (rows.dim() - 1)).expand_as(rows))
    return found

"""The label space as tensors: which head a task's rows read, and which of the head's labels are the task's own.

Which labels and heads there are is `experts.domain`'s.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from experts.domain import LabelSpace


@dataclass(frozen=True)
class LabelTables:
    """The label space as tensors: each task's head, and which of its labels a task uses.

    Args:
        heads: head names, in order.
        head_of: (tasks,), index into `heads`.
        masks: by head (tasks, K) bool, False rows for tasks of other heads.
    """

    heads: tuple[str, ...]
    head_of: Tensor
    masks: dict[str, Tensor]

    @classmethod
    def of(cls, labels: LabelSpace) -> "LabelTables":
        """Build the tables of a label space."""
        heads = tuple(labels.heads)
        masks = {
            head: torch.tensor(
                [labels.mask(t) if labels.head_of[t] == head else (False,) * len(names) for t in labels.tasks]
            ).reshape(len(labels.tasks), len(names))
            for head, names in labels.heads.items()
        }
        return cls(heads, torch.tensor([heads.index(labels.head_of[task]) for task in labels.tasks]), masks)

    def rows(self, head: str, task: Tensor, label: Tensor) -> Tensor:
        """Which rows, of tasks and labels (B,), carry a label of this head, (B,) bool."""
        here = self.head_of.to(task.device)[task.clamp(min=0)] == self.heads.index(head)
        return here & (task >= 0) & (label >= 0)


def mask_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits (B, K) with the labels that a task does not use (mask False) out of reach."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)

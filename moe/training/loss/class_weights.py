"""Weights of the classes by effective numbers."""

from collections.abc import Mapping

import torch
from torch import Tensor

from experts.domain import LabelSpace
from moe.config.stages import LossSettings
from router.losses import effective_number_weights


def class_weights(settings: LossSettings, labels: LabelSpace, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weight of each label of each task, (tasks, K) by head; zeros for tasks of other heads.

    Args:
        settings: which weights classes have; empty for others than effective numbers.
        labels: the label space.
        counts: training rows of each task's labels, (K,) in the order of the task's head.
    """
    if settings.classes != "effective":
        return {}
    beta = settings.effective_beta
    return {
        head: torch.stack(
            [
                effective_number_weights(counts[task], beta)
                if labels.head_by_task.get(task) == head
                else torch.zeros(len(names))
                for task in labels.tasks
            ]
        )
        for head, names in labels.heads.items()
    }

"""How many training rows each label has, and whether weighing classes by it does anything.

The weights' formula is `router.class_imbalance`'s.
"""

from collections.abc import Mapping

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from experts.domain import LabelSpace
from moe.config.stages import LossSettings
from moe.console.progress import say
from router.class_imbalance import effective_weights


def label_counts(rows: Dataset, labels: LabelSpace) -> dict[str, Tensor]:
    """Rows of each task's labels, (K,) in the order of the task's head."""
    tasks, chosen = np.asarray(rows["task"]), np.asarray(rows["label"])  # (N,) each
    found = {}
    for task, own in labels.tasks.items():
        names = labels.heads[labels.head_of[task]]
        here = chosen[(tasks == task) & (chosen >= 0)]  # (n,)
        places = torch.tensor([names.index(own[i]) for i in here], dtype=torch.long)  # (n,)
        found[task] = torch.bincount(places, minlength=len(names))  # (K,)
    return found


def tell_idle_weights(losses: LossSettings, counts: Mapping[str, Tensor]) -> None:
    """Say so where effective numbers weigh all classes of a task alike, though their rows differ."""
    if losses.classes != "effective":
        return
    for task, rows in counts.items():
        weights = effective_weights(rows, losses.effective_beta)[rows > 0]  # (K',)
        if len(weights) > 1 and rows[rows > 0].unique().numel() > 1 and weights.max() / weights.min() < 1.01:
            fewest = int(rows[rows > 0].min())
            say(
                f"{task}: class weights by effective number are all within 1 %; where the rarest class has {fewest} "
                f"rows, losses.effective_beta {losses.effective_beta:g} does nothing: try one nearer to 1"
            )

"""The distillation loss: what a student's answers differ from those of its teachers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.domain import LabelSpace
from moe.data.distilled.settings import DistillSettings
from moe.model.heads import LabelTables, mask_logits
from moe.training.loss.global_batch import GlobalBatch
from router.distillation import distillation_losses


@dataclass(frozen=True)
class TaughtRows:
    """The distillation loss of a batch.

    Args:
        loss: scalar, with its weight.
        rows: number of rows with a teacher's answer.
    """

    loss: Tensor
    rows: int


class TeachingLoss:
    """T² · KL(teachers ‖ student) of classes plus the squared error of scores, each a mean over the rows that have it.

    Args:
        settings: temperature and weights.
        labels: the label space.
        domains: names, in the order of their indices.
    """

    def __init__(self, settings: DistillSettings, labels: LabelSpace, domains: Sequence[str]) -> None:
        self.settings, self.tables = settings, LabelTables.of(labels)
        self.domain_weights = torch.tensor([settings.domain_weight(name) for name in domains])  # (domains,)

    @property
    def is_balanced(self) -> bool:
        """Whether the inner level weighs it, instead of a constant."""
        return self.settings.weighting == "inner"

    def __call__(self, batch: GlobalBatch) -> TaughtRows | None:
        """Return the loss of a batch; None if no row has a teacher's answer."""
        if batch.teacher is None or batch.teacher_score is None:
            return None
        weights = self.domain_weights.to(batch.domain.device)[batch.domain.clamp(min=0)]  # (B,)
        terms, taught = [], ~batch.teacher.isnan().any(-1)  # (B,)
        count = int(taught.sum())
        for head in self.tables.heads:
            has = taught & self.tables.rows_of_head(head, batch.task)  # (B,)
            if has.any():
                mask = self.tables.masks[head].to(has.device)[batch.task[has]]  # (B_h, K)
                logits = mask_logits(batch.logits[head][has].float(), mask)  # (B_h, K)
                teacher = batch.teacher[has][:, : mask.shape[1]]  # (B_h, K)
                losses = distillation_losses(logits, teacher, self.settings.temperature)  # (B_h,)
                terms.append((weights[has] * losses).sum() / count)
        scored = ~batch.teacher_score.isnan()  # (B,)
        if batch.polarity is not None and scored.any():
            errors = F.mse_loss(batch.polarity[scored].float(), batch.teacher_score[scored], reduction="none")  # (B_s,)
            terms.append((weights[scored] * errors).mean())
            count = max(count, int(scored.sum()))
        return TaughtRows(self.settings.weight * torch.stack(terms).sum(), count) if terms else None

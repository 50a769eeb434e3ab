"""What a stage learns from: the losses of one batch and their balance under DAO or constants (method 3 and 4).

Formulas of the routing losses and of DAO are `router`'s; who learns is `moe.stages`'.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.domain import LabelSpace
from moe.data.batches import Batch
from moe.model import Output, Routed, allowed_experts
from moe.stages import LossSettings, Stage
from router.dao import DAO, Constant, DAOSettings, make_weighting
from router.losses import BALANCE, domain_loss

SENTIMENT = ("classes", "polarity")


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

    def rows(self, head: str, batch: Batch) -> Tensor:
        """Which rows of a batch carry a label of this head, (B,) bool."""
        here = self.head_of.to(batch["task"].device)[batch["task"].clamp(min=0)] == self.heads.index(head)
        return here & (batch["task"] >= 0) & (batch["label"] >= 0)


def mask_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits (B, K) with the labels that a task does not use (mask False) out of reach."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


class Objective:
    """The loss of one batch.

    Args:
        stage: which losses there are.
        settings: how they are formed and weighed.
        labels: the label space.
        owners: (domains, E) bool, the experts of each domain.
        accumulate: batches a step, over which the loop divides the loss.
        experts: gives the experts' parameters, where the inner level measures at them.
    """

    def __init__(
        self,
        stage: Stage,
        settings: LossSettings,
        dao: DAOSettings,
        labels: LabelSpace,
        owners: Tensor,
        seed: int,
        accumulate: int = 1,
        experts: Callable[[], Iterable[Tensor]] = tuple,
    ) -> None:
        self.stage, self.settings, self.owners, self.accumulate = stage, settings, owners, accumulate
        self.experts = experts
        self.tables = LabelTables.of(labels)
        constants: dict[str, float] = {str(name): value for name, value in settings.constants.items()}
        self.inner = make_weighting(settings.inner, SENTIMENT, dao, constants, seed=seed)
        self.imbalance = self.inner if isinstance(self.inner, DAO) else DAO(SENTIMENT, dao, seed=seed)
        outer = tuple(name for name in stage.outer if name not in settings.without)
        self.outer = (
            make_weighting(settings.outer, outer, dao, constants | {"sentiment": 1.0}, seed=seed + 1)
            if set(outer) - {"sentiment"}
            else None
        )
        self.logs: dict[str, float] = {}

    def __call__(self, out: Output, batch: Batch) -> Tensor:
        """The scalar to go back from; what it was made of is left in `logs`."""
        losses, rows = self._sentiment_losses(out, batch)
        at = out.pooled if self.settings.measured == "state" else self.experts()
        total = self.inner.combine(losses, at=at, rows=rows) if losses else out.pooled.sum() * 0.0
        self.logs = {name: float(value.detach()) for name, value in losses.items()}
        self.logs |= {"sentiment": float(total.detach())} | _named("inner", self.inner.trajectory())
        if out.routed is not None and self.outer is not None:
            total = total + self._routing(out.routed, batch, total if losses else None)
        self.logs["loss"] = float(total.detach())
        return total

    def _sentiment_losses(self, out: Output, batch: Batch) -> tuple[dict[str, Tensor], dict[str, int]]:
        losses: dict[str, Tensor] = {}
        rows: dict[str, int] = {}
        labelled = [(head, self.tables.rows(head, batch)) for head in self.tables.heads]
        count = sum(int(has.sum()) for _, has in labelled)
        if count:
            parts = [int(has.sum()) * self._classes(out, batch, head, has) for head, has in labelled if has.any()]
            losses["classes"], rows["classes"] = torch.stack(parts).sum() / count, count
        scored = ~batch["score"].isnan()  # (B,)
        if out.polarity is not None and scored.any() and "polarity" not in self.settings.without:
            losses["polarity"] = F.mse_loss(out.polarity[scored].float(), batch["score"][scored])
            rows["polarity"] = int(scored.sum())
        return losses, rows

    def _classes(self, out: Output, batch: Batch, head: str, has: Tensor) -> Tensor:
        mask = self.tables.masks[head].to(has.device)[batch["task"][has]]  # (B_h, K)
        logits = mask_logits(out.logits[head][has].float(), mask)  # (B_h, K)
        labels = batch["label"][has]  # (B_h,)
        each = F.cross_entropy(logits, labels, reduction="none")  # (B_h,)
        if self.settings.classes == "cross_entropy":
            return each.mean()
        return self.imbalance.imbalance(each, labels, logits.shape[1])

    def _routing(self, routed: Routed, batch: Batch, sentiment: Tensor | None) -> Tensor:
        """The weighed routing losses, sentiment's own weight being 1 (method 4, outer level)."""
        assert self.outer is not None
        allowed = allowed_experts(self.owners, batch["domain"])  # (B, E)
        losses = {
            "domain": domain_loss(routed.dense, allowed),
            "balance": BALANCE[self.settings.balance](routed.dense, allowed),
        }
        losses = {name: value for name, value in losses.items() if name not in self.settings.without}
        self.logs |= {name: float(value.detach()) for name, value in losses.items()}
        norms = {name: _norm(value, routed.logits) for name, value in losses.items()}
        everything: dict[str, Tensor] = dict(losses)
        if "sentiment" in self.stage.outer and sentiment is not None:
            everything["sentiment"] = sentiment
            self._watch(routed.branch)
        weights = self._relative(self.outer.weights(everything, norms=norms))
        self.logs |= _named("outer", self.outer.trajectory()) | _named("weight", weights)
        self.logs |= {f"share_{i}": float(s) for i, s in enumerate(routed.dense.detach().mean(0))}
        return torch.stack([weights[name] * value for name, value in losses.items()]).sum()

    def _relative(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "sentiment" in weights and isinstance(self.outer, DAO):
            return self.outer.relative(weights, to="sentiment")
        return dict(weights)

    def _watch(self, branch: Tensor) -> None:
        """Measure sentiment's gradient at the gate logits in the backward that is run anyway; its own weight is 1."""
        if branch.requires_grad:
            outer, scale = self.outer, self.accumulate
            assert outer is not None
            branch.register_hook(lambda grad: outer.observe("sentiment", grad.norm() * scale * len(grad) ** 0.5))

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs: both levels' averages, weight nets and optimizers."""
        return {
            f"{key}/{name}": tensor for key, level in self._levels().items() for name, tensor in level.state().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        for key, level in self._levels().items():
            level.restore({n.removeprefix(f"{key}/"): t for n, t in state.items() if n.startswith(f"{key}/")})

    def _levels(self) -> dict[str, DAO | Constant]:
        levels = {"inner": self.inner, "outer": self.outer}
        return {key: level for key, level in levels.items() if level is not None}


def _norm(loss: Tensor, at: Tensor) -> Tensor:
    """√B · ‖∂L/∂at‖ (method 4); zero where the loss does not reach."""
    if not (loss.requires_grad and at.requires_grad):
        return at.new_zeros(())
    (grad,) = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)
    return at.new_zeros(()) if grad is None else grad.norm() * len(at) ** 0.5


def _named(prefix: str, values: Mapping[str, float | Tensor]) -> dict[str, float]:
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}

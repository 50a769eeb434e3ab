"""What a stage learns from: the losses of one batch and their balance under DAO or constants (method 3 and 4).

Formulas of the routing losses and of DAO are `router`'s; who learns is `moe.stages`'.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.domain import LabelSpace
from moe.ahead import HeldOut
from moe.data.batches import Batch
from moe.language import LanguageHead
from moe.model import Mixture, Output, Routed, allowed_experts
from moe.stages import LossSettings, Stage
from router.comparators import make_weighting
from router.dao import DAO, DAOSettings
from router.imbalance import effective_weights, imbalance_loss, row_losses
from router.kinds import ComparatorSettings
from router.lookahead import LookAhead
from router.losses import BALANCE, domain_loss
from router.weighting import Weighting, gradients, measure, relative, weighed_sum

SENTIMENT = ("classes", "polarity")
DRAWN = "held_out.drawn"


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


Parameters = Callable[[], Sequence[Tensor]]


@dataclass
class Shared:
    """What the losses share, for the measures that go to weights.

    Args:
        experts: gives the experts' parameters, where the inner level may measure norms.
        last: those of the last linear layer alone, where the inner level takes its virtual step.
        router: gives the router's parameters, where the outer level takes its own.
        held_out: other training batches; None where nobody asks for them.
        language: the backbone's own language-model head, where it was loaded.
    """

    experts: Parameters = tuple
    last: Parameters = tuple
    router: Parameters = tuple
    held_out: HeldOut | None = None
    language: LanguageHead | None = None

    @classmethod
    def of(cls, model: Mixture) -> "Shared":
        """The weights of a model; who learns is looked up when they are asked for."""
        return cls(
            experts=lambda: list(model.expert_parameters().values()),
            last=model.last_expert_parameters,
            router=lambda: [] if model.gate is None else list(model.gate.parameters()),
            language=model.source.language,
        )


class Objective:
    """The loss of one batch.

    Args:
        stage: which losses there are.
        settings: how they are formed and weighed.
        labels: the label space.
        owners: (domains, E) bool, the experts of each domain.
        accumulate: batches a step, over which the loop divides the loss.
        shared: weights that the losses share, and held-out batches.
        comparators: rates of the methods other than DAO.
        counts: training rows of each task's labels, (K,) in the order of the task's head; for effective numbers.
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
        shared: Shared | None = None,
        comparators: ComparatorSettings = ComparatorSettings(),
        counts: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.stage, self.settings, self.owners, self.accumulate = stage, settings, owners, accumulate
        self.shared = shared or Shared()
        self.tables = LabelTables.of(labels)
        self.class_weights = self._class_weights(labels, counts or {})
        constants: dict[str, float] = {str(name): value for name, value in settings.constants.items()}
        self.inner = make_weighting(settings.inner, SENTIMENT, dao, constants, seed, comparators)
        self.imbalance = self.inner if isinstance(self.inner, DAO) else DAO(SENTIMENT, dao, seed=seed)
        self.base = "sentiment" if self.shared.language is None else "language"
        outer = tuple(
            self.base if name == "sentiment" else name for name in stage.outer if name not in settings.without
        )
        self.outer = (
            make_weighting(settings.outer, outer, dao, constants | {self.base: 1.0}, seed + 1, comparators)
            if set(outer) - {self.base}
            else None
        )
        self.bounds = dao.relative_bounds
        self.logs: dict[str, float] = {}

    def _class_weights(self, labels: LabelSpace, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By head (tasks, K): the weight of each label of each task."""
        if self.settings.classes != "effective":
            return {}
        beta = self.settings.effective_beta
        return {
            head: torch.stack(
                [
                    effective_weights(counts[t], beta) if labels.head_of[t] == head else torch.zeros(len(names))
                    for t in labels.tasks
                ]
            )
            for head, names in labels.heads.items()
        }

    def __call__(self, out: Output, batch: Batch) -> Tensor:
        """The scalar to go back from; what it was made of is left in `logs`."""
        self.logs = {}
        found = self._sentiment(out, batch) if self.base == "sentiment" else self._language(out, batch)
        total = out.pooled.sum() * 0.0 if found is None else found
        if found is not None or self.base == "sentiment":
            self.logs[self.base] = float(total.detach())
        if out.routed is not None and self.outer is not None:
            total = total + self._routing(out.routed, batch, found)
        self.logs["loss"] = float(total.detach())
        return total

    def _sentiment(self, out: Output, batch: Batch) -> Tensor | None:
        """Classes and polarity under the inner level; None where no row has either."""
        losses, rows = self._sentiment_losses(out, batch)
        at = out.pooled if self.settings.measured == "state" else self.shared.experts()
        look = self._look(self.inner, self.shared.last)
        total = self.inner.combine(losses, at=at, rows=rows, look=look) if losses else None
        self.logs |= {name: float(value.detach()) for name, value in losses.items()}
        self.logs |= _named("inner", self.inner.trajectory())
        return total

    def _language(self, out: Output, batch: Batch) -> Tensor | None:
        """−log p, meaned over the tokens that are asked for; None where none is, or where it could teach nothing."""
        assert self.shared.language is not None
        if out.routed is not None and not (out.routed.gates.requires_grad or "experts" in self.stage.learns):
            return None
        each = self.shared.language.losses(out.pooled, batch["tokens"])  # (N,)
        return each.mean() if len(each) else None

    @property
    def looks_ahead(self) -> bool:
        """Whether any level asks for held-out batches."""
        return any(isinstance(one, DAO) and one.settings.objective == "validation" for one in self._levels().values())

    def _look(self, level: Weighting, parameters: Parameters) -> LookAhead | None:
        if self.shared.held_out is None or not level.due:
            return None
        return LookAhead(parameters(), self._held_out_loss)

    def _held_out_loss(self) -> Tensor:
        """Σ log L_i of another batch: one percent off either sentiment loss counts alike, whatever their scale."""
        assert self.shared.held_out is not None
        out, batch = self.shared.held_out()
        if self.base == "language":
            found = self._language(out, batch)
            return torch.zeros(()) if found is None else found.clamp(min=1e-12).log()
        losses, _ = self._sentiment_losses(out, batch, learn=False)
        values = [value.clamp(min=1e-12).log() for value in losses.values()]
        return torch.stack(values).sum() if values else torch.zeros(())

    def _sentiment_losses(
        self, out: Output, batch: Batch, learn: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        losses: dict[str, Tensor] = {}
        rows: dict[str, int] = {}
        labelled = [(head, self.tables.rows(head, batch)) for head in self.tables.heads]
        count = sum(int(has.sum()) for _, has in labelled)
        if count:
            parts = [
                int(has.sum()) * self._classes(out, batch, head, has, learn) for head, has in labelled if has.any()
            ]
            losses["classes"], rows["classes"] = torch.stack(parts).sum() / count, count
        scored = ~batch["score"].isnan()  # (B,)
        if out.polarity is not None and scored.any() and "polarity" not in self.settings.without:
            losses["polarity"] = F.mse_loss(out.polarity[scored].float(), batch["score"][scored])
            rows["polarity"] = int(scored.sum())
        return losses, rows

    def _classes(self, out: Output, batch: Batch, head: str, has: Tensor, learn: bool) -> Tensor:
        task, labels, settings = batch["task"][has], batch["label"][has], self.settings  # (B_h,) each
        mask = self.tables.masks[head].to(has.device)[task]  # (B_h, K)
        logits = mask_logits(out.logits[head][has].float(), mask)  # (B_h, K)
        each = row_losses(logits, labels, mask, settings.focal, settings.smoothing)  # (B_h,)
        if settings.classes == "cross_entropy":
            return each.mean()
        if settings.classes == "effective":
            weights = self.class_weights[head].to(has.device)[task, labels]  # (B_h,)
            return (weights * each).sum() / weights.sum().clamp(min=1e-12)
        if learn:
            return self.imbalance.imbalance(each, labels, logits.shape[1])
        alpha, beta = self.imbalance.alpha.item(), self.imbalance.beta.item()
        return imbalance_loss(each, labels, alpha, beta, logits.shape[1])

    def _routing(self, routed: Routed, batch: Batch, base: Tensor | None) -> Tensor:
        """The weighed routing losses, the base loss's own weight being 1 (method 4, outer level)."""
        assert self.outer is not None
        dense, allowed = routed.dense, allowed_experts(self.owners, batch["domain"])  # (B, E) each
        if dense.dim() == 3:  # tokens are routed: each by its text's domain
            real = batch["attention_mask"].bool()  # (B, T)
            dense, allowed = dense[real], allowed[:, None].expand(-1, real.shape[1], -1)[real]  # (N, E) each
        losses = {"domain": domain_loss(dense, allowed), "balance": BALANCE[self.settings.balance](dense, allowed)}
        losses = {name: value for name, value in losses.items() if name not in self.settings.without}
        self.logs |= {name: float(value.detach()) for name, value in losses.items()}
        everything: dict[str, Tensor] = dict(losses)
        watched = "sentiment" in self.stage.outer and base is not None
        if watched:
            assert base is not None
            everything[self.base] = base
        reached = routed.gates.requires_grad  # detached gates keep sentiment from the router: no use to look ahead
        due, look = self.outer.due, self._look(self.outer, self.shared.router) if reached else None
        norms = measure(losses, routed.logits, {}) if due and self.outer.reads == "norms" else None
        grads = self._gradients(everything, routed) if self.outer.reads == "gradients" else None
        weights = self._relative(self.outer.weights(everything, norms, grads, look))
        if watched and due:
            self._watch(routed.branch)
        self.logs |= _named("outer", self.outer.trajectory()) | _named("weight", weights)
        self.logs |= {f"share_{i}": float(s) for i, s in enumerate(dense.detach().mean(0))}
        return weighed_sum(losses, {name: c for name, c in weights.items() if name in losses})

    def _gradients(self, losses: Mapping[str, Tensor], routed: Routed) -> dict[str, Tensor]:
        """Each loss's gradient at the gate logits; the base loss's costs a backward through the layers with experts."""
        return {
            name: gradients({name: loss}, routed.branch if name == self.base else routed.logits)[name]
            for name, loss in losses.items()
        }

    def _relative(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights in units of the base loss's; constants that a person chose are held by no bounds."""
        assert self.outer is not None
        if self.base not in weights:
            return dict(weights)
        return relative(weights, self.base, self.bounds if self.outer.bounded else (-torch.inf, torch.inf))

    def _watch(self, branch: Tensor) -> None:
        """Measure the base loss's gradient at the gate logits in the backward that is run anyway; its own weight is 1.

        Laid last: a virtual step goes back through the same place, and is not to be counted.
        """
        if branch.requires_grad:
            outer, scale, base = self.outer, self.accumulate, self.base
            assert outer is not None
            branch.register_hook(lambda grad: outer.observe(base, grad.norm() * scale * len(grad) ** 0.5))

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs: both levels' averages, nets and optimizers; how many batches were held out."""
        found = {
            f"{key}/{name}": tensor for key, level in self._levels().items() for name, tensor in level.state().items()
        }
        ahead = self.shared.held_out
        return found | ({} if ahead is None else {DRAWN: torch.tensor(ahead.drawn)})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        for key, level in self._levels().items():
            level.restore({n.removeprefix(f"{key}/"): t for n, t in state.items() if n.startswith(f"{key}/")})
        if self.shared.held_out is not None and DRAWN in state:
            self.shared.held_out.skip_to(int(state[DRAWN]))

    def _levels(self) -> dict[str, Weighting]:
        levels = {"inner": self.inner, "outer": self.outer}
        return {key: level for key, level in levels.items() if level is not None}


def _named(prefix: str, values: Mapping[str, float | Tensor]) -> dict[str, float]:
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}

"""The loss of one optimizer step: its parts and their weights by DAO or another method (method 3 and 4).

The formulas are in `router`; `moe.config.stages` says which losses a stage has.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.domain import LabelSpace, head_kind
from moe import distributed
from moe.config.stages import LossSettings, Stage
from moe.data.collator import Batch
from moe.kinds.losses import ROW_LOSSES
from moe.kinds.registry import task_kind
from moe.model.heads import LabelTables, mask_logits
from moe.model.lm_head import IGNORE_INDEX
from moe.model.outputs import MixtureOutput, RouterOutput
from moe.training.loss.class_weights import class_weights
from moe.training.loss.distillation import TeachingLoss
from moe.training.loss.global_batch import (
    GlobalBatch,
    GlobalRouting,
    GradientPoint,
    LossContext,
    MicroBatch,
    Parameters,
    gather_batch,
)
from router.dao import DAO, imbalance_loss
from router.lookahead import LookAhead
from router.losses import (
    BALANCE_LOSSES,
    LossWeighting,
    domain_loss,
    finite_losses,
    relative_weights,
    weighted_sum,
    weights_by_rows,
)
from router.mtl_baselines import build_weighting
from router.registry import ComparatorSettings, DAOSettings

SENTIMENT, TEACHER_LOSS = ("classes", "polarity"), "teacher"
HOLDOUT_BATCHES = "held_out.drawn"
"""Key of the number of held-out batches drawn, in a checkpoint of the objective."""


class Objective:
    """The loss of one optimizer step, over all its micro-batches and processes.

    A step calls `start_step`, then `compute` (or the objective itself, for a single micro-batch), then `finish_step`
    after the backward pass. With several micro-batches, `record_gradient_norm` is called before each backward pass.

    Args:
        stage: its losses.
        settings: how the losses are formed and weighted.
        labels: the label space.
        domain_expert_mask: (domains, E) bool, the experts of each domain.
        context: parameters at which gradients are compared, held-out batches and the language-model head.
        comparators: rates of the methods other than DAO.
        counts: training rows of each task's labels, (K,) in the order of the task's head; for effective numbers.
        teaching: how soft labels train, in batches that have any.
    """

    def __init__(
        self,
        stage: Stage,
        settings: LossSettings,
        dao: DAOSettings,
        labels: LabelSpace,
        domain_expert_mask: Tensor,
        seed: int,
        context: LossContext | None = None,
        comparators: ComparatorSettings = ComparatorSettings(),
        counts: Mapping[str, Tensor] | None = None,
        teaching: TeachingLoss | None = None,
    ) -> None:
        self.stage, self.settings, self.domain_expert_mask = stage, settings, domain_expert_mask
        self.context = context or LossContext()
        self.tables = LabelTables.of(labels)
        self.kinds = {head: task_kind(head_kind(head, names)) for head, names in labels.heads.items()}
        self.class_weights = class_weights(settings, labels, counts or {})
        constants: dict[str, float] = {str(name): value for name, value in settings.constants.items()}
        self.teaching = teaching
        balanced = (*SENTIMENT, TEACHER_LOSS) if teaching is not None and teaching.is_balanced else SENTIMENT
        constants[TEACHER_LOSS] = 1.0
        self.inner = build_weighting(settings.inner, balanced, dao, constants, seed, comparators)
        self.imbalance = self.inner if isinstance(self.inner, DAO) else DAO(SENTIMENT, dao, seed=seed)
        self.base = "sentiment" if self.context.lm_head is None else "language"
        outer = tuple(
            self.base if name == "sentiment" else name for name in stage.outer_losses if name not in settings.without
        )
        self.outer = (
            build_weighting(settings.outer, outer, dao, constants | {self.base: 1.0}, seed + 1, comparators)
            if set(outer) - {self.base}
            else None
        )
        self.bounds = dao.relative_bounds
        self.logs: dict[str, float] = {}
        self._texts, self._recording = 0, False
        self._branch_norms: list[Tensor] = []

    def __call__(self, output: MixtureOutput, batch: Batch) -> Tensor:
        """Return the scalar loss of a step in a single micro-batch; its parts are in `logs`."""
        return self.compute([(output, batch)])

    def compute(self, micro_batches: Sequence[MicroBatch], language_loss: Tensor | None = None) -> Tensor:
        """Return the scalar loss of a step, its micro-batches and those of other processes counted as one batch.

        The value is that of all processes, the gradient that of this process's part. Its parts are in `logs`.

        Args:
            language_loss: the value of the language-model loss, if its backward pass has already run per micro-batch.
        """
        self.logs = {}
        batch = gather_batch(micro_batches, self.domain_expert_mask)
        if self.base == "sentiment":
            base = self._sentiment_loss(batch)
        else:
            base = self._global_language_loss(*micro_batches[0]) if len(micro_batches) == 1 else language_loss
        total = torch.stack([states.sum() for states in batch.pooled]).sum() * 0.0 if base is None else base
        if base is not None or self.base == "sentiment":
            self.logs[self.base] = float(total.detach())
        if batch.routing is not None and self.outer is not None:
            total = total + self._routing_loss(batch, batch.routing, base)
        self.logs["loss"] = float(total.detach())
        return total

    def _sentiment_loss(self, batch: GlobalBatch) -> Tensor | None:
        """Weighted sum of class, polarity and distillation losses (inner level); None if no row has any."""
        losses, rows = self._sentiment_losses(batch)
        total, at_state = None, self.settings.measured == "state"
        taught = None if self.teaching is None else self.teaching(batch)
        if taught is not None and self.teaching is not None and self.teaching.is_balanced:
            losses[TEACHER_LOSS], rows[TEACHER_LOSS] = taught.loss, taught.rows
        if losses:
            tensors = batch.pooled if at_state else self.context.expert_parameters()
            point = GradientPoint(tensors, batch.texts if at_state else None)
            finite, level = finite_losses(losses), self.inner
            norms = point.norms(finite, rows) if level.update_due and level.requires == "norms" else None
            grads = point.gradients(finite) if level.update_due and level.requires == "gradients" else None
            look_ahead = self._look_ahead(level, self.context.last_layer_parameters)
            weights = level.weights(finite, norms, grads, look_ahead)
            total = weighted_sum(losses, weights_by_rows(weights, rows) if isinstance(level, DAO) else weights)
        if taught is not None and TEACHER_LOSS not in losses:
            losses[TEACHER_LOSS] = taught.loss
            total = taught.loss if total is None else total + taught.loss
        logged = {name: float(value.detach()) for name, value in losses.items()}
        self.logs |= logged | _prefixed("inner", self.inner.log_values())
        return total

    def _global_language_loss(self, output: MixtureOutput, batch: Batch) -> Tensor | None:
        tokens = distributed.all_reduce((batch["tokens"] != IGNORE_INDEX).sum())
        loss = self.language_loss(output, batch, int(tokens))
        return None if loss is None else distributed.scalar_all_reduce(loss)

    def language_loss(self, output: MixtureOutput, batch: Batch, tokens: int) -> Tensor | None:
        """Sum of −log p over the target tokens of this micro-batch, divided by the number of those in the whole step.

        Args:
            tokens: target tokens of the whole step, in all processes.

        Returns:
            None if there are no target tokens, or no trainable weight that the loss could reach.
        """
        assert self.context.lm_head is not None
        if output.routing is not None and not (output.routing.gates.requires_grad or "experts" in self.stage.trains):
            return None
        if not tokens:
            return None
        if not bool((batch["tokens"] != IGNORE_INDEX).any()):
            return output.pooled.sum() * 0.0
        return self.context.lm_head.token_losses(output.pooled, batch["tokens"]).sum() / tokens

    @property
    def needs_holdout(self) -> bool:
        """Whether a level's objective is the loss on held-out batches."""
        levels = self._levels().values()
        return any(isinstance(level, DAO) and level.settings.objective == "validation" for level in levels)

    def _look_ahead(self, level: LossWeighting, parameters: Parameters) -> LookAhead | None:
        if self.context.holdout is None or not level.update_due:
            return None
        return LookAhead(parameters(), self._holdout_loss, distributed.all_reduce)

    def _holdout_loss(self) -> Tensor:
        """Σ log L_i on a held-out batch; the log makes a relative change of either sentiment loss count the same."""
        assert self.context.holdout is not None
        output, batch = self.context.holdout()
        if self.base == "language":
            loss = self._global_language_loss(output, batch)
            return torch.zeros(()) if loss is None else loss.clamp(min=1e-12).log()
        losses, _ = self._sentiment_losses(gather_batch([(output, batch)], self.domain_expert_mask), update=False)
        values = [value.clamp(min=1e-12).log() for value in losses.values()]
        return torch.stack(values).sum() if values else torch.zeros(())

    def _sentiment_losses(self, batch: GlobalBatch, update: bool = True) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Class and polarity loss, and the rows that have each.

        Args:
            update: whether DAO may update its imbalance exponents from these rows.
        """
        losses: dict[str, Tensor] = {}
        rows: dict[str, int] = {}
        heads = [head for head in self.tables.heads if head in batch.logits]  # none while only the router is trained
        labelled = [(head, self.tables.labelled_rows(head, batch.task, batch.label)) for head in heads]
        count = sum(int(has.sum()) for _, has in labelled)
        if count:
            parts = [int(has.sum()) * self._class_loss(batch, head, has, update) for head, has in labelled if has.any()]
            losses["classes"], rows["classes"] = torch.stack(parts).sum() / count, count
        scored = ~batch.score.isnan()  # (B,)
        if batch.polarity is not None and scored.any() and "polarity" not in self.settings.without:
            losses["polarity"] = F.mse_loss(batch.polarity[scored].float(), batch.score[scored])
            rows["polarity"] = int(scored.sum())
        return losses, rows

    def _class_loss(self, batch: GlobalBatch, head: str, has: Tensor, update: bool) -> Tensor:
        """Class loss of the rows `has` (B,) of one head."""
        task, labels, settings = batch.task[has], batch.label[has], self.settings  # (B_h,) each
        logits, mask = self._logits(batch, head, has)  # (B_h, K) each
        kind = self.kinds[head]
        per_row = ROW_LOSSES[kind.name](logits, labels, mask, settings.focal, settings.smoothing)  # (B_h,)
        if settings.classes == "cross_entropy" or not kind.has_class_weights:
            return per_row.mean()
        if settings.classes == "effective":
            weights = self.class_weights[head].to(has.device)[task, labels]  # (B_h,)
            return (weights * per_row).sum() / weights.sum().clamp(min=1e-12)
        if update:
            return self.imbalance.imbalance_loss(per_row, labels, logits.shape[1])
        alpha, beta = self.imbalance.alpha.item(), self.imbalance.beta.item()
        return imbalance_loss(per_row, labels, alpha, beta, logits.shape[1])

    def _logits(self, batch: GlobalBatch, head: str, has: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the rows `has` (B,) of one head, and the labels of their tasks, (B_h, K) each."""
        mask = self.tables.masks[head].to(has.device)[batch.task[has]]  # (B_h, K)
        return mask_logits(batch.logits[head][has].float(), mask), mask

    def _routing_loss(self, batch: GlobalBatch, routing: GlobalRouting, base: Tensor | None) -> Tensor:
        """Weighted sum of domain and balance loss, the base loss having weight 1 (method 4, outer level)."""
        assert self.outer is not None
        probs, allowed = routing.probs, routing.allowed  # (N, E) each
        balance_loss = BALANCE_LOSSES[self.settings.balance]
        losses = {"domain": domain_loss(probs, allowed), "balance": balance_loss(probs, allowed)}
        losses = {name: value for name, value in losses.items() if name not in self.settings.without}
        self.logs |= {name: float(value.detach()) for name, value in losses.items()}
        every: dict[str, Tensor] = dict(losses)
        weighs_base = "sentiment" in self.stage.outer_losses and base is not None
        if weighs_base:
            assert base is not None
            every[self.base] = base
        due, look_ahead = self.outer.update_due, None
        if routing.reaches_router:  # with detached gates the sentiment loss has no gradient in the router
            look_ahead = self._look_ahead(self.outer, self.context.router_parameters)
        norms = None
        if due and self.outer.requires == "norms":
            norms = GradientPoint(routing.logits, batch.texts).norms(losses, {})
        grads = self._logit_gradients(every, batch, routing) if self.outer.requires == "gradients" else None
        weights = self._relative_weights(self.outer.weights(every, norms, grads, look_ahead))
        self._texts = batch.texts
        self._recording = weighs_base and due
        if len(routing.logits_for_loss) == 1:
            self._register_norm_hook(routing.logits_for_loss[0])
        self.logs |= _prefixed("outer", self.outer.log_values()) | _prefixed("weight", weights)
        self.logs |= {f"share_{i}": float(share) for i, share in enumerate(probs.detach().mean(0))}
        return weighted_sum(losses, {name: c for name, c in weights.items() if name in losses})

    def _logit_gradients(
        self, losses: Mapping[str, Tensor], batch: GlobalBatch, routing: GlobalRouting
    ) -> dict[str, Tensor]:
        """Each loss's gradient at the gate logits; the base loss needs a backward pass through the expert layers."""
        tensors = {name: routing.logits_for_loss if name == self.base else routing.logits for name in losses}
        points = {name: GradientPoint(tensors[name], batch.texts) for name in losses}
        return {name: points[name].gradients({name: loss})[name] for name, loss in losses.items()}

    def _relative_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights in units of the base loss's weight; constants from the config are not clipped."""
        assert self.outer is not None
        if self.base not in weights:
            return dict(weights)
        bounds = self.bounds if self.outer.clip_relative_weights else (-torch.inf, torch.inf)
        return relative_weights(weights, self.base, bounds)

    def start_step(self) -> None:
        """Start a step: discard the gradient norms recorded before."""
        self._branch_norms = []
        self._recording = self.outer is not None and "sentiment" in self.stage.outer_losses and self.outer.update_due

    def record_gradient_norm(self, router: RouterOutput | None) -> None:
        """Record the norm of the base loss's gradient at a micro-batch's gate logits during its backward pass.

        For a single micro-batch, `compute` registers the hook itself, after the look-ahead: that step runs a backward
        pass through the same logits, which must not be counted.
        """
        if router is not None:
            self._register_norm_hook(router.logits_for_loss)

    def _register_norm_hook(self, logits: Tensor) -> None:
        if self._recording and logits.requires_grad:
            norms = self._branch_norms
            logits.register_hook(lambda grad: norms.append(grad.norm()))

    def finish_step(self) -> None:
        """Update the outer level's averages with the gradient norms recorded in the backward pass."""
        norms, self._branch_norms = self._branch_norms, []
        if norms:
            assert self.outer is not None
            self.outer.observe(self.base, distributed.global_norm(torch.stack(norms)) * self._texts**0.5)

    def state_dict(self) -> dict[str, Tensor]:
        """State for resuming: averages, networks and optimizers of both levels, and the held-out batches drawn."""
        state = {
            f"{key}/{name}": tensor
            for key, level in self._levels().items()
            for name, tensor in level.state_dict().items()
        }
        holdout = self.context.holdout
        return state | ({} if holdout is None else {HOLDOUT_BATCHES: torch.tensor(holdout.drawn)})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for key, level in self._levels().items():
            level.load_state_dict({n.removeprefix(f"{key}/"): t for n, t in state.items() if n.startswith(f"{key}/")})
        if self.context.holdout is not None and HOLDOUT_BATCHES in state:
            self.context.holdout.skip_to(int(state[HOLDOUT_BATCHES]))

    def _levels(self) -> dict[str, LossWeighting]:
        levels = {"inner": self.inner, "outer": self.outer}
        return {key: level for key, level in levels.items() if level is not None}


def _prefixed(prefix: str, values: Mapping[str, float | Tensor]) -> dict[str, float]:
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}

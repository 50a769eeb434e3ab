"""What a stage learns from: the losses of one batch and their balance under DAO or constants (method 3 and 4).

Formulas of the routing losses and of DAO are `router`'s; who learns is `moe.config.stages`'.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.domain import LabelSpace
from moe import distributed
from moe.config.stages import LossSettings, Stage
from moe.data.collator import Batch
from moe.model.heads import LabelTables, mask_logits
from moe.model.lm_head import IGNORE_INDEX, LMHead
from moe.model.mixture import Mixture, MixtureOutput, RouterOutput
from moe.training.global_batch import MicroBatch, GradientPoint, GlobalRouting, GlobalBatch, gather_batch
from moe.training.holdout import HoldoutSampler
from router.class_imbalance import effective_number_weights, imbalance_loss, row_losses
from router.dao import DAO, DAOSettings
from router.lookahead import LookAhead
from router.loss_weighting import LossWeighting, relative_weights, finite_losses, weighted_sum
from router.losses import BALANCE_LOSSES, domain_loss
from router.mtl_baselines import build_weighting
from router.registry import ComparatorSettings

SENTIMENT = ("classes", "polarity")
DRAWN = "held_out.drawn"


Parameters = Callable[[], Sequence[Tensor]]


@dataclass
class LossContext:
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
    held_out: HoldoutSampler | None = None
    language: LMHead | None = None

    @classmethod
    def of(cls, model: Mixture) -> "Shared":
        """The weights of a model; who learns is looked up when they are asked for."""
        return cls(
            experts=lambda: list(model.expert_parameters().values()),
            last=model.last_expert_parameters,
            router=lambda: [] if model.gate is None else list(model.gate.parameters()),
            language=model.loaded_backbone.lm_head,
        )


class Objective:
    """The loss of one batch.

    Args:
        stage: which losses there are.
        settings: how they are formed and weighed.
        labels: the label space.
        owners: (domains, E) bool, the experts of each domain.
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
        shared: LossContext | None = None,
        comparators: ComparatorSettings = ComparatorSettings(),
        counts: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.stage, self.settings, self.owners = stage, settings, owners
        self.shared = shared or LossContext()
        self.tables = LabelTables.of(labels)
        self.class_weights = self._class_weights(labels, counts or {})
        constants: dict[str, float] = {str(name): value for name, value in settings.constants.items()}
        self.inner = build_weighting(settings.inner, SENTIMENT, dao, constants, seed, comparators)
        self.imbalance = self.inner if isinstance(self.inner, DAO) else DAO(SENTIMENT, dao, seed=seed)
        self.base = "sentiment" if self.shared.language is None else "language"
        outer = tuple(
            self.base if name == "sentiment" else name for name in stage.outer if name not in settings.without
        )
        self.outer = (
            build_weighting(settings.outer, outer, dao, constants | {self.base: 1.0}, seed + 1, comparators)
            if set(outer) - {self.base}
            else None
        )
        self.bounds = dao.relative_bounds
        self.logs: dict[str, float] = {}
        self._texts, self._watching = 0, False
        self._watched: list[Tensor] = []

    def _class_weights(self, labels: LabelSpace, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By head (tasks, K): the weight of each label of each task."""
        if self.settings.classes != "effective":
            return {}
        beta = self.settings.effective_beta
        return {
            head: torch.stack(
                [
                    effective_number_weights(counts[t], beta) if labels.head_by_task[t] == head else torch.zeros(len(names))
                    for t in labels.tasks
                ]
            )
            for head, names in labels.heads.items()
        }

    def __call__(self, out: MixtureOutput, batch: Batch) -> Tensor:
        """The scalar to go back from, of a step in one pass; what it was made of is left in `logs`."""
        return self.over([(out, batch)])

    def over(self, parts: Sequence[MicroBatch], language: Tensor | None = None) -> Tensor:
        """The same of a step in several parts, which count as one batch; so do those of other processes.

        Its value is all processes', its gradient this one's part of it.

        Args:
            language: where a language model learns and the parts were gone back from before, what their loss was.
        """
        self.logs = {}
        whole = gather_batch(parts, self.owners)
        if self.base == "sentiment":
            found = self._sentiment(whole)
        else:
            found = self._one_language(*parts[0]) if len(parts) == 1 else language
        total = torch.stack([one.sum() for one in whole.pooled]).sum() * 0.0 if found is None else found
        if found is not None or self.base == "sentiment":
            self.logs[self.base] = float(total.detach())
        if whole.routing is not None and self.outer is not None:
            total = total + self._routing(whole, whole.routing, found)
        self.logs["loss"] = float(total.detach())
        return total

    def _sentiment(self, whole: GlobalBatch) -> Tensor | None:
        """Classes and polarity under the inner level; None where no row has either."""
        losses, rows = self._sentiment_losses(whole)
        total = None
        if losses:
            state = self.settings.measured == "state"
            place = GradientPoint(whole.pooled, whole.texts) if state else GradientPoint(self.shared.experts(), None)
            seen, level = finite_losses(losses), self.inner
            norms = place.norms(seen, rows) if level.update_due and level.requires == "norms" else None
            grads = place.gradients(seen) if level.update_due and level.requires == "gradients" else None
            total = weighted_sum(losses, level.weights(seen, norms, grads, self._look(level, self.shared.last)))
        self.logs |= {name: float(value.detach()) for name, value in losses.items()}
        self.logs |= _named("inner", self.inner.log_values())
        return total

    def _one_language(self, out: MixtureOutput, batch: Batch) -> Tensor | None:
        asked = distributed.all_reduce((batch["tokens"] != IGNORE_INDEX).sum())
        found = self.language(out, batch, int(asked))
        return None if found is None else distributed.scalar_all_reduce(found)

    def language(self, out: MixtureOutput, batch: Batch, asked: int) -> Tensor | None:
        """−log p, summed over the tokens that are asked for here and divided by `asked`, those of the whole step.

        None where none is asked for, or where it could teach nothing.
        """
        assert self.shared.language is not None
        if out.routing is not None and not (out.routing.gates.requires_grad or "experts" in self.stage.learns):
            return None
        if not asked:
            return None
        if not bool((batch["tokens"] != IGNORE_INDEX).any()):
            return out.pooled.sum() * 0.0
        return self.shared.language.token_losses(out.pooled, batch["tokens"]).sum() / asked

    @property
    def looks_ahead(self) -> bool:
        """Whether any level asks for held-out batches."""
        return any(isinstance(one, DAO) and one.settings.objective == "validation" for one in self._levels().values())

    def _look(self, level: LossWeighting, parameters: Parameters) -> LookAhead | None:
        if self.shared.held_out is None or not level.update_due:
            return None
        return LookAhead(parameters(), self._held_out_loss, distributed.all_reduce)

    def _held_out_loss(self) -> Tensor:
        """Σ log L_i of another batch: one percent off either sentiment loss counts alike, whatever their scale."""
        assert self.shared.held_out is not None
        out, batch = self.shared.held_out()
        if self.base == "language":
            found = self._one_language(out, batch)
            return torch.zeros(()) if found is None else found.clamp(min=1e-12).log()
        losses, _ = self._sentiment_losses(gather_batch([(out, batch)], self.owners), learn=False)
        values = [value.clamp(min=1e-12).log() for value in losses.values()]
        return torch.stack(values).sum() if values else torch.zeros(())

    def _sentiment_losses(self, whole: GlobalBatch, learn: bool = True) -> tuple[dict[str, Tensor], dict[str, int]]:
        losses: dict[str, Tensor] = {}
        rows: dict[str, int] = {}
        labelled = [(head, self.tables.labelled_rows(head, whole.task, whole.label)) for head in self.tables.heads]
        count = sum(int(has.sum()) for _, has in labelled)
        if count:
            parts = [int(has.sum()) * self._classes(whole, head, has, learn) for head, has in labelled if has.any()]
            losses["classes"], rows["classes"] = torch.stack(parts).sum() / count, count
        scored = ~whole.score.isnan()  # (B,)
        if whole.polarity is not None and scored.any() and "polarity" not in self.settings.without:
            losses["polarity"] = F.mse_loss(whole.polarity[scored].float(), whole.score[scored])
            rows["polarity"] = int(scored.sum())
        return losses, rows

    def _classes(self, whole: GlobalBatch, head: str, has: Tensor, learn: bool) -> Tensor:
        task, labels, settings = whole.task[has], whole.label[has], self.settings  # (B_h,) each
        mask = self.tables.masks[head].to(has.device)[task]  # (B_h, K)
        logits = mask_logits(whole.logits[head][has].float(), mask)  # (B_h, K)
        each = row_losses(logits, labels, mask, settings.focal, settings.smoothing)  # (B_h,)
        if settings.classes == "cross_entropy":
            return each.mean()
        if settings.classes == "effective":
            weights = self.class_weights[head].to(has.device)[task, labels]  # (B_h,)
            return (weights * each).sum() / weights.sum().clamp(min=1e-12)
        if learn:
            return self.imbalance.imbalance_loss(each, labels, logits.shape[1])
        alpha, beta = self.imbalance.alpha.item(), self.imbalance.beta.item()
        return imbalance_loss(each, labels, alpha, beta, logits.shape[1])

    def _routing(self, whole: GlobalBatch, routing: GlobalRouting, base: Tensor | None) -> Tensor:
        """The weighed routing losses, the base loss's own weight being 1 (method 4, outer level)."""
        assert self.outer is not None
        dense, allowed = routing.dense, routing.allowed  # (N, E) each
        losses = {"domain": domain_loss(dense, allowed), "balance": BALANCE_LOSSES[self.settings.balance](dense, allowed)}
        losses = {name: value for name, value in losses.items() if name not in self.settings.without}
        self.logs |= {name: float(value.detach()) for name, value in losses.items()}
        everything: dict[str, Tensor] = dict(losses)
        watched = "sentiment" in self.stage.outer and base is not None
        if watched:
            assert base is not None
            everything[self.base] = base
        # Detached gates keep sentiment from the router: no use to look ahead.
        due, look = self.outer.update_due, self._look(self.outer, self.shared.router) if routing.learned else None
        norms = GradientPoint(routing.logits, whole.texts).norms(losses, {}) if due and self.outer.requires == "norms" else None
        grads = self._gradients(everything, whole, routing) if self.outer.requires == "gradients" else None
        weights = self._relative(self.outer.weights(everything, norms, grads, look))
        self._texts = whole.texts
        self._watching = watched and due
        if len(routing.branches) == 1:
            self._lay(routing.branches[0])
        self.logs |= _named("outer", self.outer.log_values()) | _named("weight", weights)
        self.logs |= {f"share_{i}": float(s) for i, s in enumerate(dense.detach().mean(0))}
        return weighted_sum(losses, {name: c for name, c in weights.items() if name in losses})

    def _gradients(self, losses: Mapping[str, Tensor], whole: GlobalBatch, routing: GlobalRouting) -> dict[str, Tensor]:
        """Each loss's gradient at the gate logits; the base loss's costs a backward through the layers with experts."""
        places = {name: routing.branches if name == self.base else routing.logits for name in losses}
        return {name: GradientPoint(places[name], whole.texts).gradients({name: loss})[name] for name, loss in losses.items()}

    def _relative(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights in units of the base loss's; constants that a person chose are held by no bounds."""
        assert self.outer is not None
        if self.base not in weights:
            return dict(weights)
        return relative_weights(weights, self.base, self.bounds if self.outer.clip_relative_weights else (-torch.inf, torch.inf))

    def begin(self) -> None:
        """A step begins: nothing of it was watched yet."""
        self._watched = []
        self._watching = self.outer is not None and "sentiment" in self.stage.outer and self.outer.update_due

    def watch(self, routed: RouterOutput | None) -> None:
        """Measure the base loss's gradient at a part's gate logits in the backward that is run anyway.

        `settle` makes a norm of all parts. A step in one pass has it laid by its loss, last of all: a virtual step goes
        back through the same place, and is not to be counted.
        """
        if routed is not None:
            self._lay(routed.logits_for_loss)

    def _lay(self, branch: Tensor) -> None:
        if self._watching and branch.requires_grad:
            seen = self._watched
            branch.register_hook(lambda grad: seen.append(grad.norm()))

    def settle(self) -> None:
        """Take what was watched in a step's backward into the outer level's averages; the base's own weight is 1."""
        seen, self._watched = self._watched, []
        if seen:
            assert self.outer is not None
            self.outer.observe(self.base, distributed.global_norm(torch.stack(seen)) * self._texts**0.5)

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs: both levels' averages, nets and optimizers; how many batches were held out."""
        found = {
            f"{key}/{name}": tensor for key, level in self._levels().items() for name, tensor in level.state_dict().items()
        }
        ahead = self.shared.held_out
        return found | ({} if ahead is None else {DRAWN: torch.tensor(ahead.drawn)})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        for key, level in self._levels().items():
            level.load_state_dict({n.removeprefix(f"{key}/"): t for n, t in state.items() if n.startswith(f"{key}/")})
        if self.shared.held_out is not None and DRAWN in state:
            self.shared.held_out.skip_to(int(state[DRAWN]))

    def _levels(self) -> dict[str, LossWeighting]:
        levels = {"inner": self.inner, "outer": self.outer}
        return {key: level for key, level in levels.items() if level is not None}


def _named(prefix: str, values: Mapping[str, float | Tensor]) -> dict[str, float]:
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}

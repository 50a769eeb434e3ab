"""One step's gradient: in one pass, or micro-batch by micro-batch as if it were one (method 3 and 4 weigh whole steps).

Shares of classes, means of gates and DAO's norms are a whole step's, so its loss is known only when all rows were seen.
Labelled rows are therefore run twice: without their graph for what the loss is made of, then, with the same random
numbers, to go back with the loss's gradient there (Gao et al. 2021, gradient caching). A language model's tokens only
have to be counted, and the router's loss needs what the one pass leaves: nothing is run twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe import distributed
from moe.data.collator import Batch
from moe.model.lm_head import IGNORE_INDEX
from moe.model.mixture import Mixture, MixtureOutput
from moe.training.global_batch import MicroBatch
from moe.training.objective import Objective

Check = Callable[[Tensor, Mapping[str, float]], None]


@dataclass(frozen=True)
class BackwardPass:
    """Goes back through one step.

    Args:
        model: for its experts.
        forward: runs the model on a batch.
        objective: the loss.
        check: is told the loss and what it is made of, and raises where nothing may go back from it.
    """

    model: Mixture
    forward: Callable[[Batch], MixtureOutput]
    objective: Objective
    check: Check

    def __call__(self, batches: Sequence[Batch]) -> Tensor:
        """Leave the gradient of a step's micro-batches in the weights; gives the loss.

        An expert that no text of the step, in any process, gave weight keeps no gradient, so that it gets no decay
        either (method 2).
        """
        self.objective.begin()
        idle = set(self.model.bank.routed_experts)
        if len(batches) == 1:
            loss = self._once(batches[0], idle)
        elif self.objective.base == "language":
            loss = self._streamed(batches, idle)
        else:
            loss = self._twice(batches, idle)
        self.objective.settle()
        distributed.all_reduce_gradients(self.model.parameters())
        self._let_rest(idle)
        return loss

    def _let_rest(self, idle: set[str]) -> None:
        names = self.model.bank.routed_experts
        used = distributed.all_reduce(torch.tensor([float(name not in idle) for name in names], device=self.model.domain_expert_mask.device))
        for name, processes in zip(names, used.tolist(), strict=True):
            if not processes:
                for parameter in self.model.bank.adapter_parameters(name).values():
                    parameter.grad = None

    def _run(self, batch: Batch, idle: set[str]) -> MixtureOutput:
        out = self.forward(batch)
        idle &= set(self.model.bank.unused_experts())
        return out

    def _once(self, batch: Batch, idle: set[str]) -> Tensor:
        loss = self.objective(self._run(batch, idle), batch)
        self.check(loss, self.objective.logs)
        loss.backward()
        return loss.detach()

    def _twice(self, batches: Sequence[Batch], idle: set[str]) -> Tensor:
        parts: list[MicroBatch] = []
        numbers: list[_Random] = []
        for batch in batches:
            numbers.append(_Random.now(self.model.domain_expert_mask.device))
            with self.model.no_backbone_grad():
                parts.append((self.forward(batch), batch))
        loss = self.objective.over(parts)
        self.check(loss, self.objective.logs)
        places = [_small(out) for out, _ in parts]
        found = iter(torch.autograd.grad(loss, [one for some in places for one in some], allow_unused=True))
        above = [[next(found) for _ in some] for some in places]
        del parts, places
        for batch, state, gradients in zip(batches, numbers, above, strict=True):
            state.restore()
            out = self._run(batch, idle)
            self.objective.watch(out.routing)
            pairs = [(one, g) for one, g in zip(_small(out), gradients, strict=True) if g is not None]
            torch.autograd.backward([one for one, _ in pairs], [g for _, g in pairs])
        return loss.detach()

    def _streamed(self, batches: Sequence[Batch], idle: set[str]) -> Tensor:
        asked = distributed.all_reduce(torch.stack([(batch["tokens"] != IGNORE_INDEX).sum() for batch in batches]).sum())
        parts: list[MicroBatch] = []
        values: list[Tensor] = []
        for batch in batches:
            out = self._run(batch, idle)
            self.objective.watch(out.routing)
            loss = self.objective.language(out, batch, int(asked))
            if loss is not None:
                loss.backward(
                    retain_graph=out.routing is not None
                )  # the router's own few nodes are gone back through again
                values.append(loss.detach())
            parts.append((replace(out, pooled=out.pooled.detach()[:0]), batch))
            del out, loss  # and with them the graph, before the next one is made
        told = distributed.all_reduce(torch.stack(values).sum()) if values else None
        loss = self.objective.over(parts, told)
        self.check(loss, self.objective.logs)
        if loss.requires_grad:
            loss.backward()
        return loss.detach()


def _small(out: MixtureOutput) -> list[Tensor]:
    """What the loss of labelled rows is made of, where a gradient goes on from it."""
    found = [*out.logits.values(), out.polarity, None if out.routing is None else out.routing.probs]
    return [one for one in found if one is not None and one.requires_grad]


@dataclass(frozen=True)
class _Random:
    """Where torch's random numbers stand."""

    cpu: Tensor
    gpu: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> "_Random":
        gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), gpu, device)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)

"""The backward pass of one optimizer step, in one pass or in micro-batches with the same gradient (method 3 and 4).

Class shares, mean gates and DAO's gradient norms belong to the whole step, so its loss is known only after all rows.
Labelled rows are therefore run twice (gradient caching, Gao et al. 2021): first without a graph, to compute
the loss and its gradient at the outputs; then again, with the same random numbers, to backpropagate that gradient.
A language model's loss needs only the number of target tokens, and the router's loss only the outputs of one pass:
there nothing is run twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe import distributed
from moe.data.collator import Batch
from moe.model.lm_head import IGNORE_INDEX
from moe.model.mixture import Mixture
from moe.model.outputs import MixtureOutput
from moe.training.loss.global_batch import MicroBatch
from moe.training.loss.objective import Objective

ForwardPass = Callable[[Batch, bool], MixtureOutput]
"""Runs the model on a batch, with or without recording gradients in the backbone."""
LossCheck = Callable[[Tensor, Mapping[str, float]], None]


@dataclass(frozen=True)
class BackwardPass:
    """Runs the backward pass of one optimizer step.

    Args:
        model: whose gradients are computed.
        forward: runs the model on a batch.
        objective: the loss.
        check: called with the loss and its parts before the backward pass; raises if the step must be skipped.
    """

    model: Mixture
    forward: ForwardPass
    objective: Objective
    check: LossCheck

    def __call__(self, batches: Sequence[Batch]) -> Tensor:
        """Compute the gradient of a step's micro-batches in the weights, and return the loss.

        An expert that had weight 0 in every text of the step, in all processes, keeps no gradient, so that weight decay
        does not change it either (method 2).
        """
        self.objective.start_step()
        unused = set(self.model.bank.routed_experts)
        if len(batches) == 1:
            loss = self._single_batch(batches[0], unused)
        elif self.objective.base == "language":
            loss = self._language_batches(batches, unused)
        else:
            loss = self._cached_batches(batches, unused)
        self.objective.finish_step()
        distributed.all_reduce_gradients(self.model.parameters())
        self._clear_gradients(unused)
        return loss

    def _clear_gradients(self, unused: set[str]) -> None:
        """Remove the gradients of experts that no process has used."""
        names, device = self.model.bank.routed_experts, self.model.domain_expert_mask.device
        users = distributed.all_reduce(
            torch.tensor([float(name not in unused) for name in names], device=device)
        )  # (E,)
        for name, processes in zip(names, users.tolist(), strict=True):
            if not processes:
                for parameter in self.model.bank.adapter_parameters(name).values():
                    parameter.grad = None

    def _run(self, batch: Batch, unused: set[str]) -> MixtureOutput:
        output = self.forward(batch, True)
        unused &= set(self.model.bank.unused_experts(output.gates))
        return output

    def _single_batch(self, batch: Batch, unused: set[str]) -> Tensor:
        loss = self.objective(self._run(batch, unused), batch)
        self.check(loss, self.objective.logs)
        loss.backward()
        return loss.detach()

    def _cached_batches(self, batches: Sequence[Batch], unused: set[str]) -> Tensor:
        """Run labelled micro-batches twice: for the loss and its gradient at the outputs, then to backpropagate it."""
        micro_batches: list[MicroBatch] = []
        rng_states: list[_RngState] = []
        for batch in batches:
            rng_states.append(_RngState.current(self.model.domain_expert_mask.device))
            micro_batches.append((self.forward(batch, False), batch))
        loss = self.objective.compute(micro_batches)
        self.check(loss, self.objective.logs)
        outputs = [_output_tensors(output) for output, _ in micro_batches]
        every = [tensor for tensors in outputs for tensor in tensors]
        remaining = iter(torch.autograd.grad(loss, every, allow_unused=True))
        output_gradients = [[next(remaining) for _ in tensors] for tensors in outputs]
        del micro_batches, outputs, every
        for batch, rng_state, gradients in zip(batches, rng_states, output_gradients, strict=True):
            rng_state.restore()
            output = self._run(batch, unused)
            self.objective.record_gradient_norm(output.routing)
            tensors = _output_tensors(output)
            pairs = [(tensor, grad) for tensor, grad in zip(tensors, gradients, strict=True) if grad is not None]
            torch.autograd.backward([tensor for tensor, _ in pairs], [grad for _, grad in pairs])
        return loss.detach()

    def _language_batches(self, batches: Sequence[Batch], unused: set[str]) -> Tensor:
        """Backpropagate the language-model loss per micro-batch, then the router's loss of the whole step."""
        tokens = distributed.all_reduce(
            torch.stack([(batch["tokens"] != IGNORE_INDEX).sum() for batch in batches]).sum()
        )
        micro_batches: list[MicroBatch] = []
        values: list[Tensor] = []
        for batch in batches:
            output = self._run(batch, unused)
            self.objective.record_gradient_norm(output.routing)
            loss = self.objective.language_loss(output, batch, int(tokens))
            if loss is not None:
                # The router's loss runs a second backward pass through the router's few nodes.
                loss.backward(retain_graph=output.routing is not None)
                values.append(loss.detach())
            micro_batches.append((replace(output, pooled=output.pooled.detach()[:0]), batch))
            del output, loss  # frees the graph before the next one is built
        language_loss = distributed.all_reduce(torch.stack(values).sum()) if values else None
        loss = self.objective.compute(micro_batches, language_loss)
        self.check(loss, self.objective.logs)
        if loss.requires_grad:
            loss.backward()
        return loss.detach()


def _output_tensors(output: MixtureOutput) -> list[Tensor]:
    """The outputs from which the loss of labelled rows is computed, those that have a gradient."""
    tensors = [*output.logits.values(), output.polarity, None if output.routing is None else output.routing.probs]
    return [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]


@dataclass(frozen=True)
class _RngState:
    """State of torch's random number generators."""

    cpu: Tensor
    gpu: Tensor | None
    device: torch.device

    @classmethod
    def current(cls, device: torch.device) -> "_RngState":
        gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), gpu, device)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)

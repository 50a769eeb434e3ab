"""Collectives for training in several processes, on accelerate's state; each is a no-op where there is one process."""

import atexit
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import PartialState
    from torch.distributed.tensor import DTensor

T = TypeVar("T")
_MAIN_ONLY: ContextVar[bool] = ContextVar("main_only", default=False)
"""Whether rank 0 is running a block that the other processes do not run, so that it must not wait for them."""


def rank() -> int:
    """Rank of this process, 0 … world size − 1; known before the process group is initialized."""
    return 0 if _MAIN_ONLY.get() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes that train together; known before the process group is initialized."""
    return 1 if _MAIN_ONLY.get() else int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this is rank 0, the process that writes files and prints."""
    return rank() == 0


def init_process_group() -> None:
    """Initialize the process group, over NCCL with GPUs and gloo without; does nothing for a single process."""
    if world_size() > 1:
        _state()


@cache
def _state() -> "PartialState":
    """State of this process in its group, which is initialized on first use; the training loop has the same one."""
    from accelerate import PartialState  # slow to import, and needed only with several processes

    state = PartialState(cpu=not torch.cuda.is_available())
    # A thread of the group that still runs while the interpreter shuts down can abort the process (SIGABRT).
    atexit.register(state.destroy_process_group)
    return state


def barrier() -> None:
    """Wait until all processes have reached this point."""
    if world_size() > 1:
        _state().wait_for_everyone()


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block on rank 0 first, then on the others, which can read the files that rank 0 has written."""
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()


def on_main_process(write: Callable[[], object]) -> None:
    """Run `write` on rank 0, then barrier."""
    if is_main_process():
        _run_main_only(write)
    barrier()


def broadcast_from_main(make: Callable[[], T]) -> T:
    """Run `make` on rank 0 and return its result, plain JSON values, in every process."""
    content: T = broadcast_object(_run_main_only(make) if is_main_process() else None)
    return content


def _run_main_only(function: Callable[[], T]) -> T:
    before = _MAIN_ONLY.set(True)
    try:
        return function()
    finally:
        _MAIN_ONLY.reset(before)


def all_reduce_max(number: int) -> int:
    """Maximum of a number over all processes, so that all of them take the same branch."""
    if world_size() == 1:
        return number
    greatest = torch.tensor(number, device=_state().device)
    dist.all_reduce(greatest, op=dist.ReduceOp.MAX)
    return int(greatest)


def broadcast_object(content: Any) -> Any:
    """Return rank 0's `content`, plain JSON values, in every process."""
    if world_size() == 1:
        return content
    # As JSON: accelerate's and torch's own broadcast of objects unpickles what it receives, which can run any code.
    data = torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8, device=_state().device)  # (N,)
    size = torch.tensor(len(data), device=_state().device)
    dist.broadcast(size, src=0)
    data = data if is_main_process() else data.new_empty(int(size))
    dist.broadcast(data, src=0)
    return content if is_main_process() else json.loads(bytes(data.tolist()))


def all_reduce(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes, as a new tensor without gradient; shapes must agree."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def scalar_all_reduce(part: Tensor) -> Tensor:
    """Scalar whose value is the sum over all processes and whose gradient is that of this process's part."""
    return part if world_size() == 1 else part + (all_reduce(part) - part.detach())


def global_norm(norms: Tensor) -> Tensor:
    """L2 norm of a vector from the norms of its pieces, in this and all other processes; any shape → scalar."""
    return norms.norm() if world_size() == 1 else all_reduce(norms.square().sum()).sqrt()


def all_gather(rows: Tensor) -> Tensor:
    """Concatenate rows (B, …) of every process in rank order, (ΣB, …); the backward pass reaches this process's own.

    Each process then computes the loss of all rows, but only the part of its gradient that belongs to its own rows:
    summed over processes these parts are the gradient that one process with all rows would compute.
    """
    apply: Callable[[Tensor], Tensor] = _AllGather.apply
    return rows if world_size() == 1 else apply(rows)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = [torch.zeros((), dtype=torch.long, device=rows.device) for _ in range(world_size())]
        dist.all_gather(counts, torch.tensor(len(rows), device=rows.device))
        sizes = [int(count) for count in counts]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # (max B, …)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.own = slice(sum(sizes[: rank()]), sum(sizes[: rank() + 1]))
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])  # (ΣB, …)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad[ctx.own]


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes; a parameter without gradient everywhere keeps none.

    Gradients of sharded weights are only rescaled: FSDP2 has already averaged them over processes.
    """
    if world_size() == 1:
        return
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    replicated = [parameter for parameter in trainable if not _is_sharded(parameter)]
    for parameter in trainable:
        if _is_sharded(parameter) and parameter.grad is not None:
            parameter.grad.mul_(world_size())
    flags = [parameter.grad is not None for parameter in replicated]
    holders = all_reduce(
        torch.tensor(flags, dtype=torch.float32, device=_state().device)
    )  # (N,), processes with a gradient
    used = [parameter for parameter, holding in zip(replicated, holders.tolist(), strict=True) if holding]
    grads = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in used]
    if grads:
        flat = all_reduce(torch.cat([grad.float().flatten() for grad in grads]))  # (P,)
        for parameter, grad in zip(used, flat.split([parameter.numel() for parameter in used]), strict=True):
            parameter.grad = grad.view_as(parameter).to(parameter.dtype)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """L2 norm of all gradients, of sharded and of full tensors."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    sharded = [grad.to_local().float().square().sum() for grad in grads if _is_sharded(grad)]
    full = [grad.float().square().sum() for grad in grads if not _is_sharded(grad)]
    zero = torch.zeros((), device=grads[0].device if grads else None)
    total = all_reduce(torch.stack(sharded).sum()) if sharded else zero
    return (total + (torch.stack(full).sum() if full else zero)).sqrt()


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip gradients to an L2 norm, and return the norm before clipping."""
    every = list(parameters)
    norm = gradient_norm(every)
    scale = float(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    for parameter in every:
        if parameter.grad is not None:
            parameter.grad.mul_(scale)
    return norm


def broadcast_parameters(tensors: Iterable[Tensor]) -> None:
    """Give every process rank 0's values of the tensors that are not sharded."""
    if world_size() > 1:
        for tensor in (tensor for tensor in tensors if not _is_sharded(tensor)):
            dist.broadcast(tensor.data, src=0)


def _is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    from torch.distributed.tensor import DTensor  # slow to import, and needed only in training

    return isinstance(tensor, DTensor)

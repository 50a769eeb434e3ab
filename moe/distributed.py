"""Training in several processes: which one this is, rows of all of them together, sums over them, and who goes first.

Alone, everything here is what it is without. Who starts the processes is torchrun's or Accelerate's matter; what is
computed from the rows, `moe.training.objective`'s.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)
"""Whether this process now does something on its own, which must not wait for the others."""


def rank() -> int:
    """This process's place, 0 … world − 1; known before the processes have met."""
    if _ALONE.get():
        return 0
    return distributed.get_rank() if _met() else int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes train together."""
    if _ALONE.get():
        return 1
    return distributed.get_world_size() if _met() else int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def _met() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def meet() -> None:
    """Join the others, over NCCL with GPUs and gloo without; nothing where there are none."""
    if world() > 1 and not _met():
        from accelerate import PartialState  # also what transformers' Trainer takes its device from

        PartialState(cpu=not torch.cuda.is_available())


def wait() -> None:
    """Go on when every process is here."""
    if world() > 1:
        meet()
        distributed.barrier()


@contextmanager
def first_before_others() -> Iterator[None]:
    """The first process runs the block, then the others do: they find on disk what it has written there."""
    if not first():
        wait()
    yield
    if first():
        wait()


def by_first(write: Callable[[], object]) -> None:
    """Let the first process write, as if it were alone; the others go on when it has."""
    if first():
        _as_alone(write)
    wait()


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, as if it were alone, in every one: plain JSON values."""
    return told_by_first(_as_alone(make) if first() else None)


def _as_alone(do: Callable[[], T]) -> T:
    before = _ALONE.set(True)
    try:
        return do()
    finally:
        _ALONE.reset(before)


def agreed(number: int) -> int:
    """The greatest of the processes' numbers, so that all of them go the same way."""
    if world() == 1:
        return number
    all_of = torch.tensor(number, device=_device())
    distributed.all_reduce(all_of, op=distributed.ReduceOp.MAX)
    return int(all_of)


def told_by_first(content: Any) -> Any:
    """What the first process has, plain JSON values, in every one."""
    if world() == 1:
        return content
    said = torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8, device=_device())  # (N,)
    size = torch.tensor(len(said), device=_device())
    distributed.broadcast(size, src=0)
    said = said if first() else said.new_empty(int(size))
    distributed.broadcast(said, src=0)
    return content if first() else json.loads(bytes(said.tolist()))


def total(value: Tensor) -> Tensor:
    """The sum of the processes' tensors, of one shape; no gradient goes through."""
    if world() == 1:
        return value
    whole = value.detach().clone()
    distributed.all_reduce(whole)
    return whole


def whole_of(part: Tensor) -> Tensor:
    """A scalar with the value of all processes' sum and the gradient of this one's part."""
    return part if world() == 1 else part + (total(part) - part.detach())


def norm_of(norms: Tensor) -> Tensor:
    """The norm of a vector of which each number, here and in every process, is a piece's norm; any shape."""
    return norms.norm() if world() == 1 else total(norms.square().sum()).sqrt()


def gathered(rows: Tensor) -> Tensor:
    """Rows (B, …) of every process, in their order, (ΣB, …); a gradient goes back to this process's own.

    So each process computes the loss of all rows, and its gradient is its own rows' part of that loss's: summed over
    processes they are the gradient that one process with all the rows would have.
    """
    return rows if world() == 1 else _Gathered.apply(rows)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = [torch.zeros((), dtype=torch.long, device=rows.device) for _ in range(world())]
        distributed.all_gather(counts, torch.tensor(len(rows), device=rows.device))
        sizes = [int(count) for count in counts]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # (max B, …)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        ctx.own = slice(sum(sizes[: rank()]), sum(sizes[: rank() + 1]))
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])  # (ΣB, …)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Tensor:
        return above[ctx.own]


def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by the sum of all processes'; one that none of them has stays away.

    Those of weights that are shared out were meaned over processes as they were made (FSDP2).
    """
    if world() == 1:
        return
    every = [one for one in parameters if one.requires_grad]
    learning = [one for one in every if not _shared_out(one)]
    for one in every:
        if _shared_out(one) and one.grad is not None:
            one.grad.mul_(world())
    has = total(torch.tensor([one.grad is not None for one in learning], dtype=torch.float32, device=_device()))
    here = [one for one, anywhere in zip(learning, has.tolist(), strict=True) if anywhere]
    grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in here]
    if grads:
        flat = total(torch.cat([grad.float().flatten() for grad in grads]))  # (P,)
        for one, grad in zip(here, flat.split([one.numel() for one in here]), strict=True):
            one.grad = grad.view_as(one).to(one.dtype)


def start_alike(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values of what it holds whole."""
    if world() > 1:
        for one in (each for each in tensors if not _shared_out(each)):
            distributed.broadcast(one.data, src=0)


def _shared_out(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor  # slow to import, and only processes have it

    return isinstance(tensor, DTensor)


def _device() -> torch.device:
    cuda = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")

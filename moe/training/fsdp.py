"""The backbone and the experts beside it, shared out over processes by torch's FSDP2: each holds a part of each weight.

A layer is put together while it runs, and taken apart again. Gate and heads, which are small, stay whole everywhere.
How processes share a step is `moe.distributed`'.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from experts.lora import find_layer_stack
from moe import distributed
from moe.errors import Fault
from moe.model.mixture import Mixture


def shard(model: Mixture) -> None:
    """Share a model's backbone out, layer by layer; nothing where there is one process only.

    Raises:
        Fault: when its weights are quantised.
    """
    if distributed.world_size() == 1:
        return
    if hasattr(model.backbone, "hf_quantizer"):
        raise Fault("a backbone in 16 or 32 bits to be sharded", "quantised weights", "set stages.shard to false")
    mesh = init_device_mesh(model.domain_expert_mask.device.type, (distributed.world_size(),))
    for layer in find_layer_stack(model.backbone)[1]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model.backbone, mesh=mesh)
    model.bank.route.caching = False  # a layer's weights are made anew in every pass, at the same place


def gather_experts(model: Mixture) -> None:
    """Lay whole experts where parts of them lay, to be written; the backbone runs no more."""
    for layer in model.bank.gated_layers:
        for side in (layer.lora_A, layer.lora_B):
            for name, part in side.items():
                if isinstance(part, DTensor):
                    side[name] = nn.Parameter(part.full_tensor().detach(), requires_grad=part.requires_grad)


def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, those put together of which each process holds a part; all processes have to ask."""
    return {name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in tensors.items()}


def distribute_like(value: Tensor, part: Tensor) -> Tensor:
    """A whole tensor shared out as another is; as it is where that one is whole, or of another shape."""
    if not isinstance(part, DTensor) or isinstance(value, DTensor) or value.shape != part.shape:
        return value
    return distribute_tensor(value.to(part.device), part.device_mesh, part.placements)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The L2 norm of all gradients, of whole tensors and of those that are shared out."""
    grads = [one.grad for one in parameters if one.grad is not None]
    parts = [grad.to_local().float().square().sum() for grad in grads if isinstance(grad, DTensor)]
    own = [grad.float().square().sum() for grad in grads if not isinstance(grad, DTensor)]
    none = torch.zeros((), device=grads[0].device if grads else None)
    shared = distributed.all_reduce(torch.stack(parts).sum()) if parts else none
    return (shared + (torch.stack(own).sum() if own else none)).sqrt()


def clip_gradients(parameters: Iterable[nn.Parameter], most: float, norm_type: float = 2.0) -> Tensor:
    """Scale all gradients down to this L2 norm if theirs is greater; gives theirs."""
    every = list(parameters)
    norm = gradient_norm(every)
    scale = float(torch.clamp(most / (norm + 1e-6), max=1.0))
    for one in every:
        if one.grad is not None:
            one.grad.mul_(scale)
    return norm

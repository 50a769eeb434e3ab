"""Sharding of the backbone and its experts over processes with FSDP2; gate and heads, which are small, are replicated.

Each process holds a part of every weight; a layer's weights are gathered while it runs.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from experts.lora import find_layer_stack
from moe import distributed
from moe.errors import Fault
from moe.model.mixture import Mixture


def shard(model: Mixture) -> None:
    """Shard a model's backbone layer by layer over all processes; does nothing for a single one.

    Raises:
        Fault: if its weights are quantized.
    """
    if distributed.world_size() == 1:
        return
    if hasattr(model.backbone, "hf_quantizer"):
        raise Fault("a backbone in 16 or 32 bits for sharding", "quantized weights", "set stages.shard to false")
    shard_over(model, init_device_mesh(model.domain_expert_mask.device.type, (distributed.world_size(),)))


def shard_over(model: Mixture, mesh: DeviceMesh) -> None:
    """Shard a model's backbone layer by layer over the devices of a mesh."""
    for layer in find_layer_stack(model.backbone)[1]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model.backbone, mesh=mesh)
    # FSDP2 gathers a layer's weights again in every pass, at the same address, so a cached product may be stale.
    model.bank.route.caching = False


def gather_experts(model: Mixture) -> None:
    """Replace sharded expert weights by full ones, to save them; the backbone cannot run afterwards."""
    for layer in model.bank.gated_layers:
        for side in (layer.lora_A, layer.lora_B):
            for name, part in side.items():
                if isinstance(part, DTensor):
                    side[name] = nn.Parameter(part.full_tensor().detach(), requires_grad=part.requires_grad)


def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather sharded tensors; a collective call, which all processes must make."""
    return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}


def distribute_like(value: Tensor, part: Tensor) -> Tensor:
    """Shard a full tensor as `part` is sharded; unchanged if `part` is not sharded or has another shape."""
    if not isinstance(part, DTensor) or isinstance(value, DTensor) or value.shape != part.shape:
        return value
    return distribute_tensor(value.to(part.device), part.device_mesh, part.placements)

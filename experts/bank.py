"""N LoRA adapters beside one frozen backbone: the gated linear layer; attach, freeze and train by name.

It is handed gates as one tensor and does not know who made them; files are `experts.folder`'s.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from experts.errors import Fault
from experts.lora import LayerMap, Touch, check_trunk, touched_layers

PREFIX = "base_model.model."


class Route:
    """The gates of the texts now in the backbone, shared by all gated layers of one bank."""

    def __init__(self) -> None:
        self.gates: Tensor | None = None  # (B, E) or (B, T, E); B = 1 holds for every text
        self.columns: dict[str, int] = {}
        self.active: tuple[str, ...] = ()
        self._scales: dict[tuple[tuple[str, Touch], ...], Tensor] = {}

    def set(self, gates: Tensor | None, columns: dict[str, int], active: tuple[str, ...]) -> None:
        """Lay the gates for the passes that follow; None switches every expert off."""
        self.gates, self.columns, self.active = gates, columns, active
        self._scales = {}

    @contextmanager
    def text(self, row: int) -> Iterator[None]:
        """Narrow the route to one text, for layers that see no batch dimension."""
        whole, scales = self.gates, self._scales
        assert whole is not None
        self.gates, self._scales = whole[row : row + 1], {}
        try:
            yield
        finally:
            self.gates, self._scales = whole, scales

    def scale(self, touches: tuple[tuple[str, Touch], ...]) -> Tensor:
        """`g · s`, one column a rank (method 1), in fp32: (B, 1, R), or (B, T, R) for gates per token.

        Kept for the pass, since most layers of a backbone ask for the same columns.
        """
        if touches not in self._scales:
            assert self.gates is not None
            order = [self.columns[name] for name, _ in touches]
            factors = self.gates.new_tensor([touch.scaling for _, touch in touches], dtype=torch.float32)  # (E,)
            ranks = torch.tensor([touch.rank for _, touch in touches], device=self.gates.device)  # (E,)
            scaled = self.gates[..., order].float() * factors  # (B, E) or (B, T, E)
            wide = scaled.repeat_interleave(ranks, dim=-1)  # (B, R) or (B, T, R)
            self._scales[touches] = wide if wide.dim() == 3 else wide[:, None]  # (B, 1, R)
        return self._scales[touches]


class GatedLinear(nn.Module):
    """`y = W x + b + Σ_e g_e s_e B_e A_e x`, experts stacked by rank (method 1)."""

    def __init__(self, base: nn.Module, route: Route) -> None:
        super().__init__()
        self.base = base
        self.route = route
        self.touches: dict[str, Touch] = {}
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        self.dropout = 0.0

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for code that looks at its dtype or device."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return self.base.bias  # type: ignore[return-value]

    def add(self, name: str, touch: Touch) -> None:
        """Lay a fresh adapter beside the weight: A as PEFT initialises it, B zero."""
        inputs, outputs = linear_size(self.base)
        a = torch.empty(touch.rank, inputs, device=self.weight.device)  # (R, D_in)
        nn.init.kaiming_uniform_(a, a=5**0.5)
        self.touches[name] = touch
        self.lora_A[name] = nn.Parameter(a)
        self.lora_B[name] = nn.Parameter(a.new_zeros(outputs, touch.rank))  # (D_out, R)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D_in), or the same flattened to (B·T, D_in), to the same with D_out."""
        y = self.base(x)
        here = tuple((name, self.touches[name]) for name in self.route.active if name in self.touches)
        if self.route.gates is None or not here:
            return y
        return y + self._delta(x, here).to(y.dtype)

    def _delta(self, x: Tensor, here: tuple[tuple[str, Touch], ...]) -> Tensor:
        a = torch.cat([self.lora_A[name] for name, _ in here])  # (R, D_in)
        b = torch.cat([self.lora_B[name] for name, _ in here], dim=1)  # (D_out, R)
        scale = self.route.scale(here)  # (B, 1, R)
        inputs = x.to(a.dtype)
        if x.dim() == 2 and scale.numel() > scale.shape[-1]:
            inputs = inputs.view(scale.shape[0], -1, x.shape[-1])  # (B, T, D_in)
        low = F.linear(drop(inputs, self.dropout if self.training else 0.0), a)  # (B, T, R)
        if x.dim() == 2:
            low = low.view(scale.shape[0], -1, low.shape[-1]) if scale.numel() > scale.shape[-1] else low[None]
        return F.linear(low * scale.to(low.dtype), b).view(*x.shape[:-1], -1)  # (B, T, D_out)


def drop(x: Tensor, share: float) -> Tensor:
    """Dropout: a share of the entries of x (any shape) becomes zero, the others grow by 1 / (1 − share).

    On a CPU torch draws one number an entry, which costs as much as an expert; 64 random bits serve four entries here,
    so the share is rounded to 1/65536.
    """
    if x.device.type != "cpu" or share == 0.0:
        return F.dropout(x, share)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)  # each of −2¹⁵ … 2¹⁵ − 1 alike
    return x * (draws >= round(share * 2**16) - 2**15) / (1.0 - share)


@dataclass(frozen=True)
class Attached:
    """One adapter of a bank: PEFT's config, the layers it touches, and whether it is always on."""

    config: LoraConfig
    layers: dict[str, Touch]
    always_on: bool


class ExpertBank:
    """The adapters of one backbone, by name. The backbone's own weights are frozen for good.

    Args:
        backbone: a loaded transformers model; its linear layers are wrapped in place as adapters arrive.
        trunk_depth: how many first layers stay free of experts.
    """

    def __init__(self, backbone: PreTrainedModel, trunk_depth: int = 0) -> None:
        backbone.requires_grad_(False)
        self.layers = LayerMap.of(backbone)
        check_trunk(self.layers, trunk_depth)
        self.backbone, self.trunk_depth = backbone, trunk_depth
        self.training = False
        self.route_state = Route()
        self.attached: dict[str, Attached] = {}
        self._gated: dict[str, GatedLinear] = {}
        self._prefix = f"{backbone.base_model_prefix}."
        gate_position_biases(backbone, self.route_state)

    @property
    def names(self) -> tuple[str, ...]:
        """The routed experts, in the order of the gates' columns."""
        return tuple(name for name, one in self.attached.items() if not one.always_on)

    @property
    def shared(self) -> tuple[str, ...]:
        """The experts that are always on, outside the gates' sum."""
        return tuple(name for name, one in self.attached.items() if one.always_on)

    def attach(self, name: str, config: LoraConfig, always_on: bool = False) -> None:
        """Lay a fresh adapter beside every layer that `config` names.

        Raises:
            Fault: when it names no layer of this backbone, or one inside the trunk.
        """
        assert name not in self.attached, name
        touches = self._touches(name, config)
        for path, touch in touches.items():
            self._wrap(path).add(name, touch)
        self.attached[name] = Attached(config, touches, always_on)

    def _touches(self, name: str, config: LoraConfig) -> dict[str, Touch]:
        plain = touched_layers(self.layers, config)
        low = [path for path in plain if self.layers.index(path) < self.trunk_depth]
        if not plain:
            raise Fault(
                f"expert {name} to touch linear layers of {type(self.backbone).__name__}",
                f"none that match {sorted(config.target_modules or ())}",
                "use an adapter trained on this backbone",
            )
        if low:
            raise Fault(
                f"expert {name} to leave the first {self.trunk_depth} layers (the trunk) alone",
                f"an adapter on {low[0]}",
                "set trunk_depth to 0, or train the expert after this trunk",
            )
        return plain

    def _wrap(self, path: str) -> GatedLinear:
        if path not in self._gated:
            parent, _, child = path.rpartition(".")
            owner = self.backbone.get_submodule(parent)
            self._gated[path] = GatedLinear(getattr(owner, child), self.route_state)
            self._gated[path].train(self.training)
            setattr(owner, child, self._gated[path])
        return self._gated[path]

    def route(self, gates: Tensor | None, only: str | None = None) -> None:
        """Blend by these gates from now on.

        Args:
            gates: (B, E), or (B, T, E) for gates per token, columns as `names`; None leaves only the shared experts.
            only: says that all weight is on this expert, so that the others need not be computed.
        """
        device = self.backbone.device
        gates = torch.zeros(1, len(self.names), device=device) if gates is None else gates  # (B, E)
        always = gates.new_ones(*gates.shape[:-1], len(self.shared))  # (B, S)
        columns = {name: i for i, name in enumerate((*self.names, *self.shared))}
        active = (only,) if only else tuple(self.names[i] for i in self._used(gates))
        self.route_state.set(torch.cat([gates, always], -1), columns, (*active, *self.shared))

    def _used(self, gates: Tensor) -> list[int]:
        if gates.requires_grad or self.training:
            return list(range(gates.shape[-1]))
        return gates.flatten(0, -2).ne(0).any(0).nonzero().flatten().tolist()

    def constant(self, name: str) -> None:
        """The constant route: this expert alone (with the shared ones), for every text."""
        if name in self.shared:
            return self.route(None)
        gates = torch.zeros(1, len(self.names), device=self.backbone.device)  # (1, E)
        gates[0, self.names.index(name)] = 1.0
        return self.route(gates, only=name)

    def train(self, mode: bool = True) -> None:
        """Let the experts' dropout act, or not. The frozen backbone's own never does: nothing in it is fitted."""
        self.training = mode
        for layer in self._gated.values():
            layer.train(mode)

    def set_dropout(self, share: float) -> None:
        """Drop this share of the experts' inputs in training, one mask for all experts of a layer."""
        for layer in self._gated.values():
            layer.dropout = share

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        """One expert's parameters under PEFT's keys: `base_model.model.<layer>.lora_A.weight`."""
        found = {}
        for path in self.attached[name].layers:
            found[f"{PREFIX}{path}.lora_A.weight"] = self._gated[path].lora_A[name]
            found[f"{PREFIX}{path}.lora_B.weight"] = self._gated[path].lora_B[name]
        return found

    def freeze(self) -> None:
        """No expert learns."""
        self.train_only()

    def train_only(self, *names: str) -> None:
        """The named experts learn, the others do not. Which are active is told by the gates alone."""
        for name in self.attached:
            for parameter in self.parameters_of(name).values():
                parameter.requires_grad_(name in names)

    def unused(self) -> tuple[str, ...]:
        """The routed experts that got no weight from any text of the last pass."""
        gates = self.route_state.gates
        if gates is None:
            return self.names
        shares = gates.detach().flatten(0, -2).sum(0)  # (E + S,)
        return tuple(name for name in self.names if shares[self.route_state.columns[name]] == 0)

    def load(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Fill one attached expert, strictly.

        Raises:
            Fault: when a tensor is missing, unexpected or of another shape.
        """
        mine = self.parameters_of(name)
        given = {self._own_key(key, mine): value for key, value in weights.items()}
        missing, extra = sorted(mine.keys() - given.keys()), sorted(given.keys() - mine.keys())
        shapes = [k for k in mine.keys() & given.keys() if mine[k].shape != given[k].shape]
        if faults := [*missing, *extra, *shapes]:
            raise Fault(
                f"weights that fit expert {name} ({len(mine)} tensors)",
                f"{len(missing)} missing, {len(extra)} unexpected, {len(shapes)} of another shape, e.g. {faults[0]}",
                "use an adapter trained on this backbone and these layers",
            )
        with torch.no_grad():
            for key, parameter in mine.items():
                parameter.copy_(given[key])

    def _own_key(self, key: str, mine: Mapping[str, object]) -> str:
        """An adapter trained on the model with a head has the backbone's prefix in its keys."""
        bare = PREFIX + key.removeprefix(PREFIX).removeprefix(self._prefix)
        return bare if key not in mine and bare in mine else key


def linear_size(layer: nn.Module) -> tuple[int, int]:
    """A linear layer's input and output size, Conv1D's transposed weight included."""
    if isinstance(layer, Conv1D):
        return layer.weight.shape[0], layer.weight.shape[1]
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def gate_position_biases(backbone: PreTrainedModel, route: Route) -> None:
    """DeBERTa projects its relative positions once for all texts; let each text's gates act on its own.

    Its attention bias is then made text by text, with the model's own code, wherever texts have different gates.
    """
    for module in backbone.modules():
        if hasattr(module, "disentangled_attention_bias"):
            module.disentangled_attention_bias = _bias_by_text(module, route)


def _bias_by_text(attention: nn.Module, route: Route):  # type: ignore[no-untyped-def]
    whole, heads = attention.disentangled_attention_bias, attention.num_attention_heads

    def bias(query: Tensor, key: Tensor, *others: object) -> Tensor:  # (B·H, T, D) each
        if route.gates is None or route.gates.shape[0] == 1:
            return whole(query, key, *others)  # type: ignore[operator]
        pieces = []
        for row in range(route.gates.shape[0]):
            own = slice(row * heads, (row + 1) * heads)  # type: ignore[operator]
            with route.text(row):
                pieces.append(whole(query[own], key[own], *others))  # type: ignore[operator]
        return torch.cat(pieces)  # (B·H, T, T)

    return bias

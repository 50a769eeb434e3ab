"""The gated linear layer: a frozen weight, the adapters beside it, and the route that blends them.

Which layers are gated, and which adapters learn, is `experts.bank`'s.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from experts.lora import Touch


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

"""The gated linear layer: a frozen weight, the adapters beside it, and the route that blends them.

Which layers are gated, and which adapters learn, is `experts.adapter_bank`'s.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from experts.lora import LoraSpec

ActiveSpecs = tuple[tuple[str, LoraSpec], ...]
SHARED_INPUT_LAYERS = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q", "k", "v"),
    ("q_lin", "k_lin", "v_lin"),
    ("gate_proj", "up_proj"),
)


class Route:
    """The gates of the texts now in the backbone, shared by all gated layers of one bank.

    Layers that read the very same tensor, as q, k and v do, have it multiplied by all their A at once, by their first.
    """

    def __init__(self) -> None:
        self.gates: Tensor | None = None  # (B, E) or (B, T, E); B = 1 holds for every text
        self.columns: dict[str, int] = {}
        self.active: tuple[str, ...] = ()
        self.keeps = True
        """Whether stacked weights may be kept from pass to pass; not where others put a layer's weights together."""
        self._scales: dict[ActiveSpecs, Tensor] = {}
        self._spreads: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        self.readers: dict[GatedLinear, list[GatedLinear]] = {}
        self._waiting: dict[GatedLinear, tuple[Tensor, Tensor]] = {}

    def set(
        self, gates: Tensor, columns: dict[str, int], active: tuple[str, ...], layers: "Iterable[GatedLinear]"
    ) -> None:
        """Lay the gates for the passes that follow through these layers.

        Scales are made here, for all layers that ask for the same columns at once, so that a layer only reads.
        """
        self.gates, self.columns, self.active, self._waiting = gates, columns, active, {}
        used = dict.fromkeys(one.here for one in layers if one.here)
        self._scales = {touches: self._scale(touches) for touches in used}

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Put the route back as it is now at the end, around a pass on the side."""
        before = self.gates, self.columns, self.active, self._scales
        try:
            yield
        finally:
            self.gates, self.columns, self.active, self._scales = before
            self._waiting = {}

    @contextmanager
    def text(self, row: int) -> Iterator[None]:
        """Narrow the route to one text, for layers that see no batch dimension."""
        kept = self.gates, self._scales, self._waiting
        assert self.gates is not None
        own = {touches: scale[row : row + 1] for touches, scale in self._scales.items()}
        self.gates, self._scales, self._waiting = self.gates[row : row + 1], own, {}
        try:
            yield
        finally:
            self.gates, self._scales, self._waiting = kept

    def low(self, layer: "GatedLinear", x: Tensor) -> Tensor:
        """`g · s · A x` of a layer, (…, R), made together with that of the other readers of x."""
        source, low = self._waiting.pop(layer, (None, None))
        if low is not None and source is x:
            return low
        layers = [layer, *(one for one in self.readers.get(layer, ()) if one.here)]
        lows = self._product(layers, x).split([one.rank for one in layers], dim=-1)  # each (…, R)
        self._waiting |= {one: (x, low) for one, low in zip(layers[1:], lows[1:], strict=True)}
        return lows[0]

    def _product(self, layers: list["GatedLinear"], x: Tensor) -> Tensor:
        a = _together([one.stacked_a(x.dtype) for one in layers], dim=0)  # (R, D_in)
        scale = _together([self.scale(one.here) for one in layers], dim=-1)  # (B, 1, R)
        x = fast_dropout(x, layers[0].dropout if layers[0].training else 0.0)
        low = F.linear(x, a)  # (B, T, R) or (B·T, R)
        whole = low if x.dim() == 3 else low.view(scale.shape[0], -1, a.shape[0])  # (B, T, R)
        scaled = whole * scale.to(low.dtype) if torch.is_grad_enabled() else whole.mul_(scale.to(low.dtype))
        return scaled.view(low.shape)  # (B, T, R) or (B·T, R)

    def scale(self, touches: ActiveSpecs) -> Tensor:
        """`g · s`, one column a rank (method 1), in fp32: (B, 1, R), or (B, T, R) for gates per token."""
        return self._scales[touches]

    def _scale(self, touches: ActiveSpecs) -> Tensor:
        assert self.gates is not None
        column, scaling = self._spread(touches, self.gates.device)
        wide = self.gates.index_select(-1, column).float() * scaling  # (B, R) or (B, T, R)
        return wide if wide.dim() == 3 else wide[:, None]  # (B, 1, R)

    def _spread(self, touches: ActiveSpecs, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which column of the gates each rank has, and its scaling, (R,) each.

        Kept for good: to send them to a GPU in every pass would stop the host each time.
        """
        key = (tuple(self.columns[name] for name, _ in touches), touches, device)
        if key not in self._spreads:
            column = [place for place, (_, touch) in zip(key[0], touches, strict=True) for _ in range(touch.rank)]
            scaling = [touch.scaling for _, touch in touches for _ in range(touch.rank)]
            with torch.inference_mode(False):  # what is kept may be read in training
                made = torch.tensor(column, device=device), torch.tensor(scaling, device=device)
            if torch.compiler.is_compiling():
                return made  # a tracer's stand-ins, not to be kept
            self._spreads[key] = made
        return self._spreads[key]


class GatedLinear(nn.Module):
    """`y = W x + b + Σ_e g_e s_e B_e A_e x`, experts stacked by rank (method 1)."""

    def __init__(self, base: nn.Module, route: Route) -> None:
        super().__init__()
        self.base = base
        self.route = route
        self.touches: dict[str, LoraSpec] = {}
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        self.dropout = 0.0
        self.merged_weight: Tensor | None = None  # (D_out, D_in)
        self._kept: dict[str, tuple[tuple[object, ...], Tensor]] = {}

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for code that looks at its dtype or device."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return self.base.bias  # type: ignore[return-value]

    @property
    def here(self) -> ActiveSpecs:
        """The active experts that touch this layer."""
        return tuple((name, self.touches[name]) for name in self.route.active if name in self.touches)

    @property
    def rank(self) -> int:
        """Their ranks' sum (R)."""
        return sum(touch.rank for _, touch in self.here)

    def add(self, name: str, touch: LoraSpec) -> None:
        """Lay a fresh adapter beside the weight: A as PEFT initialises it, B zero."""
        inputs, outputs = in_out_features(self.base)
        a = torch.empty(touch.rank, inputs, device=self.weight.device)  # (R, D_in)
        nn.init.kaiming_uniform_(a, a=5**0.5)
        self.touches[name] = touch
        self.lora_A[name] = nn.Parameter(a)
        self.lora_B[name] = nn.Parameter(a.new_zeros(outputs, touch.rank))  # (D_out, R)

    def delete_adapter(self, name: str) -> None:
        """Take an adapter away again."""
        del self.touches[name], self.lora_A[name], self.lora_B[name]
        self._kept.clear()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D_in), or the same flattened to (B·T, D_in), to the same with D_out."""
        if self.merged_weight is not None:
            return F.linear(x, self.merged_weight, self.bias)
        y = self.base(x)
        if self.route.gates is None or not self.here:
            return y
        low, b = self.route.low(self, x), self.stacked_b(y.dtype)
        if torch.is_grad_enabled() or not y.is_contiguous():
            return y + F.linear(low, b).to(y.dtype)
        y.view(-1, y.shape[-1]).addmm_(low.reshape(-1, low.shape[-1]).to(y.dtype), b.T)
        return y

    @property
    def foldable(self) -> bool:
        """Whether an update can be added to the weight itself: not to a quantised one, which would round it away."""
        plain = type(self.base) in (nn.Linear, Conv1D) and self.weight.dtype.is_floating_point
        return plain and self.route.caching

    @torch.no_grad()
    def fold(self) -> None:
        """Compute with `W + Σ_e s_e B_e A_e` of the active experts, a copy, until `unfold`; gates are then not read."""
        assert self.foldable
        a, b = self.stacked_a(torch.float32), self.stacked_b(torch.float32)  # (R, D_in), (D_out, R)
        scaling = torch.cat([a.new_full((touch.rank,), touch.scaling) for _, touch in self.here])  # (R,)
        weight = self.weight.T if isinstance(self.base, Conv1D) else self.weight  # (D_out, D_in)
        self.merged_weight = torch.addmm(weight.float(), b * scaling, a).to(weight.dtype)  # (D_out, D_in)

    def unfold(self) -> None:
        """Compute with the frozen weight again."""
        self.merged_weight = None

    def bared(self) -> nn.Module:
        """The frozen layer itself; with the folded weight for good, where there is one."""
        if self.merged_weight is not None:
            folded = self.merged_weight.T if isinstance(self.base, Conv1D) else self.merged_weight
            self.base.weight = nn.Parameter(folded.contiguous(), requires_grad=False)
        return self.base

    def stacked_a(self, dtype: torch.dtype) -> Tensor:
        """The active experts' A, (R, D_in)."""
        return self._stacked("A", [self.lora_A[name] for name, _ in self.here], 0, dtype)

    def stacked_b(self, dtype: torch.dtype) -> Tensor:
        """The active experts' B, (D_out, R)."""
        return self._stacked("B", [self.lora_B[name] for name, _ in self.here], 1, dtype)

    def _stacked(self, kind: str, parts: list[nn.Parameter], dim: int, dtype: torch.dtype) -> Tensor:
        """Parts side by side; kept from pass to pass while nothing learns and no part has changed."""
        if (
            not self.route.caching
            or torch.compiler.is_compiling()
            or (torch.is_grad_enabled() and any(part.requires_grad for part in parts))
        ):
            return _together(list(parts), dim).to(dtype)
        key = (dtype, *((part.data_ptr(), part._version) for part in parts))
        if kind not in self._kept or self._kept[kind][0] != key:
            with torch.inference_mode(False), torch.no_grad():  # what is kept may be read in training
                self._kept[kind] = key, _together([part.detach() for part in parts], dim).to(dtype)
        return self._kept[kind][1]


def _together(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def fast_dropout(x: Tensor, share: float) -> Tensor:
    """Dropout: a share of the entries of x (any shape) becomes zero, the others grow by 1 / (1 − share).

    On a CPU torch draws one number an entry, which costs as much as an expert; 64 random bits serve four entries here,
    so the share is rounded to 1/65536.
    """
    if x.device.type != "cpu" or share == 0.0:
        return F.dropout(x, share)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)  # each of −2¹⁵ … 2¹⁵ − 1 alike
    return x * (draws >= round(share * 2**16) - 2**15) / (1.0 - share)


def in_out_features(layer: nn.Module) -> tuple[int, int]:
    """A linear layer's input and output size, Conv1D's transposed weight included."""
    if isinstance(layer, Conv1D):
        return layer.weight.shape[0], layer.weight.shape[1]
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def route_position_biases_per_text(backbone: PreTrainedModel, route: Route) -> None:
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

"""The gated linear layer: a frozen weight, its LoRA adapters, and the route that holds their gates."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

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
"""Names of sibling layers that read the same tensor."""
_POSITION_BIAS = "disentangled_attention_bias"
"""DeBERTa's method that computes the part of the attention scores that depends on relative positions."""


class Route:
    """The gates of the texts in the current pass, shared by all gated layers of a bank.

    For layers that read the same tensor, such as q, k and v, the first one multiplies it by the A matrices of all.
    """

    def __init__(self) -> None:
        self.gates: Tensor | None = None  # (B, E) or (B, T, E); B = 1 broadcasts to every text
        self.columns: dict[str, int] = {}
        self.active: tuple[str, ...] = ()
        self.merged: tuple[str, ...] | None = None
        """The active adapters, if layers may use weights in which they are merged."""
        self.caching = True
        """Whether concatenated weights may be cached between passes; false where FSDP rebuilds a layer's weights."""
        self.same_input_layers: dict[GatedLinear, list[GatedLinear]] = {}
        """The first layer of each group that reads the same tensor, with the others of its group."""
        self._scales: dict[ActiveSpecs, Tensor] = {}
        self._rank_columns: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        self._products: dict[GatedLinear, tuple[Tensor, Tensor]] = {}  # input and product, until the layer reads it

    def set(
        self,
        gates: Tensor,
        columns: dict[str, int],
        active: tuple[str, ...],
        layers: "Iterable[GatedLinear]",
        merged: tuple[str, ...] | None = None,
    ) -> None:
        """Set the gates for the following passes.

        The scales are computed here, once for all layers with the same active adapters.

        Args:
            gates: (B, E), or (B, T, E) for gates per token; B = 1 broadcasts to every text.
            columns: column of the gates by adapter name.
            active: names of the adapters to compute.
            layers: the layers that use this route.
            merged: `active`, if layers may use weights in which these adapters are merged.
        """
        self.gates, self.columns, self.active, self._products = gates, columns, active, {}
        self.merged = merged
        used = dict.fromkeys(specs for layer in layers if (specs := layer.active_specs))
        self._scales = {specs: self._scale(specs) for specs in used}

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Restore the current gates on exit, for an extra pass with other gates."""
        before = self.gates, self.columns, self.active, self.merged, self._scales
        try:
            yield
        finally:
            self.gates, self.columns, self.active, self.merged, self._scales = before
            self._products = {}

    @contextmanager
    def single_text(self, row: int) -> Iterator[None]:
        """Use only the gates of one text, for code whose input has no batch dimension."""
        before = self.gates, self._scales, self._products
        assert self.gates is not None
        scales = {specs: scale[row : row + 1] for specs, scale in self._scales.items()}
        self.gates, self._scales, self._products = self.gates[row : row + 1], scales, {}
        try:
            yield
        finally:
            self.gates, self._scales, self._products = before

    def lora_a_product(self, layer: "GatedLinear", x: Tensor) -> Tensor:
        """Return `g · s · A x` of a layer, (…, R), computed together with that of the other layers that read x."""
        source, product = self._products.pop(layer, (None, None))
        if product is not None and source is x:
            return product
        layers = [layer, *(other for other in self.same_input_layers.get(layer, ()) if other.active_specs)]
        ranks = [other.active_rank for other in layers]
        products = self._scaled_product(layers, x).split(ranks, dim=-1)  # each (…, R)
        self._products |= {other: (x, product) for other, product in zip(layers[1:], products[1:], strict=True)}
        own: Tensor = products[0]
        return own

    def _scaled_product(self, layers: list["GatedLinear"], x: Tensor) -> Tensor:
        a = _concatenate([layer.stacked_a(x.dtype) for layer in layers], dim=0)  # (R, D_in)
        scale = _concatenate([self.scale(layer.active_specs) for layer in layers], dim=-1)  # (B, 1, R)
        x = fast_dropout(x, layers[0].dropout if layers[0].training else 0.0)
        product = F.linear(x, a)  # (B, T, R) or (B·T, R)
        by_text = product if x.dim() == 3 else product.view(scale.shape[0], -1, a.shape[0])  # (B, T, R)
        scale = scale.to(product.dtype)
        scaled = by_text * scale if torch.is_grad_enabled() else by_text.mul_(scale)
        return scaled.view(product.shape)  # (B, T, R) or (B·T, R)

    def scale(self, specs: ActiveSpecs) -> Tensor:
        """Return `g · s`, a column for each rank (method 1), in fp32: (B, 1, R), or (B, T, R) for gates per token."""
        return self._scales[specs]

    def _scale(self, specs: ActiveSpecs) -> Tensor:
        assert self.gates is not None
        column, scaling = self._columns_by_rank(specs, self.gates.device)
        wide = self.gates.index_select(-1, column).float() * scaling  # (B, R) or (B, T, R)
        return wide if wide.dim() == 3 else wide[:, None]  # (B, 1, R)

    def _columns_by_rank(self, specs: ActiveSpecs, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the gate column and the scaling of each rank, (R,) each.

        They are cached, because copying them to a GPU in every pass would synchronize with the host.
        """
        key = (tuple(self.columns[name] for name, _ in specs), specs, device)
        if key not in self._rank_columns:
            column = [index for index, (_, spec) in zip(key[0], specs, strict=True) for _ in range(spec.rank)]
            scaling = [spec.scaling for _, spec in specs for _ in range(spec.rank)]
            with torch.inference_mode(False):  # training may read cached tensors
                tensors = torch.tensor(column, device=device), torch.tensor(scaling, device=device)
            if torch.compiler.is_compiling():
                return tensors  # placeholders of the tracer must not be cached
            self._rank_columns[key] = tensors
        return self._rank_columns[key]


class GatedLinear(nn.Module):
    """`y = W x + b + Σ_e g_e s_e B_e A_e x`, with the adapters concatenated along the rank (method 1).

    Args:
        base: the frozen linear layer.
        route: the gates, shared by all layers of a bank.
    """

    def __init__(self, base: nn.Module, route: Route) -> None:
        super().__init__()
        self.base = base
        self.route = route
        self.lora_specs: dict[str, LoraSpec] = {}
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        self.dropout = 0.0
        self.merged_weights: dict[tuple[str, ...], Tensor] = {}  # (D_out, D_in) by merged adapters
        self._stack_cache: dict[str, tuple[tuple[object, ...], Tensor]] = {}

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for code that reads its dtype or device."""
        return cast(Tensor, self.base.weight)

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return cast(Tensor | None, self.base.bias)

    @property
    def active_specs(self) -> ActiveSpecs:
        """Name, rank and scaling of the active adapters of this layer."""
        return tuple((name, self.lora_specs[name]) for name in self.route.active if name in self.lora_specs)

    @property
    def active_rank(self) -> int:
        """Sum of the ranks of the active adapters (R)."""
        return sum(spec.rank for _, spec in self.active_specs)

    def add_adapter(self, name: str, spec: LoraSpec) -> None:
        """Add a new adapter, initialized as PEFT does: A Kaiming-uniform, B zero."""
        inputs, outputs = in_out_features(self.base)
        a = torch.empty(spec.rank, inputs, device=self.weight.device)  # (R, D_in)
        nn.init.kaiming_uniform_(a, a=5**0.5)
        self.lora_specs[name] = spec
        self.lora_A[name] = nn.Parameter(a)
        self.lora_B[name] = nn.Parameter(a.new_zeros(outputs, spec.rank))  # (D_out, R)

    def delete_adapter(self, name: str) -> None:
        """Remove an adapter."""
        del self.lora_specs[name], self.lora_A[name], self.lora_B[name]
        self._stack_cache.clear()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D_in) to (B, T, D_out), or the same flattened to (B·T, D_in) to (B·T, D_out)."""
        if self.route.merged is not None:
            merged = self.merged_weights.get(self.route.merged)  # None if the layer is quantized
            if merged is not None:
                return F.linear(x, merged, self.bias)
        y: Tensor = self.base(x)
        if self.route.gates is None or not self.active_specs:
            return y
        product = self.route.lora_a_product(self, x)
        b = self.stacked_b(y.dtype)
        if torch.is_grad_enabled() or not y.is_contiguous():
            return y + F.linear(product, b).to(y.dtype)
        y.view(-1, y.shape[-1]).addmm_(product.reshape(-1, product.shape[-1]).to(y.dtype), b.T)
        return y

    @property
    def can_merge(self) -> bool:
        """Whether an update can be added to the weight: not if it is quantized, which would round the update away."""
        plain = type(self.base) in (nn.Linear, Conv1D) and self.weight.dtype.is_floating_point
        return plain and self.route.caching

    def has_any(self, names: Iterable[str]) -> bool:
        """Whether this layer has one of these adapters."""
        return any(name in self.lora_specs for name in names)

    def merge(self, names: tuple[str, ...]) -> None:
        """Keep a copy `W + Σ_e s_e B_e A_e` of the weight with these adapters, those that this layer has."""
        if not self.has_any(names) or names in self.merged_weights:
            return
        assert self.can_merge
        specs = [(name, self.lora_specs[name]) for name in names if name in self.lora_specs]
        with torch.inference_mode(False), torch.no_grad():  # a pass with gradients may read the copy later
            a = torch.cat([self.lora_A[name].float() for name, _ in specs])  # (R, D_in)
            b = torch.cat([self.lora_B[name].float() for name, _ in specs], 1)  # (D_out, R)
            scaling = torch.cat([a.new_full((spec.rank,), spec.scaling) for _, spec in specs])  # (R,)
            weight = self.weight.T if isinstance(self.base, Conv1D) else self.weight  # (D_out, D_in)
            self.merged_weights[names] = torch.addmm(weight.float(), b * scaling, a).to(weight.dtype)  # (D_out, D_in)

    def unmerge(self, names: tuple[str, ...]) -> None:
        """Delete the copy of the weight with these adapters."""
        self.merged_weights.pop(names, None)

    def unload(self, names: tuple[str, ...] = ()) -> nn.Module:
        """Return the wrapped linear layer, with the weight of `merge` if it has one for these adapters."""
        if names in self.merged_weights:
            weight = self.merged_weights[names]
            merged = weight.T if isinstance(self.base, Conv1D) else weight
            self.base.weight = nn.Parameter(merged.contiguous(), requires_grad=False)
        return self.base

    def stacked_a(self, dtype: torch.dtype) -> Tensor:
        """Return A of the active adapters, concatenated to (R, D_in)."""
        return self._stacked("A", [self.lora_A[name] for name, _ in self.active_specs], 0, dtype)

    def stacked_b(self, dtype: torch.dtype) -> Tensor:
        """Return B of the active adapters, concatenated to (D_out, R)."""
        return self._stacked("B", [self.lora_B[name] for name, _ in self.active_specs], 1, dtype)

    def _stacked(self, kind: str, parameters: list[nn.Parameter], dim: int, dtype: torch.dtype) -> Tensor:
        """Concatenate parameters; the result is cached while none of them is trained or has changed."""
        if (
            not self.route.caching
            or torch.compiler.is_compiling()
            or (torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters))
        ):
            return _concatenate(list(parameters), dim).to(dtype)
        key = (dtype, *((parameter.data_ptr(), parameter._version) for parameter in parameters))
        if kind not in self._stack_cache or self._stack_cache[kind][0] != key:
            with torch.inference_mode(False), torch.no_grad():  # training may read cached tensors
                stack = _concatenate([parameter.detach() for parameter in parameters], dim).to(dtype)
            self._stack_cache[kind] = key, stack
        return self._stack_cache[kind][1]


def _concatenate(tensors: list[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def fast_dropout(x: Tensor, p: float) -> Tensor:
    """Apply dropout with probability p to x (any shape), faster on a CPU than torch's.

    On a CPU torch draws one random number per entry, which costs as much as an expert. Here 64 random bits serve four
    entries, so p is rounded to 1/65536.
    """
    if x.device.type != "cpu" or p == 0.0:
        return F.dropout(x, p)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)  # uniform on −2¹⁵ … 2¹⁵ − 1
    return x * (draws >= round(p * 2**16) - 2**15) / (1.0 - p)


def in_out_features(layer: nn.Module) -> tuple[int, int]:
    """Return the input and output size of a linear layer, including Conv1D with its transposed weight."""
    if isinstance(layer, Conv1D):
        return layer.weight.shape[0], layer.weight.shape[1]
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def route_position_biases_per_text(backbone: PreTrainedModel, route: Route) -> None:
    """Let DeBERTa's relative position projections depend on each text's gates.

    DeBERTa projects its relative positions once for all texts. If texts have different gates, its attention bias is
    computed one text at a time instead, with the model's own code.
    """
    for module in backbone.modules():
        if hasattr(module, _POSITION_BIAS):
            batch_bias, heads = getattr(module, _POSITION_BIAS), cast(int, module.num_attention_heads)
            setattr(module, _POSITION_BIAS, _per_text_bias(batch_bias, heads, route))


def _per_text_bias(batch_bias: Callable[..., Tensor], heads: int, route: Route) -> Callable[..., Tensor]:
    def bias(query: Tensor, key: Tensor, *others: object) -> Tensor:  # (B·H, T, D) each
        if route.gates is None or route.gates.shape[0] == 1:
            return batch_bias(query, key, *others)
        biases = []
        for row in range(route.gates.shape[0]):
            text_heads = slice(row * heads, (row + 1) * heads)
            with route.single_text(row):
                biases.append(batch_bias(query[text_heads], key[text_heads], *others))
        return torch.cat(biases)  # (B·H, T, T)

    return bias

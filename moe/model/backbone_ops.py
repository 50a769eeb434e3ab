"""Passes of a backbone, also over packed documents, its positions, and changes to its layers.

Model families separate the documents of a row in different ways, and some not at all, so each way is tried: it is used
only if it gives the states that each document has alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel

from experts.errors import Fault
from experts.gated_linear import fast_dropout
from experts.lora import find_layer_stack
from moe.model.lm_head import lm_kind


def position_limit(config: PretrainedConfig) -> int | None:
    """Return the most tokens that a model with this config reads; None if its positions have no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1 or getattr(config, "position_biased_input", True) is False:
        return None
    is_offset = any(name in config.model_type for name in ("roberta", "camembert", "mpnet", "data2vec-text"))
    return positions - 2 if is_offset else positions  # these models number their positions from 2


class BackboneDropout(nn.Dropout):
    """The backbone's own dropout: its only part that is ever in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout to x (any shape) in training."""
        return fast_dropout(x, self.p) if self.training else x


def enable_dropout(model: PreTrainedModel, trunk_depth: int, p: float) -> None:
    """Enable dropout in training in the layers after the trunk, wherever the model family has a dropout layer.

    Args:
        trunk_depth: number of first layers to leave unchanged.
        p: probability of dropping a value.

    Raises:
        Fault: if these layers have no dropout.
    """
    dropouts = [
        (parent, name)
        for layer in find_layer_stack(model)[1][trunk_depth:]
        for parent in layer.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Dropout
    ]
    if not dropouts:
        raise Fault(
            "layers with dropout, for backbone.dropout",
            f"none after the trunk in {type(model).__name__}",
            "set backbone.dropout to 0 and use lora.dropout instead",
        )
    for parent, name in dropouts:
        setattr(parent, name, BackboneDropout(p).eval())


def prevent_repacking(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for AVX-512 in the first forward pass on a CPU.

    Repacking rounds their scales to bfloat16, fails on narrow layers, and makes a copy's output differ from the
    original's.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 — a Module, to the type checker


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each layer's forward, experts included, when it first runs; hooks are not compiled."""
    for layer in find_layer_stack(model)[1]:
        layer.forward = torch.compile(layer.forward, dynamic=True)


@contextmanager
def activation_checkpointing(model: PreTrainedModel, trunk_depth: int) -> Iterator[None]:
    """Keep only the inputs of the layers after the trunk, and rerun these layers in the backward pass.

    The rerun uses the route and the random numbers of the first run, because it repeats a layer's forward but not its
    hooks.
    """
    layers = list(find_layer_stack(model)[1][trunk_depth:])
    previous, use_cache = [layer.__dict__.get("forward") for layer in layers], model.config.use_cache
    model.config.use_cache = False  # a rerun would append to the cache
    for layer in layers:
        layer.forward = _checkpointed(layer.forward)
    try:
        yield
    finally:
        model.config.use_cache = use_cache
        for layer, forward in zip(layers, previous, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _checkpointed(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


MAX_EAGER_TOKENS = {torch.bfloat16: 128, torch.float32: 64}
"""By dtype, the longest row of tokens on which eager attention trains faster on a CPU than the fused kernel."""


class AttentionSwitch:
    """Chooses the attention implementation for each batch, on CPUs and for models with a fused kernel only.

    Args:
        model: the backbone.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.default = model, model.config._attn_implementation
        choice = self.default == "sdpa" and model.device.type == "cpu" and model._can_set_attn_implementation()
        self.max_eager_tokens = MAX_EAGER_TOKENS.get(model.dtype, 0) if choice else 0

    def select(self, tokens: int) -> None:
        """Use the implementation that trains faster on rows of this many tokens."""
        self._set("eager" if tokens <= self.max_eager_tokens else self.default)

    def restore(self) -> None:
        """Use the backbone's default implementation again."""
        self._set(self.default)

    def _set(self, name: str) -> None:
        if self.model.config._attn_implementation != name:
            self.model.set_attn_implementation(name)


TOLERANCE = 1e-2
TRIAL_WINDOW = 3
"""Sliding window of the trial, in tokens: narrower than its documents, as real windows are than long documents."""


@dataclass(frozen=True)
class PackingMode:
    """How a backbone is given the boundaries of documents.

    Args:
        uses_mask: by an attention mask, (B, 1, T, T); otherwise by position ids that restart.
        causal: whether a token attends to earlier ones only.
        first_position: position id of a document's first token.
    """

    uses_mask: bool
    causal: bool
    first_position: int = 0

    def inputs(self, positions: Tensor, dtype: torch.dtype) -> dict[str, Tensor | None]:
        """Return `attention_mask` and `position_ids` of a batch, for `backbone_states`.

        Args:
            positions: (B, T), each token's position in its document; 0 starts a document.
            dtype: the backbone's.
        """
        mask = self._mask(positions, dtype) if self.uses_mask else None
        return {"attention_mask": mask, "position_ids": positions + self.first_position}

    def branching_inputs(self, positions: Tensor, branch: Tensor, dtype: torch.dtype) -> dict[str, Tensor | None]:
        """Return the same for a stem with branches that do not attend to each other: a prompt and its possible answers.

        Args:
            positions: (B, T), each token's position in the stem followed by its branch.
            branch: (B, T), 0 in the stem, the branch's number from 1 in a branch, −1 for padding.
        """
        assert self.uses_mask
        assert self.causal
        query, key = branch[:, :, None], branch[:, None, :]  # (B, T, 1), (B, 1, T)
        visible = ((key == 0) | (key == query)).tril()[:, None]  # (B, 1, T, T)
        return {"attention_mask": _additive(visible, dtype), "position_ids": positions + self.first_position}

    def _mask(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        document = (positions == 0).cumsum(1)  # (B, T)
        visible = document[:, None, :, None] == document[:, None, None, :]  # (B, 1, T, T)
        visible = visible.tril() if self.causal else visible  # (B, 1, T, T)
        return _additive(visible, dtype)


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)  # (B, 1, T, T)


def add_sliding_window(
    config: PretrainedConfig, mask: Tensor | None, positions: Tensor | None
) -> Tensor | dict[str, Tensor] | None:
    """Restrict a mask of packed documents to the backbone's sliding window, per kind of layer.

    transformers uses a four-dimensional mask as it is and adds no window to it. Other masks are returned unchanged.

    Args:
        mask: (B, 1, T, T), added to the attention scores.
        positions: (B, T), position ids.
    """
    window = getattr(config, "sliding_window", None)
    if window is None or mask is None or mask.dim() != 4:
        return mask
    assert positions is not None
    distance = (positions[:, None, :, None] - positions[:, None, None, :]).abs()  # (B, 1, T, T)
    causal = lm_kind(config) == "causal"
    near = distance < window if causal else distance <= window  # (B, 1, T, T), as in transformers
    windowed = mask.masked_fill(~near, torch.finfo(mask.dtype).min)  # (B, 1, T, T)
    layer_types = getattr(config, "layer_types", None)
    return {"full_attention": mask, "sliding_attention": windowed} if layer_types else windowed


def backbone_states(
    model: PreTrainedModel, ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
) -> Tensor:
    """Return the last hidden states (B, T, D) of rows of tokens, or of documents packed by a `PackingMode`."""
    optional = {} if position_ids is None else {"position_ids": position_ids}
    mask = add_sliding_window(model.config, attention_mask, position_ids)
    states: Tensor = model(input_ids=ids, attention_mask=mask, **optional).last_hidden_state
    return states  # (B, T, D)


def find_packing_mode(model: PreTrainedModel, require_mask: bool = False) -> PackingMode | None:
    """Return the first mode that keeps two documents apart in this backbone; None if none does.

    Args:
        require_mask: try only modes that use a mask.
    """
    causal = lm_kind(model.config) == "causal"
    starts = (0, (model.config.pad_token_id or 0) + 1, 2)  # RoBERTa counts from after its padding, MPNet from 2
    modes = [PackingMode(uses_mask=False, causal=causal)] if causal and not require_mask else []
    modes += [PackingMode(uses_mask=True, causal=causal, first_position=start) for start in starts]
    with _narrow_window(model.config):
        return next((mode for mode in modes if _keeps_documents_apart(model, mode)), None)


@contextmanager
def _narrow_window(config: PretrainedConfig) -> Iterator[None]:
    """Shrink the sliding window inside the block, so that a trial on short rows also holds for long documents."""
    window = getattr(config, "sliding_window", None)
    if window is None:
        yield
        return
    config.sliding_window = min(window, TRIAL_WINDOW)
    try:
        yield
    finally:
        config.sliding_window = window


@torch.no_grad()
def _keeps_documents_apart(model: PreTrainedModel, mode: PackingMode) -> bool:
    ids = torch.arange(3, 17, device=model.device)[None] % model.config.vocab_size  # (1, T)
    lengths = (6, 8)
    try:
        inputs = mode.inputs(_positions(lengths, model.device), model.dtype)
        packed = backbone_states(model, ids, **inputs)[0]  # (T, D)
    except (RuntimeError, ValueError, TypeError, LookupError):
        return False
    separate = torch.cat([backbone_states(model, part, torch.ones_like(part))[0] for part in ids.split(lengths, 1)])
    return bool((packed - separate).abs().max() <= TOLERANCE * separate.abs().max())  # over (T, D)


def _positions(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.cat([torch.arange(length, device=device) for length in lengths])[None]  # (1, T)

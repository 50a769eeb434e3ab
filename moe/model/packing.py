"""Several documents in one row of tokens, none of which attends to another; found out for each backbone by trying.

Families keep documents apart in different ways, and some in none: a way is used only where it gives the states that
each document has alone. Which documents share a row is `moe.data`'s.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from moe.model.lm_head import lm_kind

TOLERANCE = 1e-2
TRIAL_WINDOW = 3
"""Sliding window of the trial, in tokens: narrower than its documents, as real windows are than long documents."""


@dataclass(frozen=True)
class PackingMode:
    """How a backbone is told where documents begin.

    Args:
        masked: by a mask of its own, (B, 1, T, T); otherwise position ids that start anew say it.
        causal: a token sees those before it only.
        first: the position id of a document's first token.
    """

    masked: bool
    causal: bool
    first: int = 0

    def inputs(self, places: Tensor, dtype: torch.dtype) -> dict[str, Tensor | None]:
        """`attention_mask` and `position_ids` of a batch, as `backbone_states` takes them.

        Args:
            places: (B, T), each token's place in its document; 0 begins one.
            dtype: the backbone's.
        """
        mask = self._mask(places, dtype) if self.masked else None
        return {"attention_mask": mask, "position_ids": places + self.first}

    def branching(self, places: Tensor, branch: Tensor, dtype: torch.dtype) -> dict[str, Tensor | None]:
        """The same for one stem and branches that do not see each other, as a prompt and its possible answers.

        Args:
            places: (B, T), each token's place in stem and branch together.
            branch: (B, T), 0 in the stem, a branch's number from 1 in it, −1 for padding.
        """
        assert self.masked
        assert self.causal
        own, other = branch[:, :, None], branch[:, None, :]  # (B, T, 1), (B, 1, T)
        seen = ((other == 0) | (other == own)).tril()[:, None]  # (B, 1, T, T)
        return {"attention_mask": _additive(seen, dtype), "position_ids": places + self.first}

    def _mask(self, places: Tensor, dtype: torch.dtype) -> Tensor:
        document = (places == 0).cumsum(1)  # (B, T)
        seen = document[:, None, :, None] == document[:, None, None, :]  # (B, 1, T, T)
        seen = seen.tril() if self.causal else seen  # (B, 1, T, T)
        return _additive(seen, dtype)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)  # (B, 1, T, T)


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
    near = (
        distance < window if lm_kind(config) == "causal" else distance <= window
    )  # (B, 1, T, T), as transformers does
    windowed = mask.masked_fill(~near, torch.finfo(mask.dtype).min)  # (B, 1, T, T)
    layer_types = getattr(config, "layer_types", None)
    return {"full_attention": mask, "sliding_attention": windowed} if layer_types else windowed


def backbone_states(
    model: PreTrainedModel, ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
) -> Tensor:
    """Last hidden states (B, T, D) of rows of tokens, or of packed documents that a `PackingMode` keeps apart."""
    optional = {} if position_ids is None else {"position_ids": position_ids}
    mask = add_sliding_window(model.config, attention_mask, position_ids)
    states: Tensor = model(input_ids=ids, attention_mask=mask, **optional).last_hidden_state
    return states  # (B, T, D)


def find_packing_mode(model: PreTrainedModel, masked: bool = False) -> PackingMode | None:
    """The first way that keeps two documents apart in this backbone; None where none does.

    Args:
        masked: only ways by a mask.
    """
    causal = lm_kind(model.config) == "causal"
    starts = (0, (model.config.pad_token_id or 0) + 1, 2)  # RoBERTa counts from after its padding, MPNet from 2
    modes = [PackingMode(False, causal)] if causal and not masked else []
    modes += [PackingMode(True, causal, first) for first in starts]
    with _narrow_window(model.config):
        return next((mode for mode in modes if _holds(model, mode)), None)


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
def _holds(model: PreTrainedModel, way: PackingMode) -> bool:
    ids = torch.arange(3, 17, device=model.device)[None] % model.config.vocab_size  # (1, T)
    lengths = (6, 8)
    try:
        packed = backbone_states(model, ids, **way.inputs(_places(lengths, model.device), model.dtype))[0]  # (T, D)
    except (RuntimeError, ValueError, TypeError, LookupError):
        return False
    alone = [backbone_states(model, one, torch.ones_like(one))[0] for one in ids.split(lengths, 1)]  # (T_i, D) each
    apart = torch.cat(alone)  # (T, D)
    return bool((packed - apart).abs().max() <= TOLERANCE * apart.abs().max())


def _places(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.cat([torch.arange(one, device=device) for one in lengths])[None]  # (1, T)

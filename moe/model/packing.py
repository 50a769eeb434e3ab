"""Packing of several documents into one row without attention between them.

Model families separate documents in different ways, and some not at all, so each way is tried: it is used only if it
gives the states that each document has alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moe.model.lm_head import lm_kind

TOLERANCE = 1e-2


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
        """Return `attention_mask` and `position_ids` of a batch.

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


def find_packing_mode(model: PreTrainedModel, require_mask: bool = False) -> PackingMode | None:
    """Return the first mode that keeps two documents apart in this backbone; None if none does.

    Args:
        require_mask: try only modes that use a mask.
    """
    causal = lm_kind(model.config) == "causal"
    starts = (0, (model.config.pad_token_id or 0) + 1, 2)  # RoBERTa counts from after its padding, MPNet from 2
    modes = [PackingMode(uses_mask=False, causal=causal)] if causal and not require_mask else []
    modes += [PackingMode(uses_mask=True, causal=causal, first_position=start) for start in starts]
    return next((mode for mode in modes if _keeps_documents_apart(model, mode)), None)


@torch.no_grad()
def _keeps_documents_apart(model: PreTrainedModel, mode: PackingMode) -> bool:
    ids = torch.arange(3, 17, device=model.device)[None] % model.config.vocab_size  # (1, T)
    lengths = (6, 8)
    try:
        inputs = mode.inputs(_positions(lengths, model.device), model.dtype)
        packed = model(input_ids=ids, **inputs).last_hidden_state[0]  # (T, D)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    documents = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(lengths, 1)]
    separate = torch.cat([model(**document).last_hidden_state[0] for document in documents])  # (T, D)
    return bool((packed - separate).abs().max() <= TOLERANCE * separate.abs().max())


def _positions(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.cat([torch.arange(length, device=device) for length in lengths])[None]  # (1, T)

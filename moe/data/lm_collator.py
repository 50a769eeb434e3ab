"""Collation of token rows for language models: padding, positions within documents, and the tokens to predict."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from experts.errors import Fault
from moe.data.collator import Batch
from moe.model.lm_head import IGNORE_INDEX, LMKind, next_token_labels

DocumentMask = Callable[[Tensor], dict[str, Tensor | None]]
"""Positions within documents (B, T) → model inputs that keep the documents of a row apart."""


class PretrainingCollator:
    """Collates rows of tokens into a batch for pre-training.

    A batch holds `input_ids` (B, T); `tokens` (B, T), the token to predict at each position, or −100; `domain` (B,),
    indices or −1; and `attention_mask` and `position_ids`, which keep documents apart.

    Args:
        tokenizer: of the backbone.
        kind: predict the next token, or masked tokens.
        domains: names, in the order of their indices.
        document_mask: for rows of several documents; None if each row holds one.
        masked: share of tokens that an encoder has to predict.

    Raises:
        Fault: if tokens are to be masked and the tokenizer has no mask token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        kind: LMKind,
        domains: Sequence[str],
        document_mask: DocumentMask | None,
        masked: float = 0.15,
    ) -> None:
        if kind == "masked" and tokenizer.mask_token is None:
            raise Fault(
                "a tokenizer with a mask token, to pre-train an encoder", "none", "set backbone.name to another one"
            )
        self.padding, self.kind, self.document_mask = tokenizer.pad_token_id, kind, document_mask
        self.domains = {domain: i for i, domain in enumerate(domains)}
        self.special = torch.tensor(tokenizer.all_special_ids)
        self.masker = (
            DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=masked) if kind == "masked" else None
        )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate rows with `input_ids`, `lengths` of their documents, and `domain`."""
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), width), self.padding)  # (B, T)
        positions = torch.zeros(len(rows), width, dtype=torch.long)  # (B, T)
        real = torch.zeros(len(rows), width, dtype=torch.bool)  # (B, T)
        for i, row in enumerate(rows):
            size = len(row["input_ids"])
            ids[i, :size] = torch.tensor(row["input_ids"])
            positions[i] = torch.cat([torch.arange(length) for length in (*row["lengths"], width - size)])
            real[i, :size] = True
        ids, tokens = self._targets(ids, real & (positions > 0), real)
        masks: dict[str, Tensor | None] = (
            self.document_mask(positions) if self.document_mask else {"attention_mask": real.long()}
        )
        domain = torch.tensor([self.domains.get(row["domain"], -1) for row in rows])
        batch = {"input_ids": ids, "tokens": tokens, "domain": domain}
        return batch | {name: values for name, values in masks.items() if values is not None}

    def _targets(self, ids: Tensor, follows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Input ids and the tokens to predict, (B, T) each; the first token of a document is never predicted."""
        if self.masker is None:
            return ids, next_token_labels(ids, follows)
        excluded = torch.isin(ids, self.special) | ~real  # (B, T)
        masked_ids, tokens = self.masker.torch_mask_tokens(ids.clone(), special_tokens_mask=excluded)
        return masked_ids, tokens.masked_fill(excluded, IGNORE_INDEX)


class InstructionCollator:
    """Collates rows with `input_ids`, `begins` (position at which the answer begins) and `domain`.

    A batch holds `input_ids` and `attention_mask` (B, T); `router_mask` (B, T), 1 on the prompt, which is all that the
    router may use; `tokens` (B, T), the token to predict at each position, −100 outside the answer; `domain` (B,), or
    −1.

    Args:
        padding: id of the padding token.
        domains: names, in the order of their indices.
    """

    def __init__(self, padding: int, domains: Sequence[str]) -> None:
        self.padding, self.domains = padding, {domain: i for i, domain in enumerate(domains)}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate rows, padded on the right."""
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])[:, None]  # (B, 1)
        begins = torch.tensor([row["begins"] for row in rows])[:, None]  # (B, 1)
        ids = torch.full((len(rows), int(lengths.max())), self.padding)  # (B, T)
        for i, row in enumerate(rows):
            ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        positions = torch.arange(ids.shape[1])[None]  # (1, T)
        real, read = positions < lengths, positions < begins  # (B, T) each
        domain: Tensor = torch.tensor([self.domains.get(str(row.get("domain")), -1) for row in rows])
        tokens = next_token_labels(ids, real & ~read)  # (B, T)
        return {
            "input_ids": ids,
            "attention_mask": real.long(),
            "router_mask": read.long(),
            "tokens": tokens,
            "domain": domain,
        }

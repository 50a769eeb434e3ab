"""Rows of tokens → batches for a language model: padding, places in documents, and which tokens are asked for.

The rows are made in `moe.data.pretraining_corpus`; how a backbone is told of documents is `moe.model.packing`'s.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from experts.errors import Fault
from moe.data.collator import Batch
from moe.model.lm_head import IGNORE_INDEX, LMKind, next_token_labels

DocumentMask = Callable[[Tensor], dict[str, Tensor | None]]
"""Places (B, T) → what keeps documents apart."""


class PretrainingCollator:
    """Makes a batch of rows of tokens.

    A batch holds `input_ids` (B, T); `tokens` (B, T), what the state at each place is to predict, or −100; `domain`
    (B,), indices or −1; and what keeps documents apart: `attention_mask`, `position_ids`.

    Args:
        kind: the next token, or those that are masked.
        domains: names, in the order of their indices.
        apart: for rows of several documents; None where each row holds one.
        masked: share of tokens that an encoder has to guess.

    Raises:
        Fault: when tokens are to be masked and the tokenizer has no mask token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        kind: LMKind,
        domains: Sequence[str],
        apart: DocumentMask | None,
        masked: float = 0.15,
    ) -> None:
        if kind == "masked" and tokenizer.mask_token is None:
            raise Fault("a tokenizer with a mask token, as an encoder learns by it", "none", "name another backbone")
        self.padding, self.kind, self.apart = tokenizer.pad_token_id, kind, apart
        self.domains = {domain: i for i, domain in enumerate(domains)}
        self.special = torch.tensor(tokenizer.all_special_ids)
        self.hide = (
            DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=masked) if kind == "masked" else None
        )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate rows with `input_ids`, `lengths` of their documents, and `domain`."""
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), width), self.padding)  # (B, T)
        places = torch.zeros(len(rows), width, dtype=torch.long)  # (B, T)
        real = torch.zeros(len(rows), width, dtype=torch.bool)  # (B, T)
        for i, row in enumerate(rows):
            size = len(row["input_ids"])
            ids[i, :size] = torch.tensor(row["input_ids"])
            places[i] = torch.cat([torch.arange(one) for one in (*row["lengths"], width - size)])
            real[i, :size] = True
        ids, tokens = self._asked(ids, real & (places > 0), real)
        told: dict[str, Tensor | None] = self.apart(places) if self.apart else {"attention_mask": real.long()}
        domain = torch.tensor([self.domains.get(row["domain"], -1) for row in rows])
        batch = {"input_ids": ids, "tokens": tokens, "domain": domain}
        return batch | {name: values for name, values in told.items() if values is not None}

    def _asked(self, ids: Tensor, follows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and what is asked of them, (B, T) each; a document's first token is asked of nothing before it."""
        if self.hide is None:
            return ids, next_token_labels(ids, follows)
        kept = torch.isin(ids, self.special) | ~real  # (B, T)
        hidden, tokens = self.hide.torch_mask_tokens(ids.clone(), special_tokens_mask=kept)
        return hidden, tokens.masked_fill(kept, IGNORE_INDEX)


class InstructionCollator:
    """Makes a batch of rows with `input_ids`, `begins` (where the answer does) and `domain`.

    A batch holds `input_ids`, `attention_mask` (B, T); `read` (B, T), 1 on the prompt, all that the router may see;
    `tokens` (B, T), what the state at each place is to predict, −100 but for the answer; `domain` (B,), or −1.

    Args:
        padding: the id of the padding token.
        domains: names, in the order of their indices.
    """

    def __init__(self, padding: int, domains: Sequence[str]) -> None:
        self.padding, self.domains = padding, {domain: i for i, domain in enumerate(domains)}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate, padded on the right."""
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])[:, None]  # (B, 1)
        begins = torch.tensor([row["begins"] for row in rows])[:, None]  # (B, 1)
        ids = torch.full((len(rows), int(lengths.max())), self.padding)  # (B, T)
        for i, row in enumerate(rows):
            ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        places = torch.arange(ids.shape[1])[None]  # (1, T)
        real, read = places < lengths, places < begins  # (B, T) each
        domain: Tensor = torch.tensor([self.domains.get(str(row.get("domain")), -1) for row in rows])
        tokens = next_token_labels(ids, real & ~read)  # (B, T)
        return {
            "input_ids": ids,
            "attention_mask": real.long(),
            "router_mask": read.long(),
            "tokens": tokens,
            "domain": domain,
        }

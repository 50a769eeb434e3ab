"""Rows of a question and its answer → batches for a causal language model: only answers are asked for.

How words become tokens is `moe.inference.prompt_tokens`'s.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moe.data.collator import Batch
from moe.model.lm_head import next_tokens


class AnswerCollator:
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
        tokens = next_tokens(ids, real & ~read)  # (B, T)
        return {
            "input_ids": ids,
            "attention_mask": real.long(),
            "read": read.long(),
            "tokens": tokens,
            "domain": domain,
        }

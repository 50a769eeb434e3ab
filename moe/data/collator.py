"""Rows → batches: the one template, tokens, label indices in their head, and which rows meet in a batch.

Rows come prepared from `moe.data.prepare`; nothing here reads a file.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experts.domain import LabelSpace

if TYPE_CHECKING:
    pass

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Mapping[str, Any]]], Batch]


_HALVES = re.compile("[\ud800-\udfff]")
_INPUTS = ("input_ids", "attention_mask", "position_ids", "router_mask", "trunk")


def model_inputs(batch: Batch) -> dict[str, Tensor | None]:
    """What a forward pass takes of a batch; None where a batch has no such part."""
    return {name: batch.get(name) for name in _INPUTS}


def replace_surrogates(text: str) -> str:
    """A text that a tokenizer takes: each half of a surrogate pair, which is no character, becomes U+FFFD."""
    return _HALVES.sub("\ufffd", text)


def tokenize(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, template: str, max_length: int
) -> tuple[Tensor, Tensor]:
    """Token ids and mask, (B, T) each, padded to the longest text of the batch."""
    filled = [template.replace("{text}", replace_surrogates(text)) for text in texts]
    out = tokenizer(filled, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    return out["input_ids"], out["attention_mask"]


class Collator:
    """Makes a batch of prepared rows.

    A batch holds `input_ids`, `attention_mask` (B, T); `label` (B,), the index in its task's head or −1;
    `task`, `domain` (B,), indices or −1; `score` (B,), NaN where a row has none; `trunk` (B, T, D), where they are
    known already.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        max_length: int,
        labels: LabelSpace,
        domains: Sequence[str],
        trunk: Callable[[Sequence[Mapping[str, Any]]], Tensor] | None = None,
    ) -> None:
        self.trunk = trunk
        self.tokenizer, self.template, self.max_length = tokenizer, template, max_length
        self.tasks = {task: i for i, task in enumerate(labels.tasks)}
        self.domains = {domain: i for i, domain in enumerate(domains)}
        self.in_head = {
            task: [labels.heads[labels.head_by_task[task]].index(label) for label in own]
            for task, own in labels.tasks.items()
        }

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate rows with text, label (index in the task's own labels, −1 for none), score, task, domain."""
        ids, mask = self.tokens([row["text"] for row in rows])
        scores = [math.nan if row["score"] is None else float(row["score"]) for row in rows]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "label": torch.tensor([self._label(row) for row in rows]),
            "task": torch.tensor([self.tasks.get(row["task"], -1) for row in rows]),
            "domain": torch.tensor([self.domains.get(row["domain"], -1) for row in rows]),
            "score": torch.tensor(scores, dtype=torch.float32),
        } | ({"trunk": self.trunk(rows)} if self.trunk else {})

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask of texts, (B, T) each."""
        return tokenize(texts, self.tokenizer, self.template, self.max_length)

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text (N,)."""
        filled = [self.template.replace("{text}", replace_surrogates(text)) for text in texts]
        ids = self.tokenizer(filled, truncation=True, max_length=self.max_length, return_attention_mask=False)
        return np.array([len(one) for one in ids["input_ids"]])

    def _label(self, row: Mapping[str, Any]) -> int:
        return self.in_head[row["task"]][row["label"]] if row["label"] >= 0 else -1

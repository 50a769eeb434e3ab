"""Collation of prepared rows for classification: template, tokens, and label indices within their head."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experts.domain import LabelSpace
from moe.data.text_checks import replace_surrogates

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Mapping[str, Any]]], Batch]

_INPUTS = ("input_ids", "attention_mask", "position_ids", "router_mask", "trunk")


def model_inputs(batch: Batch) -> dict[str, Tensor | None]:
    """Return the arguments of the model's forward pass; None for those that the batch lacks."""
    return {name: batch.get(name) for name in _INPUTS}


def tokenize(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, template: str, max_length: int
) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, (B, T) each, padded to the longest text of the batch."""
    filled = [template.replace("{text}", replace_surrogates(text)) for text in texts]
    out = tokenizer(filled, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    return out["input_ids"], out["attention_mask"]


class Collator:
    """Collates prepared rows into a batch.

    A batch holds `input_ids` and `attention_mask` (B, T); `label` (B,), the index in the task's head or −1; `task` and
    `domain` (B,), indices or −1; `score` (B,), NaN for rows without a score; and `trunk` (B, T, D) if cached.

    Args:
        tokenizer: of the backbone.
        template: text around every text.
        max_length: most tokens of a text.
        labels: tasks with their heads and labels.
        domains: names, in the order of their indices.
        trunk: returns the cached trunk states of rows; None computes them in the forward pass.
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
        self.head_indices = {
            task: [labels.heads[labels.head_by_task[task]].index(label) for label in own]
            for task, own in labels.tasks.items()
        }

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate rows with text, label (index in the task's own labels, −1 for none), score, task and domain."""
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
        """Return token ids and attention mask of texts, (B, T) each."""
        return tokenize(texts, self.tokenizer, self.template, self.max_length)

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Return the number of tokens of each text (N,)."""
        filled = [self.template.replace("{text}", replace_surrogates(text)) for text in texts]
        out = self.tokenizer(filled, truncation=True, max_length=self.max_length, return_attention_mask=False)
        return np.array([len(ids) for ids in out["input_ids"]])

    def _label(self, row: Mapping[str, Any]) -> int:
        return self.head_indices[row["task"]][row["label"]] if row["label"] >= 0 else -1

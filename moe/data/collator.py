"""Collation of prepared rows for classification: template, tokens, and label indices within their head."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from experts.domain import LabelSpace
from moe.data.distilled.columns import TEACHER, TEACHER_SCORE
from moe.data.text_checks import cut_target, replace_surrogates, segment_separator, target_limit, window_overlap
from moe.kinds.registry import task_kind

if TYPE_CHECKING:
    from datasets import Dataset

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Mapping[str, Any]]], Batch]

_INPUTS = ("input_ids", "attention_mask", "position_ids", "router_mask", "trunk")

_UNLIMITED = 2**30
_COUNTED_TOGETHER = 1000


def model_inputs(batch: Batch) -> dict[str, Tensor | None]:
    """Return the arguments of the model's forward pass; None for those that the batch lacks."""
    return {name: batch.get(name) for name in _INPUTS}


def tokenize(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_length: int,
    targets: Sequence[str | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, (B, T) each, padded to the longest text of the batch.

    Args:
        texts: of prepared rows, whose unpaired surrogates were replaced when they were read.
        template: text around every text, but not around its target.
        max_length: most tokens of a text with its target.
        targets: target of each text, or None; by default no text has one.
    """
    if targets is None or not any(targets):
        prompts = [template.replace("{text}", text) for text in texts]
        out = tokenizer(prompts, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
        return out["input_ids"], out["attention_mask"]
    ids, _ = encode_windows(texts, tokenizer, template, max_length, targets)
    rows = [torch.tensor(row) for row in ids]
    padded = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)  # (B, T)
    return padded, pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)  # (B, T) each


def encode_windows(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_length: int,
    targets: Sequence[str | None] | None = None,
    overflow: bool = False,
    overlap: int = 0,
) -> tuple[list[list[int]], np.ndarray]:
    """Return the token ids of each window (W), in the order of the texts, and the index of its text (W,).

    Args:
        template: text around every text, but not around its target.
        max_length: most tokens of a window, with the target.
        targets: target of each text, or None; every window of a text has its whole target.
        overflow: split a long text into windows; else its only window is truncated.
        overlap: tokens that two windows of a text share, beside the target.
    """
    names = [None] * len(texts) if targets is None else [target or None for target in targets]
    prompts, pairs = _fill(texts, template), [i for i, name in enumerate(names) if name is not None]
    singles = [i for i, name in enumerate(names) if name is None]
    ids: list[list[int]] = []
    index: list[np.ndarray] = []
    for members, second in (
        (singles, None),
        (pairs, second_segments([str(names[i]) for i in pairs], tokenizer, max_length)),
    ):
        if members:
            out = tokenizer(
                [prompts[i] for i in members],
                second,
                truncation=True if second is None else "only_first",
                max_length=max_length,
                return_overflowing_tokens=overflow,
                stride=overlap,
                return_attention_mask=False,
            )
            rows = out["overflow_to_sample_mapping"] if overflow else range(len(members))
            ids += out["input_ids"]
            index.append(np.asarray(members)[list(rows)])
    if not index:
        return [], np.zeros(0, dtype=int)
    text_index = np.concatenate(index)  # (W,)
    order = np.argsort(text_index, kind="stable")
    return [ids[i] for i in order], text_index[order]


def split_into_windows(
    rows: "Dataset", tokenizer: PreTrainedTokenizerBase, template: str, max_length: int, windows: int
) -> "Dataset":
    """Return training rows in which each window of a long text is a row of its own, with the text's label and score.

    Args:
        template: text around every text, which every window has.
        max_length: most tokens of a window, with the target.
        windows: most windows of a text.
    """
    if windows == 1 or not len(rows):
        return rows
    texts, targets = rows["text"][:], rows["target"][:]
    lengths = count_tokens(texts, tokenizer, template, targets)  # (N,)
    frame = count_tokens([""] * len(rows), tokenizer, template, targets)  # (N,), all tokens but the text's
    overlap = window_overlap(max_length, windows)
    parts = [
        [text] if length <= max_length else _split(text, tokenizer, max(2, max_length - rest), overlap)[:windows]
        for text, length, rest in zip(texts, lengths.tolist(), frame.tolist(), strict=True)
    ]
    columns = rows.select([row for row, own in enumerate(parts) for _ in own]).to_dict()
    columns["text"] = [part for own in parts for part in own]
    from datasets import Dataset  # slow to import, and inference does not need it

    return Dataset.from_dict(columns, features=rows.features)


def _split(text: str, tokenizer: PreTrainedTokenizerBase, size: int, overlap: int) -> list[str]:
    """Parts of a text of at most `size` tokens, which share `overlap` tokens."""
    plain, shared = replace_surrogates(text), min(overlap, size - 1)
    out = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = out["offset_mapping"]
    starts = range(0, max(1, len(offsets) - shared), size - shared)
    return [plain[offsets[start][0] : offsets[start:][:size][-1][1]] for start in starts]


def count_tokens(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    targets: Sequence[str | None] | None = None,
) -> np.ndarray:
    """Return the number of tokens of each entire text (N,), special tokens, template and target included."""
    counts = [np.zeros(0, dtype=int)]
    for start in range(0, len(texts), _COUNTED_TOGETHER):
        part = slice(start, start + _COUNTED_TOGETHER)
        ids, _ = encode_windows(texts[part], tokenizer, template, _UNLIMITED, targets and targets[part])
        counts.append(np.array([len(row) for row in ids]))
    return np.concatenate(counts)


def long_targets(targets: Sequence[str | None], tokenizer: PreTrainedTokenizerBase, max_length: int) -> np.ndarray:
    """Return which targets (B,) have too many tokens and are cut; see `moe.data.text_checks.target_limit`."""
    given = [replace_surrogates(target) for target in targets if target]
    cut = iter(second_segments(given, tokenizer, max_length, ""))
    return np.array([bool(target) and len(next(cut)) < len(replace_surrogates(str(target))) for target in targets])


def second_segments(
    targets: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, separator: str | None = None
) -> list[str]:
    """Return targets as second segments of pairs: without surrogates, at most `target_limit` tokens each.

    Args:
        separator: written before each; by default what the tokenizer needs, see `segment_separator`.
    """
    if not targets:
        return []
    plain = [replace_surrogates(target) for target in targets]
    single, pair = (tokenizer.num_special_tokens_to_add(pair=pair) for pair in (False, True))
    limit, before = target_limit(max_length, pair), segment_separator(single, pair) if separator is None else separator
    out = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
    return [
        before + cut_target(target, offsets, limit)
        for target, offsets in zip(plain, out["offset_mapping"], strict=True)
    ]


def _fill(texts: Sequence[str], template: str) -> list[str]:
    return [template.replace("{text}", replace_surrogates(text)) for text in texts]


class Collator:
    """Collates prepared rows into a batch.

    A batch holds `input_ids` and `attention_mask` (B, T); `label` (B,), the code of the answer among the labels of the
    task's head, or −1 (`moe.kinds.base.TaskKind`); `task` and `domain` (B,), indices or −1; `score` (B,), NaN for rows
    without a score; and `trunk` (B, T, D) if cached. With a teacher it also holds `teacher` (B, K), probabilities of
    the labels of the task's head, and `teacher_score` (B,); both are NaN for rows without its answer.

    Args:
        tokenizer: of the backbone.
        template: text around every text.
        max_length: most tokens of a text, with its target if it has one.
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
        self.most_labels = max((len(names) for names in labels.heads.values()), default=0)
        self.head_indices = {
            task: [labels.heads[labels.head_by_task[task]].index(label) for label in own]
            for task, own in labels.tasks.items()
            if own
        }
        self.kinds = {task: task_kind(labels.kind(task)) for task in labels.tasks}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate rows with text, label (code in the task's own labels, −1 for none), score, task and domain.

        A row with a `target` is tokenized as a pair.
        """
        ids, mask = self.tokens([row["text"] for row in rows], [row.get("target") for row in rows])
        scores = [math.nan if row["score"] is None else float(row["score"]) for row in rows]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "label": torch.tensor([self._label(row) for row in rows]),
            "task": torch.tensor([self.tasks.get(row["task"], -1) for row in rows]),
            "domain": torch.tensor([self.domains.get(row["domain"], -1) for row in rows]),
            "score": torch.tensor(scores, dtype=torch.float32),
            **(self._teacher(rows) if TEACHER in rows[0] else {}),
        } | ({"trunk": self.trunk(rows)} if self.trunk else {})

    def _teacher(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """The teachers' answers: probabilities by head (B, K), K the most labels of a head, and scores (B,)."""
        probabilities = torch.full((len(rows), self.most_labels), math.nan)  # (B, K)
        for i, row in enumerate(rows):
            if row[TEACHER] is not None:
                probabilities[i] = 0.0
                probabilities[i, self.head_indices[row["task"]]] = torch.tensor(row[TEACHER])
        scores = [math.nan if row[TEACHER_SCORE] is None else float(row[TEACHER_SCORE]) for row in rows]
        return {TEACHER: probabilities, TEACHER_SCORE: torch.tensor(scores, dtype=torch.float32)}

    def tokens(self, texts: Sequence[str], targets: Sequence[str | None] | None = None) -> tuple[Tensor, Tensor]:
        """Return token ids and attention mask of texts with their targets, if any, (B, T) each."""
        return tokenize(texts, self.tokenizer, self.template, self.max_length, targets)

    def lengths(self, texts: Sequence[str], targets: Sequence[str | None] | None = None) -> np.ndarray:
        """Return the number of tokens of each text with its target, if any (N,)."""
        ids, _ = encode_windows(texts, self.tokenizer, self.template, self.max_length, targets)
        return np.array([len(row) for row in ids])

    def _label(self, row: Mapping[str, Any]) -> int:
        if row["label"] < 0:
            return -1
        kind, columns = self.kinds[row["task"]], self.head_indices[row["task"]]
        return kind.encode(columns[i] for i in kind.decode(row["label"]))


@dataclass(frozen=True)
class MicroBatchCollator:
    """Splits the rows of a step into micro-batches of nearly equal size.

    Args:
        collate: makes a batch of rows.
        max_rows: rows per micro-batch.
    """

    collate: Collate
    max_rows: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Batch]:
        """Collate rows in order, so that texts of similar length stay together."""
        splits = np.array_split(np.arange(len(rows)), math.ceil(len(rows) / self.max_rows))
        return [self.collate([rows[i] for i in indices]) for indices in splits]

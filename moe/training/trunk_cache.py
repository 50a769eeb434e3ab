"""Cache of the trunk's hidden states of training rows on disk, so that the stages of a run need not run the trunk."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from experts.atomic_io import atomic_folder, reserve_space, restore_folder
from experts.errors import Fault
from experts.reused import check_manifest_once
from experts.safetensors_io import load_tensors, save_tensors
from moe.console import info, progress_bar
from moe.data.collator import Collator
from moe.inference.batches import batch_by_tokens
from moe.inference.torch_predictor import token_budget
from moe.model.mixture import Mixture

STATES, OFFSETS = "states.bin", "offsets.safetensors"
GIB = 2**30
TargetedText = tuple[str, str | None]
"""A text, and its target if it has one."""


@dataclass(frozen=True)
class _TaskStates:
    """States of one task, (ΣT, D), memory-mapped, and the offset of each row in them, (N + 1,)."""

    states: Tensor
    offsets: Tensor


class TrunkCache:
    """Hidden states at the end of the trunk, by task, text and target.

    Args:
        model: whose trunk is run.
        collator: tokenizes rows as training does.
        folder: of the cache; a file's name is a hash of backbone, depth, precision, template, length and texts.
    """

    def __init__(self, model: Mixture, collator: Collator, folder: Path) -> None:
        self.model, self.collator, self.folder = model, collator, folder
        self._tasks: dict[str, _TaskStates] = {}
        self._rows: dict[tuple[str, TargetedText], int] = {}

    def fill(self, rows: Dataset) -> None:
        """Read the states of all rows from disk, or compute and write them; damaged ones are computed again.

        Raises:
            Fault: if the folder cannot be written.
        """
        tasks = np.asarray(rows["task"])
        for task in dict.fromkeys(tasks.tolist()):
            texts = _targeted_texts(rows.select(np.flatnonzero(tasks == task).tolist()))
            self._tasks[task] = self._read_or_compute(task, texts)
            self._rows |= {(task, text): i for i, text in enumerate(texts)}

    def measure(self, rows: Dataset) -> int:
        """Run the trunk on the shortest and the longest texts, and return the bytes that `fill` would write."""
        texts = _targeted_texts(rows)
        lengths = self.collator.lengths(*zip(*texts, strict=True))  # (N,)
        batches = batch_by_tokens(lengths, token_budget(self.model.backbone.device, self.model.backbone.dtype))
        for batch in (batches[0], batches[-1]):
            self._compute([texts[i] for i in batch])
        size: int = int(lengths.sum()) * self.model.backbone.config.hidden_size * self.model.backbone.dtype.itemsize
        return size

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return the states of a batch of rows, (B, T, D), zero after the end of a text."""
        states = [self._states(row["task"], (row["text"], row.get("target"))) for row in rows]
        return pad_sequence(states, batch_first=True)

    def _states(self, task: str, text: TargetedText) -> Tensor:
        cached, row = self._tasks[task], self._rows[task, text]
        return cached.states[cached.offsets[row] : cached.offsets[row + 1]]  # (T, D)

    def _read_or_compute(self, task: str, texts: list[TargetedText]) -> _TaskStates:
        folder = self.folder / f"{task}-{self._key(texts)}"
        restore_folder(folder)
        if folder.is_dir():
            try:
                return self._read(folder, texts)
            except Fault as fault:
                info(f"{task}: the cached trunk states are not used and are computed again: {fault}")
        self._write(folder, task, texts)
        return self._read(folder, texts)

    def _read(self, folder: Path, texts: Sequence[TargetedText]) -> _TaskStates:
        """Map the states in a folder, which are checked against its manifest once in a process.

        Raises:
            Fault: if the folder is damaged, or holds the states of other texts.
        """
        check_manifest_once(folder, "a trunk cache", (STATES, OFFSETS))
        offsets = load_tensors(folder / OFFSETS).get("offsets", torch.zeros(0))  # (N + 1,)
        tokens = int(offsets[-1]) if len(offsets) else 0
        size = tokens * self.model.backbone.config.hidden_size * self.model.backbone.dtype.itemsize
        actual = (folder / STATES).stat().st_size
        if len(offsets) != len(texts) + 1 or actual != size:
            raise Fault(
                f"the states of {len(texts)} texts in {folder / STATES}, {size} bytes",
                f"those of {max(0, len(offsets) - 1)} texts, {actual} bytes",
                f"delete {folder}",
            )
        return _TaskStates(self._map(folder / STATES, tokens, shared=False), offsets)

    def _key(self, texts: Sequence[TargetedText]) -> str:
        """Hash of everything that the states depend on."""
        backbone = self.model.loaded_backbone
        inputs = {
            "backbone": backbone.id.sha256,
            "trunk_depth": self.model.bank.trunk_depth,
            "dtype": str(self.model.backbone.dtype),
            "quantized": hasattr(self.model.backbone, "hf_quantizer"),
            "template": self.collator.template,
            "max_length": self.collator.max_length,
            "texts": [text for text, _ in texts],
        }
        if any(target for _, target in texts):
            inputs["targets"] = [target for _, target in texts]
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]

    def _map(self, path: Path, tokens: int, shared: bool) -> Tensor:
        width, dtype = self.model.backbone.config.hidden_size, self.model.backbone.dtype
        flat = torch.from_file(str(path), shared=shared, size=tokens * width, dtype=dtype)
        return flat.view(tokens, width)  # (ΣT, D)

    def _write(self, folder: Path, task: str, texts: list[TargetedText]) -> None:
        lengths = self.collator.lengths(*zip(*texts, strict=True))  # (N,)
        offsets = torch.tensor([0, *np.cumsum(lengths).tolist()])  # (N + 1,)
        size = int(offsets[-1]) * self.model.backbone.config.hidden_size * self.model.backbone.dtype.itemsize
        info(f"{task}: caching trunk states of {len(texts)} texts, {size / GIB:.2f} GiB → {folder}")
        batches = batch_by_tokens(lengths, token_budget(self.model.backbone.device, self.model.backbone.dtype))
        with (
            atomic_folder(folder, overwrite=True) as temporary,
            progress_bar(f"trunk of {task}", len(texts), "text") as meter,
        ):
            save_tensors(temporary / OFFSETS, {"offsets": offsets})
            reserve_space(temporary / STATES, size)
            states = self._map(temporary / STATES, int(offsets[-1]), shared=True)
            for batch in batches:
                batch_states = self._compute([texts[i] for i in batch])  # (B, T, D)
                for i, row in zip(batch, batch_states, strict=True):
                    states[offsets[i] : offsets[i + 1]] = row[: lengths[i]]
                meter.advance(len(batch))

    def _compute(self, texts: Sequence[TargetedText]) -> Tensor:
        ids, mask = self.collator.tokens(*zip(*texts, strict=True))
        device = self.model.domain_expert_mask.device
        return self.model.encode_trunk(ids.to(device), mask.to(device), route=False)[0].cpu()  # (B, T, D)


def _targeted_texts(rows: Dataset) -> list[TargetedText]:
    return list(zip(rows["text"], rows["target"], strict=True))

"""Adds augmented rows to a task's training rows, after checking them against the current splits."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from experts.atomic_io import sha256_of
from experts.json_io import Json, to_json
from experts.reused import write_sealed_json
from moe.data.augmented_rows import AUGMENTED, AugmentedRow, cap_variants, read_augmented_rows, text_hash
from moe.data.dedup import NearDuplicateIndex
from moe.data.ingest import FEATURES
from moe.data.prepare import PreparedTask, load_rows, save_rows
from moe.data.schema import AugmentSettings, DataSettings
from moe.data.task_reports import AUGMENTED_REPORT, PREPARED, AugmentedReport, TaskReport

_FOLDER = "augmented"
_FORMAT = 2
_NEAR = 0.85


@dataclass(frozen=True)
class HeldOutTexts:
    """Every validation and test text of a run; no augmented row may be near one of them."""

    texts: list[str]
    data: DataSettings

    @cached_property
    def index(self) -> NearDuplicateIndex[int]:
        """Index of the texts; its threshold is 0.85 if near duplicates of original rows are not removed."""
        index = NearDuplicateIndex[int](self.data.near_duplicates or _NEAR, self.data.seed)
        index.add(enumerate(self.texts))
        return index

    @cached_property
    def sha256(self) -> str:
        """Hash of the texts and of the settings of the comparison."""
        digest = hashlib.sha256(repr((self.data.near_duplicates or _NEAR, self.data.seed)).encode())
        for text in self.texts:
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()


def add_augmented_rows(base: PreparedTask, held_out: HeldOutTexts) -> PreparedTask:
    """Return a task's rows with augmented rows added to train; validation and test are unchanged.

    Left out are variants whose source (id and text) is not in train, variants near a held-out text, and those above
    `max_share`. Label, score and language are those of the source.

    Args:
        base: the task's original rows.
        held_out: texts that no variant may be near to, and the run's data settings.

    Raises:
        Fault: if `augmented.jsonl` is missing or cannot be read.
    """
    file, folder = base.folder / AUGMENTED, base.folder / _FOLDER
    digest = sha256_of(file) if file.is_file() else ""
    settings = held_out.data.augment
    key = _cache_key(base, digest, held_out, settings)
    added = load_rows(folder, key, AUGMENTED_REPORT) if digest else None
    if added is None:
        rows, report = _select_rows(base, held_out, settings, digest)
        (folder / PREPARED).unlink(missing_ok=True)
        save_rows({"train": rows}, folder)
        write_sealed_json(folder / PREPARED, {"key": key, "report": report})
        added = load_rows(folder, key, AUGMENTED_REPORT)
        assert added is not None
    variants, report = added
    train = concatenate_datasets([base.splits["train"], variants["train"]])
    splits = DatasetDict({**base.splits, "train": train})
    return PreparedTask(splits, replace(base.report, augmented=report), base.folder)


def format_augmented_summary(report: TaskReport) -> str:
    """Format the counts of added rows as one line for the terminal."""
    added = report.augmented
    assert added is not None
    origins = ", ".join(f"{count} {origin}" for origin, count in added.origins.items())
    left_out = ", ".join(f"{count} {reason}" for reason, count in added.left_out.items())
    rows = f"{report.task}: {added.rows} augmented training rows added"
    return f"{rows}{f' ({origins})' if origins else ''}{f'; left out: {left_out}' if left_out else ''}"


def _cache_key(base: PreparedTask, digest: str, held_out: HeldOutTexts, settings: AugmentSettings) -> dict[str, Json]:
    return {
        "format": _FORMAT,
        "augmented": digest,
        "originals": sha256_of(base.folder / PREPARED),
        "other_tasks": to_json(base.report.other_tasks or {}),
        "held_out": held_out.sha256,
        "bound": [settings.max_share, settings.seed],
    }


def _select_rows(
    base: PreparedTask, held_out: HeldOutTexts, settings: AugmentSettings, digest: str
) -> tuple[Dataset, AugmentedReport]:
    """Augmented rows that may be added, and counts of added and left out ones of the file with a hash."""
    train, left_out = base.splits["train"], Counter[str]()
    rows = zip(train["id"], train["text"], train["target"], strict=True)
    index = {(id_, text_hash(text), target): i for i, (id_, text, target) in enumerate(rows)}
    variants = list(read_augmented_rows(base.folder / AUGMENTED))
    in_train = [variant for variant in variants if variant.source in index]
    left_out["source not in train"] = len(variants) - len(in_train)
    matches = held_out.index.query((i, variant.text) for i, variant in enumerate(in_train))
    clean = [in_train[i] for i, others in matches if not others]
    left_out["near a held-out text"] = len(in_train) - len(clean)
    sources = train.select([index[variant.source] for variant in clean])
    labels = np.asarray(sources["label"], dtype=np.int64)  # (P,)
    is_synonym = np.array([variant.origin == "synonym" for variant in clean], dtype=np.int64)  # (P,)
    retained = cap_variants(2 * labels + is_synonym, len(train), settings)  # (n,)
    left_out["above max_share"] = len(clean) - len(retained)
    selected = [clean[i] for i in retained.tolist()]
    origins = dict(Counter(variant.origin for variant in selected).most_common())
    report = AugmentedReport(sha256=digest, rows=len(selected), origins=origins, left_out=dict(+left_out))
    return _to_rows(selected, sources.select(retained)), report


def _to_rows(variants: Sequence[AugmentedRow], sources: Dataset) -> Dataset:
    """Rows with the columns of the sources, but the variants' id, text, origin and prompt."""
    columns = {name: list(sources[name]) for name in FEATURES}
    prompts = [
        prompt and prompt.replace(text, variant.text)
        for prompt, text, variant in zip(columns["prompt"], columns["text"], variants, strict=True)
    ]
    columns |= {
        "id": [variant.id for variant in variants],
        "text": [variant.text for variant in variants],
        "origin": [variant.origin for variant in variants],
        "prompt": prompts,
    }
    return Dataset.from_dict(columns, features=FEATURES)

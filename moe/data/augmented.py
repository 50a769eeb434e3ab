"""Augmented rows beside a task's original ones, on the training side only.

Who writes them is `moe.augment.pipeline`; here every one is held again against the splits as they are now.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from experts.atomic_io import sha256_of, write_json
from moe.data.augmented_rows import AUGMENTED, AugmentedRow, cap_variants, read_augmented_rows, text_hash
from moe.data.dedup import NearDuplicateIndex
from moe.data.ingest import FEATURES
from moe.data.prepare import PREPARED, PreparedTask, load_prepared, save_rows
from moe.data.schema import AugmentSettings, DataSettings

_FOLDER = "augmented"
_FORMAT = 1
_NEAR = 0.85


@dataclass(frozen=True)
class HeldOutTexts:
    """Every validation and test text of a run, which no augmented row may come near."""

    texts: list[str]
    data: DataSettings

    @cached_property
    def index(self) -> NearDuplicateIndex[int]:
        """The texts, to be asked whether one is near; by 0.85 also where original rows are not compared."""
        index = NearDuplicateIndex[int](self.data.near_duplicates or _NEAR, self.data.seed)
        index.add(enumerate(self.texts))
        return index

    @cached_property
    def sha256(self) -> str:
        """Of the texts and of how they are compared."""
        said = hashlib.sha256(repr((self.data.near_duplicates or _NEAR, self.data.seed)).encode())
        for text in self.texts:
            said.update(text.encode() + b"\0")
        return said.hexdigest()


def add_augmented_rows(base: PreparedTask, held_out: HeldOutTexts) -> PreparedTask:
    """A task's rows with the augmented ones added to train; validation and test are those of `base`.

    Left out are variants whose source is not among the training rows any more, text included; those near a held-out
    text; and those above `max_share`. Label, score and language are the source's.

    Args:
        base: the task's original rows.
        held_out: what they are kept away from, and the run's settings.

    Raises:
        Fault: when `augmented.jsonl` is missing or broken.
    """
    file, folder = base.folder / AUGMENTED, base.folder / _FOLDER
    digest = sha256_of(file) if file.is_file() else ""
    settings = held_out.data.augment
    key = _key(base, digest, held_out, settings)
    extra = load_prepared(folder, key) if digest else None
    if extra is None:
        rows, counts = _mixed(base, held_out, settings)
        (folder / PREPARED).unlink(missing_ok=True)
        save_rows({"train": rows}, folder)
        write_json(folder / PREPARED, {"key": key, "report": {"sha256": digest} | counts})
        extra = load_prepared(folder, key)
        assert extra is not None
    train = concatenate_datasets([base.splits["train"], extra.splits["train"]])
    splits = DatasetDict({**base.splits, "train": train})
    return PreparedTask(splits, base.report | {"augmented": extra.report}, base.folder)


def format_augmented_summary(report: Mapping[str, Any]) -> str:
    """The counts of added rows in a line for the terminal."""
    added = report["augmented"]
    kinds = ", ".join(f"{count} {origin}" for origin, count in added["origins"].items())
    gone = ", ".join(f"{count} {reason}" for reason, count in added["left_out"].items())
    rows = f"{report['task']}: {added['rows']} augmented training rows added"
    return f"{rows}{f' ({kinds})' if kinds else ''}{f'; left out: {gone}' if gone else ''}"


def _key(base: PreparedTask, digest: str, held_out: HeldOutTexts, settings: AugmentSettings) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "augmented": digest,
        "originals": sha256_of(base.folder / PREPARED),
        "held_out": held_out.sha256,
        "bound": [settings.max_share, settings.seed],
    }


def _mixed(base: PreparedTask, held_out: HeldOutTexts, settings: AugmentSettings) -> tuple[Dataset, dict[str, Any]]:
    train, gone = base.splits["train"], Counter[str]()
    place = {(id_, text_hash(text)): i for i, (id_, text) in enumerate(zip(train["id"], train["text"], strict=True))}
    found = list(read_augmented_rows(base.folder / AUGMENTED))
    sourced = [one for one in found if (one.source_id, one.source_hash) in place]
    gone["of rows that do not train"] = len(found) - len(sourced)
    near = held_out.index.query((i, one.text) for i, one in enumerate(sourced))
    apart = [sourced[i] for i, others in near if not others]
    gone["near a held-out text"] = len(sourced) - len(apart)
    sources = train.select([place[one.source_id, one.source_hash] for one in apart])
    labels = np.asarray(sources["label"], dtype=np.int64)  # (P,)
    swapped = np.array([one.origin == "synonym" for one in apart], dtype=np.int64)  # (P,)
    kept = cap_variants(2 * labels + swapped, len(train), settings)  # (n,)
    gone["above max_share"] = len(apart) - len(kept)
    chosen = [apart[i] for i in kept.tolist()]
    origins = dict(Counter(one.origin for one in chosen).most_common())
    counts = {"rows": len(chosen), "origins": origins, "left_out": dict(+gone)}
    return _rows(chosen, sources.select(kept)), counts


def _rows(chosen: Sequence[AugmentedRow], sources: Dataset) -> Dataset:
    """The variants in the columns of their sources, with a text, an id and an origin of their own."""
    columns = {name: list(sources[name]) for name in FEATURES}
    own = {"id": [o.id for o in chosen], "text": [o.text for o in chosen], "origin": [o.origin for o in chosen]}
    own["prompt"] = [
        prompt and prompt.replace(before, one.text)
        for prompt, before, one in zip(columns["prompt"], columns["text"], chosen, strict=True)
    ]
    return Dataset.from_dict(columns | own, features=FEATURES)

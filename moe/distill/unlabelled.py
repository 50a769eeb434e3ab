"""The unlabelled texts of a domain that the teachers label, on their own or about an entity."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experts.errors import Fault
from moe.console import info
from moe.data.distilled.settings import DistillSettings
from moe.data.formats.readers import DEFAULT_TARGET_COLUMN, columns_of_texts, read_texts
from moe.data.text_checks import is_blank, target_problem
from moe.distill.overlap import remove_near_duplicates
from moe.distill.request import TeacherInput
from moe.inference.bulk.storage import list_files, local_copy
from moe.runs.workspace import Workspace

_NEAR = 0.85


@dataclass(frozen=True)
class Unlabelled:
    """What the teachers label for a task in addition to its labelled rows.

    Args:
        inputs: texts; each with an entity for a task with a target.
        read: how many the files have, equal ones counted once.
        near_held_out: those near a validation or test text of the run, which are left out.
    """

    inputs: Sequence[TeacherInput]
    read: int
    near_held_out: int


class UnlabelledTexts:
    """The unlabelled texts of a domain. A column `target` of a file names the entities, as for `moe infer`.

    Args:
        work: the run.
        domain: its name.
        settings: of the distillation.
        held_out: validation and test texts of the run.

    Raises:
        Fault: if a file cannot be read or has no valid text, or no row has an entity and all tasks need one.
    """

    def __init__(self, work: Workspace, domain: str, settings: DistillSettings, held_out: Sequence[str]) -> None:
        self.work, self.domain, self.settings, self.held_out = work, domain, settings, held_out
        paths = [work.run.data.path(file) for file in settings.text.get(domain, ())]
        self._rows = dict.fromkeys(row for path in paths for row in _read(path))
        self._made: dict[bool, Unlabelled] = {}
        targeted = all(task.has_target for task in work.run.tasks_of(domain).values())
        if paths and targeted and all(row.target is None for row in self._rows):
            raise Fault(
                f"texts with their entity in a column `{DEFAULT_TARGET_COLUMN}` in distill.text.{domain}, since every "
                "task of this domain has a target",
                "no entity",
                "add the column, or remove these files from the config",
            )

    def for_task(self, targeted: bool) -> Unlabelled:
        """Inputs for a task with a target, or for one without; those of labelled training rows are left out."""
        if targeted not in self._made:
            self._made[targeted] = self._make(targeted)
        return self._made[targeted]

    def _make(self, targeted: bool) -> Unlabelled:
        if targeted:
            rows = [row for row in self._rows if row.target is not None]
        else:
            rows = list(dict.fromkeys(TeacherInput(row.text) for row in self._rows))
        if not rows:
            return Unlabelled([], 0, 0)
        settings, data = self.settings, self.work.run.data
        trained = {
            TeacherInput(text, target if targeted else None)
            for task in self.work.originals(self.domain).values()
            for text, target in zip(task.splits["train"]["text"], task.splits["train"]["target"], strict=True)
        }
        candidates = [row for row in rows if row not in trained]
        if settings.most is not None and settings.select == "random" and len(candidates) > 2 * settings.most:
            chosen = np.random.default_rng(settings.seed).permutation(len(candidates))[: 2 * settings.most]
            candidates = [candidates[i] for i in np.sort(chosen)]  # enough, and far fewer to compare
        texts = [row.text for row in candidates]
        different = remove_near_duplicates(texts, self.held_out, data.near_duplicates or _NEAR, data.seed)
        removed = len(candidates) - len(different)
        kind = "unlabelled texts with an entity" if targeted else "unlabelled texts"
        info(f"{self.domain}: {len(rows):,} {kind}; {removed:,} near a validation or test text are left out")
        return Unlabelled([candidates[i] for i in different], len(rows), removed)


def _read(path: Path) -> Iterator[TeacherInput]:
    """Yield the valid rows of a file, of all files of a folder, or of a `datasets` folder."""
    is_folder = path.is_dir() and not (path / "state.json").is_file() and not (path / "dataset_dict.json").is_file()
    files = [local_copy(name, path) for name, _ in list_files(str(path))] if is_folder else [path]
    count = 0
    for file in files:
        for record in read_texts(file, columns_of_texts(file, "text")):
            target = record.values.get("target")
            if record.error or not (is_blank(target) or target_problem(target) is None):
                continue
            count += 1
            yield TeacherInput(str(record.values["text"]), None if is_blank(target) else str(target))
    if not count:
        raise Fault(f"texts in {path}", "none", "use another file, or remove it from distill.text")

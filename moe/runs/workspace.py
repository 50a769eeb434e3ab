"""The folder of a run: where each step writes, and the prepared rows that it reads."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset, concatenate_datasets
from rich.markup import escape

from experts.atomic_io import sha256_of
from experts.domain import Domain
from experts.errors import Fault
from moe import distributed
from moe.config.run import RunSettings
from moe.config.stages import EXPERT, SHARED
from moe.console import info
from moe.data.augmented import HeldOutTexts, add_augmented_rows, format_augmented_summary
from moe.data.augmented_rows import AUGMENTED
from moe.data.distilled.soft_labels import read_soft_rows, with_soft_labels
from moe.data.prepare import PreparedTask, format_summary, prepare_task
from moe.data.schema import TaskSettings
from moe.model.backbone import AUTO, LANGUAGE_LENGTH
from moe.runs.across_tasks import format_removed, remove_across_tasks
from moe.runs.layout import CHECKPOINTS, DATA, DISTILLED, LOGS, POOLED, SAMPLE
from moe.runs.recovery import recover_run
from moe.runs.text_lengths import LengthStore, check_length, format_cuts
from moe.runs.unlabelled import read_unlabelled
from moe.synthetic import write_sample
from moe.trackers import check_trackers

if TYPE_CHECKING:
    from transformers import TrainerCallback


@dataclass
class Workspace:
    """A config and the folder to which its steps write.

    Args:
        run: the config.
        out: the folder.
        data_dir: folder of prepared rows and of the sample, `out` by default; runs on the same rows can share one.
        reused: folders of steps that were finished earlier and are kept, in order.
        warnings: lines about data and stages that were printed so far.
        notes: other lines that are printed once.
        checked_domains: domains whose rows `moe.evaluation.data_warnings` has checked.
        callbacks: transformers' callbacks that the training loop of every stage calls.
    """

    run: RunSettings
    out: Path
    data_dir: Path | None = None
    reused: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)
    checked_domains: set[str] = field(default_factory=set)
    callbacks: "tuple[TrainerCallback, ...]" = ()

    def begin(self) -> None:
        """Prepare training: process group, remains of a killed run, trackers, and `backbone.max_length`.

        Raises:
            Fault: if a tracker is not installed, or the backbone does not read `backbone.max_length` tokens.
        """
        distributed.init_process_group()
        distributed.on_main_process(lambda: recover_run(self.out))
        check_trackers(self.run.track)
        self.resolve_length()

    def resolve_length(self) -> int:
        """Replace `backbone.max_length: auto` by the number that the run's training texts give, and return it.

        Raises:
            Fault: if the backbone does not read as many tokens, or a file is missing or has too many invalid rows.
        """
        backbone = self.run.backbone
        check_length(backbone)
        if backbone.max_length == AUTO:
            length = self._resolve_auto()
            info(f"backbone.max_length: auto is {length} tokens in this run")
            self.run = self.run.model_copy(update={"backbone": backbone.model_copy(update={"max_length": length})})
        return self.run.backbone.resolved_length

    @cached_property
    def _lengths(self) -> LengthStore:
        return LengthStore((self.data_dir or self.out) / DATA, self.run.backbone, self.run.template)

    def _resolve_auto(self) -> int:
        if self.run.language is not None:
            return LANGUAGE_LENGTH
        rows = {name: self.rows("train", [name]) for name in self.run.domains}
        in_use = any((folder / EXPERT.folder).is_dir() for folder in (self.out, self.data_dir) if folder is not None)
        with distributed.main_process_first():
            return self._lengths.resolve_auto(rows, in_use)

    def cut_lines(self, domains: Iterable[str] | None = None) -> list[str]:
        """Say how many training texts of some domains, or all, are truncated; empty for a language model."""
        if self.run.language is not None:
            return []
        rows = {name: self.rows("train", [name]) for name in domains or self.run.domains if name in self.run.domains}
        with distributed.main_process_first():
            return format_cuts(self._lengths.lengths(rows), rows, self.run.backbone)

    def note(self, line: str) -> None:
        """Print a line that is no warning, unless it was printed before."""
        if line not in self.notes:
            self.notes.add(line)
            info(escape(line))

    def warn(self, line: str) -> None:
        """Print a warning, unless it was printed before."""
        if line not in self.warnings:
            self.warnings.append(line)
            info(escape(line))

    def expert_folder(self, name: str) -> Path:
        """Folder of an expert."""
        return self.out / EXPERT.folder / name

    @property
    def shared_folder(self) -> Path | None:
        """Folder of the shared expert, if the run has one."""
        return self.out / SHARED.folder if self.run.shared else None

    @property
    def pooled_folder(self) -> Path:
        """Folder of the pooled LoRA, which the mixture is compared with."""
        return self.out / POOLED

    @property
    def frozen_experts(self) -> tuple[str, ...]:
        """Names of the experts that no stage trains: the shared one, if it starts frozen from a trained expert."""
        return (Path(SHARED.folder).name,) if self.run.shared is not None and self.run.shared.is_frozen else ()

    def checkpoints(self, step: str) -> Path:
        """Folder of the checkpoints of a running step."""
        return self.out / CHECKPOINTS / step

    def logs(self, step: str) -> Path:
        """Folder of a step's TensorBoard and JSONL logs."""
        return self.out / LOGS / step

    def domains(self) -> dict[str, Domain]:
        """Return the config's domains by name."""
        return {domain.name: domain for domain in self.run.domain_list()}

    def rows(self, split: str, domains: Iterable[str] | None = None) -> Dataset:
        """Return the labelled rows of one split over all tasks, of some domains or all."""
        names = list(domains) if domains is not None else list(self.run.domains)
        parts = [prepared.splits[split] for name in names for prepared in self.prepared(name).values()]
        return concatenate_datasets(parts) if len(parts) > 1 else parts[0]

    def training_rows(self, domains: Iterable[str]) -> Dataset:
        """Return the rows that stages train on: labelled ones, and with `distill` the soft labels of the teachers.

        Raises:
            Fault: if the teachers have not labelled the texts yet.
        """
        names = list(domains)
        run = self.run
        if run.distill is None:
            return self.rows("train", names)
        tasks = {(name, task): its.splits["train"] for name in names for task, its in self.prepared(name).items()}
        for name, task in tasks:
            if task in run.distilled_tasks(name) and (name, task) not in self._soft:
                soft = read_soft_rows(self.soft_file(name, task), run.distill.of_labels(name))
                self._soft[name, task] = with_soft_labels(tasks[name, task], soft, name, task)
        return concatenate_datasets([self._soft.get(key, rows) for key, rows in tasks.items()])

    def soft_file(self, domain: str, task: str) -> Path:
        """The file of a task's texts with the teachers' answers."""
        return (self.data_dir or self.out) / DISTILLED / domain / f"{task}.parquet"

    def unlabelled(self, domains: Iterable[str]) -> list[Dataset]:
        """Return the texts without labels of those of the given domains that have any.

        Raises:
            Fault: if a file cannot be read, or holds no text.
        """
        settings = {name: self.run.domains[name] for name in domains if name in self.run.domains}
        return [
            read_unlabelled(
                [self.run.data.path(file) for file in domain.unlabelled],
                domain=name,
                task=next(iter(self.run.tasks_of(name))),
                max_rows=domain.max_unlabelled_rows,
                seed=self.run.data.seed,
            )
            for name, domain in settings.items()
            if domain.unlabelled
        ]

    def prepared(self, domain: str) -> dict[str, PreparedTask]:
        """Return a domain's rows by task, as used for training and test: with `data.augmented` including variants.

        Raises:
            Fault: if a file is missing or has too many invalid rows.
        """
        if not self.run.data.augmented:
            return self.originals(domain)
        if domain not in self._augmented:
            self._augmented[domain] = {
                task: self._augment(prepared) for task, prepared in self.originals(domain).items()
            }
        return self._augmented[domain]

    def originals(self, domain: str) -> dict[str, PreparedTask]:
        """Return a domain's original rows by task: read, validated, split, and stored on disk for later steps.

        Raises:
            Fault: if its file is missing or has too many invalid rows, or the run trains a language model.
        """
        self.check_labelled()
        return {task: self._original(domain, task) for task in self.run.tasks_of(domain)}

    def check_labelled(self) -> None:
        """Check that the run trains on labelled rows.

        Raises:
            Fault: if it trains a language model.
        """
        if self.run.language is not None:
            raise Fault(
                "a run on labelled rows",
                "one of a language model, which is trained on plain text",
                "use moe pretrain, moe merge and moe train-router, or remove `language` from the config",
            )

    def questions(self, split: str, tasks: Sequence[str] = ()) -> Dataset:
        """Return the rows of one split of the question-answering tasks of all domains.

        Args:
            tasks: use these tasks only; all by default.

        Raises:
            Fault: if no domain has such a task, or a file is missing or has too many invalid rows.
        """
        declared = [(name, task) for name in self.run.domains for task in self.run.questions_of(name)]
        selected = [(name, task) for name, task in declared if not tasks or task in tasks]
        if not selected:
            raise Fault("a domain with questions", "none in the config", "add `tasks` with an `ask` to a domain")
        all_prepared = [self.question_task(name, task) for name, task in selected]
        if self.run.data.augmented and split == "train":
            all_prepared = [
                self._augment(prepared) if (prepared.folder / AUGMENTED).is_file() else prepared
                for prepared in all_prepared
            ]
        return concatenate_datasets([prepared.splits[split] for prepared in all_prepared])

    def question_task(self, domain: str, task: str) -> PreparedTask:
        """Return the original rows of a question-answering task.

        Raises:
            Fault: if its file is missing or has too many invalid rows.
        """
        return self._original(domain, task)

    def unaugmented(self, domain: str) -> dict[str, PreparedTask]:
        """Return a domain's original rows by task: labelled ones, or the questions for a language model."""
        if self.run.language is None:
            return self.originals(domain)
        return {task: self.question_task(domain, task) for task in self.run.questions_of(domain)}

    def _original(self, domain: str, task: str) -> PreparedTask:
        """A task's original rows, without those that another task holds out if tasks may share texts."""
        return self._apart[f"{domain}/{task}"] if self.run.removes_across_tasks else self._raw(domain, task)

    @cached_property
    def _apart(self) -> dict[str, PreparedTask]:
        """All tasks of the run by `DOMAIN/TASK`, without rows near a held-out text of another task."""
        names = [(domain, task) for domain in self.run.domains for task in self.run.rows_of(domain)]
        tasks = {f"{domain}/{task}": self._raw(domain, task) for domain, task in names}
        with distributed.main_process_first():
            reduced = remove_across_tasks(tasks, self.run.data, (self.data_dir or self.out) / DATA)
        for prepared in reduced.values():
            if line := format_removed(prepared.report):
                info(line)
        return reduced

    def _raw(self, domain: str, task: str) -> PreparedTask:
        if (domain, task) not in self._prepared:
            self._prepared[domain, task] = self._prepare(domain, task, self.run.rows_of(domain)[task])
        return self._prepared[domain, task]

    @cached_property
    def _prepared(self) -> dict[tuple[str, str], PreparedTask]:
        return {}

    @cached_property
    def _soft(self) -> dict[tuple[str, str], Dataset]:
        return {}

    @cached_property
    def _augmented(self) -> dict[str, dict[str, PreparedTask]]:
        return {}

    @cached_property
    def held_out(self) -> HeldOutTexts:
        """All validation and test texts of the run."""
        all_splits = [prepared.splits for domain in self.run.domains for prepared in self.unaugmented(domain).values()]
        texts = [text for splits in all_splits for part in ("validation", "test") for text in splits[part]["text"]]
        return HeldOutTexts(texts, self.run.data)

    def _augment(self, prepared: PreparedTask) -> PreparedTask:
        mixed = add_augmented_rows(prepared, self.held_out)
        info(format_augmented_summary(mixed.report))
        return mixed

    def _prepare(self, domain: str, task: str, settings: TaskSettings) -> PreparedTask:
        path = self.task_file(domain, task, settings)
        folder = (self.data_dir or self.out) / DATA / domain / task
        with distributed.main_process_first():
            prepared = prepare_task(path, settings, self.run.data, domain, task, folder)
        info(format_summary(prepared.report))
        return prepared

    def task_file(self, domain: str, task: str, settings: TaskSettings) -> Path:
        """Return the file of a task; the synthetic sample is written first if the config uses it for this domain.

        Raises:
            Fault: if the config has neither a file nor `sample`.
        """
        if settings.file is not None:
            return self.run.data.path(settings.file)
        sample = self.run.sample
        if sample is None:
            raise Fault(f"a file for task {task} of domain {domain}", "none", f"set domains.{domain}.file")
        folder = (self.data_dir or self.out) / SAMPLE / ("dated" if sample.dated else "")
        path = folder / f"{domain}.csv"
        with distributed.main_process_first():
            if not path.is_file():
                write_sample(folder, sample.rows, sample.seed, [domain], overwrite=True, dated=sample.dated)
        return path

    def data_hashes(self, domains: Iterable[str]) -> dict[str, str]:
        """Return the SHA-256 of each task's file, and of its augmented rows and soft labels if they train."""
        domains = list(domains)
        reports = {task: prepared.report for domain in domains for task, prepared in self.prepared(domain).items()}
        hashes = {task: report.sha256 for task, report in reports.items()}
        hashes |= {f"{task} augmented": report.augmented.sha256 for task, report in reports.items() if report.augmented}
        soft = {
            f"{task} {DISTILLED}": self.soft_file(name, task)
            for name in (domains if self.run.distill else ())
            for task in self.run.distilled_tasks(name)
        }
        return hashes | {name: sha256_of(path) for name, path in soft.items() if path.is_file()}

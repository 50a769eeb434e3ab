"""One run's folder: where each step writes, and the rows it reads.

The steps themselves are `moe.training.steps`'.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from experts.domain import Domain
from experts.errors import Fault
from moe import distributed
from moe.config.run import RunSettings
from moe.config.stages import EXPERT, SHARED
from moe.console import info
from moe.data.augmented import HeldOutTexts, format_augmented_summary, add_augmented_rows
from moe.data.augmented_rows import AUGMENTED
from moe.data.prepare import PreparedTask, prepare_task, format_summary
from moe.data.schema import TaskSettings
from moe.runs.dry_run import DryRun
from moe.synthetic import write_sample
from moe.trackers import check_trackers


@dataclass
class Workspace:
    """A config and the folder that its steps write to.

    Args:
        run: the config.
        out: the folder.
        store: where prepared rows and the sample are kept, `out` by default; runs on the same rows may share one.
        probe: tries every stage in small, instead of running it.
    """

    run: RunSettings
    out: Path
    store: Path | None = None
    probe: DryRun | None = None

    def begin(self) -> None:
        """What a step that trains does first: meet the other processes, refuse a tracker that is not there.

        Raises:
            Fault: naming what to install.
        """
        distributed.init()
        check_trackers(self.run.track)

    def expert_folder(self, name: str) -> Path:
        """Where an expert is written."""
        return self.out / EXPERT.folder / name

    @property
    def shared_folder(self) -> Path | None:
        """Where the shared expert is written, if the run has one."""
        return self.out / SHARED.folder if self.run.shared else None

    def checkpoints(self, step: str) -> Path:
        """Where a running step keeps transformers' checkpoints."""
        return self.out / "checkpoints" / step

    def logs(self, step: str) -> Path:
        """Where a step's TensorBoard and JSONL logs are."""
        return self.out / "logs" / step

    def domains(self) -> dict[str, Domain]:
        """The config's domains by name."""
        return {domain.name: domain for domain in self.run.domain_list()}

    def rows(self, split: str, domains: Iterable[str] | None = None) -> Dataset:
        """The rows of one split, of all domains or some, tasks together."""
        names = list(domains) if domains is not None else list(self.run.domains)
        parts = [prepared.splits[split] for name in names for prepared in self.prepared(name).values()]
        whole = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        return self.probe.subset(whole) if self.probe and split == "validation" else whole

    def prepared(self, domain: str) -> dict[str, PreparedTask]:
        """A domain's tasks as they train and test: its own rows, and with `data.augmented` the variants of them.

        Raises:
            Fault: when a file is missing or too much of it is bad.
        """
        if not self.run.data.augmented:
            return self.originals(domain)
        if domain not in self._augmented:
            self._augmented[domain] = {task: self._augment(one) for task, one in self.originals(domain).items()}
        return self._augmented[domain]

    def originals(self, domain: str) -> dict[str, PreparedTask]:
        """A domain's own rows by task, read, checked and split; kept on disk for the steps that follow.

        Raises:
            Fault: when its file is missing or too much of it is bad, or the run is a language model's.
        """
        if self.run.language is not None:
            raise Fault(
                "a run on labelled rows",
                "one of a language model, which learns plain text",
                "use moe pretrain, moe merge and moe train-router, or take `language` out of the config",
            )
        if domain not in self._prepared:
            self._prepared[domain] = {
                task: self._prepare(domain, task, settings) for task, settings in self.run.tasks_of(domain).items()
            }
        return self._prepared[domain]

    def questions(self, split: str, only: Sequence[str] = ()) -> Dataset:
        """The rows of one split that ask something of a language model, of all domains, tasks together.

        Args:
            only: these tasks alone; all by default.

        Raises:
            Fault: when no domain has such a task, a file is missing or too much of it is bad.
        """
        every = [(name, task) for name in self.run.domains for task in self.run.questions_of(name)]
        tasks = [(name, task) for name, task in every if not only or task in only]
        if not tasks:
            raise Fault("a domain with questions", "none in the config", "give a domain `tasks`, each with its `ask`")
        found = [self.question_task(name, task) for name, task in tasks]
        if self.run.data.augmented and split == "train":
            found = [self._augment(one) if (one.folder / AUGMENTED).is_file() else one for one in found]
        whole = concatenate_datasets([one.splits[split] for one in found])
        return self.probe.subset(whole) if self.probe and split == "validation" else whole

    def asking(self, domain: str, task: str) -> PreparedTask:
        """The own rows of one task that asks something of a language model.

        Raises:
            Fault: when its file is missing or too much of it is bad.
        """
        own = self._prepared.setdefault(domain, {})
        if task not in own:
            own[task] = self._prepare(domain, task, self.run.questions_of(domain)[task])
        return own[task]

    def own_rows(self, domain: str) -> dict[str, PreparedTask]:
        """A domain's own rows by task, labelled or asking, as the run is."""
        if self.run.language is None:
            return self.originals(domain)
        return {task: self.question_task(domain, task) for task in self.run.questions_of(domain)}

    @cached_property
    def _prepared(self) -> dict[str, dict[str, PreparedTask]]:
        return {}

    @cached_property
    def _augmented(self) -> dict[str, dict[str, PreparedTask]]:
        return {}

    @cached_property
    def held_out(self) -> HeldOutTexts:
        """Every validation and test text of the run."""
        found = [one.splits for domain in self.run.domains for one in self.unaugmented(domain).values()]
        texts = [text for splits in found for part in ("validation", "test") for text in splits[part]["text"]]
        return HeldOutTexts(texts, self.run.data)

    def _augment(self, own: PreparedTask) -> PreparedTask:
        mixed = add_augmented_rows(own, self.held_out)
        info(format_augmented_summary(mixed.report))
        return mixed

    def _prepare(self, domain: str, task: str, settings: TaskSettings) -> PreparedTask:
        path = self.task_file(domain, task, settings)
        folder = (self.store or self.out) / "data" / domain / task
        with distributed.main_process_first():
            prepared = prepare_task(path, settings, self.run.data, domain, task, folder)
        info(format_summary(prepared.report))
        return prepared

    def file_of(self, domain: str, task: str, settings: TaskSettings) -> Path:
        """The file of a task; the shipped sample is written where the config asks for it and names no file.

        Raises:
            Fault: when the config names no file and asks for no sample.
        """
        if settings.file is not None:
            return self.run.data.path(settings.file)
        sample = self.run.sample
        if sample is None:
            raise Fault(f"a file for task {task} of domain {domain}", "none named", f"set domains.{domain}.file")
        folder = (self.store or self.out) / "sample"
        path = folder / f"{domain}.csv"
        with distributed.main_process_first():
            if not path.is_file():
                write_sample(folder, rows=sample.rows, seed=sample.seed, domains=[domain])
        return path

    def data_hashes(self, domains: Iterable[str]) -> dict[str, str]:
        """SHA-256 of each task's file, and of its augmented rows where they train."""
        tasks = {task: one.report for domain in domains for task, one in self.prepared(domain).items()}
        added = {f"{task} augmented": one["augmented"]["sha256"] for task, one in tasks.items() if "augmented" in one}
        return {task: one["sha256"] for task, one in tasks.items()} | added


def package_versions() -> dict[str, str]:
    """The versions that weights and figures depend on, and this program's commit where it runs from a clone."""
    found = {name: version(name) for name in ("finmoe", "torch", "transformers", "peft")}
    commit = read_commit(Path(__file__).parents[2])
    return found if commit is None else found | {"commit": commit}


def read_commit(clone: Path) -> str | None:
    """The commit that a clone stands at, read from git's own files; None where there is no clone."""
    git = clone / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="ascii").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text(encoding="ascii").strip()
        packed = (git / "packed-refs").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)

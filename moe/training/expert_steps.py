"""Training steps of single experts: one for each domain, and the shared one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from datasets import Dataset
from torch import Tensor

from experts.adapter import build_adapter
from experts.domain import Domain
from experts.errors import Fault, suggest
from experts.expert_io import ExpertFolder, InitOrigin, read_expert
from moe import distributed
from moe.checkpoints.expert import SHARED_NAME, build_expert_model
from moe.config.run import RunSettings
from moe.config.stages import EXPERT, SHARED, Stage
from moe.console import info
from moe.data.collator import Collator, split_into_windows
from moe.evaluation.data_warnings import print_data_warnings
from moe.evaluation.evaluate import validate
from moe.evaluation.weak_tasks import FinishedStage, warn_of_weak_tasks
from moe.model.mixture import Mixture
from moe.runs.finished import expert_differences, keeps_finished, training_hashes
from moe.runs.layout import CACHE
from moe.runs.locking import writes_run
from moe.runs.selection_metric import MACRO_F1, SELECTION_METRICS, metric_of_rows
from moe.runs.shared_init import load_shared_init
from moe.runs.workspace import Workspace
from moe.training.expert_folder import place_frozen_expert, require_shared_expert, save_expert
from moe.training.expert_init import load_expert_start
from moe.training.job import TrainResult
from moe.training.language.lm_dataset import LMCorpora
from moe.training.prototypes import expert_gate, state_prototype
from moe.training.stage import TrainingData, count_labels, run_stage, warn_equal_class_weights
from moe.training.trunk_cache import TrunkCache

LABELLED = "labelled"
"""Name of the held-out set of labelled rows."""


@writes_run
def train_domain(work: Workspace, domain: str, overwrite: bool = False, resume: bool = False) -> list[Path]:
    """Train every expert of a domain, each from a different seed, and write their folders; finished ones are kept.

    Args:
        overwrite: train finished experts again.
        resume: continue from the last checkpoint of an expert that is under way.

    Returns:
        the experts' folders.

    Raises:
        Fault: if the run trains a language model, the domain is unknown, its data are invalid, or a finished expert has
            other settings or data.
    """
    work.begin()
    work.check_labelled()
    domains = work.domains()
    if domain not in domains:
        raise Fault(f"one of the domains {', '.join(domains)}", repr(domain), suggest(domain, domains))
    require_shared_expert(work, "moe train-expert --shared, or train --all")
    print_data_warnings(work, [domain])
    return train_experts(work, EXPERT, [domains[domain]], overwrite=overwrite, resume=resume)


@writes_run
def train_shared(work: Workspace, overwrite: bool = False, resume: bool = False) -> Path:
    """Train the shared expert on all domains pooled, or place it if it starts frozen from a trained expert.

    A finished one is kept.

    Args:
        overwrite: train it again if it is finished.
        resume: continue from its last checkpoint if it is under way.

    Returns:
        the expert's folder.

    Raises:
        Fault: if the run trains a language model, the config has no shared expert, `shared.init` does not fit the run,
            or the finished expert has other settings or data.
    """
    work.begin()
    work.check_labelled()
    return train_shared_expert(work, overwrite=overwrite, resume=resume)


def train_experts(
    work: Workspace, stage: Stage, domains: Sequence[Domain], overwrite: bool, resume: bool
) -> list[Path]:
    """Train every expert of some domains, each from a different seed, and return their folders."""
    folders = []
    for domain in domains:
        for k, name in enumerate(domain.expert_names):
            folder = work.expert_folder(name)
            differences = partial(expert_differences, work, stage, folder, [domain.name])
            if not keeps_finished(work, folder, differences, overwrite=overwrite, resume=resume):
                new_expert(work, stage, domain, name, seed=work.run.seed + k).train(resume=resume)
            folders.append(folder)
    return folders


def train_shared_expert(work: Workspace, overwrite: bool, resume: bool) -> Path:
    """Train the shared expert, or place it if it starts frozen from a trained expert, and return its folder.

    Raises:
        Fault: if the config has none, or the finished one has other settings or data.
    """
    folder = work.shared_folder
    if folder is None:
        raise Fault("a shared expert in the config", "none", "set its rank, for example --set shared.r=12")
    print_data_warnings(work)
    differences = partial(expert_differences, work, SHARED, folder, list(work.run.domains))
    if keeps_finished(work, folder, differences, overwrite=overwrite, resume=resume):
        require_shared_expert(work, "")  # if it is placed: that it is the one that `shared.init` names
    elif work.frozen_experts:
        place_frozen_expert(work, overwrite=True)
    else:
        domain = pooled_domain(work.run, SHARED_NAME)
        new_expert(work, SHARED, domain, SHARED_NAME, seed=work.run.seed).train(resume=resume)
    return folder


def pooled_domain(run: RunSettings, name: str) -> Domain:
    """All domains of a run as one, with the tasks of all; a language model has none."""
    if run.language is not None:
        return Domain(name, {})
    space = run.label_space()
    return Domain(name, space.tasks, target_tasks=tuple(sorted(space.target_tasks)), kinds=space.kinds)


@dataclass(frozen=True)
class NewExpert:
    """An expert of a run that is yet to be trained, on labelled rows or on a language model's text.

    Args:
        work: the run.
        stage: the stage that trains it.
        domain: its domain; for the shared expert, all domains as one.
        name: its name.
        seed: of its initial weights, the order of rows and dropout.
        model: the backbone with this expert and the shared one, if the run has one.
        data: its training data.
        polarity: whether it has a polarity head.
        shared: the shared expert, unless this is it.
        init: what it starts from, if it does not start fresh.
    """

    work: Workspace
    stage: Stage
    domain: Domain
    name: str
    seed: int
    model: Mixture
    data: TrainingData
    polarity: bool
    shared: ExpertFolder | None
    init: InitOrigin | None

    @property
    def domains(self) -> list[str]:
        """Names of the domains whose rows or text it is trained on."""
        return _trained_domains(self.work, self.stage, self.domain)

    @property
    def keep_start(self) -> bool:
        """Whether its weights at the start are kept if no evaluation is better: heads that were trained before."""
        return self.work.run.language is None and (self.init is not None or self.shared is not None)

    def train(self, resume: bool) -> None:
        """Train it and write its folder.

        Args:
            resume: continue from the last checkpoint.
        """
        work, name, data, before = self.work, self.name, self.data, []
        if work.run.language is not None:
            before = [data.evaluate() | {"step": 0.0}]
            info(f"{name}: before training, {_describe(before[0])}")
        result = run_stage(
            work,
            self.model,
            self.stage,
            data,
            seed=self.seed,
            name=name,
            resume=resume,
            expert=name,
            keep_start=self.keep_start,
        )
        finished = FinishedStage(work, self.stage, name, data.rows, data.collate, result.best, result.history)
        warn_of_weak_tasks(finished, self.domains)
        self.save(replace(result, history=[*before, *result.history]))
        info(f"{name}: {result.steps} steps, {_describe(result.best)} → {work.expert_folder(name)}")

    def save(self, result: TrainResult) -> None:
        """Write its folder."""
        save_expert(
            self.work,
            self.model,
            self.domain,
            self.name,
            weights=self.model.bank.peft_state_dict(self.name),
            result=result,
            polarity=self.polarity,
            seed=self.seed,
            shared=self.shared,
            data_hashes=training_hashes(self.work, self.domains),
            init=self.init,
            prototypes=self._prototypes(),
        )

    def _prototypes(self) -> dict[str, Tensor] | None:
        """Statistics from which a router can start; none of the shared expert, nor of a language model's."""
        run = self.work.run
        if self.stage is SHARED or run.language is not None:
            return None
        length, steps = run.backbone.resolved_length, run.gate.expert_gate_steps
        prototype = state_prototype(self.model, self.data.rows, run.template, length, run.seed)
        return prototype | expert_gate(self.model, self.data, steps=steps, seed=self.seed)


def new_expert(work: Workspace, stage: Stage, domain: Domain, name: str, seed: int) -> NewExpert:
    """Build an expert's model, on top of the run's shared expert or from a trained start, and load its training data.

    Raises:
        Fault: if the data are missing or invalid, or `shared.init` or `expert_init` does not fit the run.
    """
    run, names = work.run, _trained_domains(work, stage, domain)
    start = load_shared_init(run) if stage is SHARED else None
    shared = read_expert(work.shared_folder) if stage is not SHARED and work.shared_folder else None
    train = work.training_rows(names) if run.language is None else None
    polarity = train is not None and any(score is not None for score in train["score"])
    model = build_expert_model(
        run,
        name,
        build_adapter if start is None else lambda *_: start.adapter,
        polarity=polarity,
        seed=seed,
        shared=shared,
        always_on=stage is SHARED,
        domain=domain.name,
    )
    if start is not None:
        start.load_into(model, name)
    average = None
    if stage is EXPERT and run.expert_init is not None:
        average = load_expert_start(work, domain.name, run.expert_init)
    if average is not None:
        average.load_into(model, name)
    origins = [part.origin for part in (start, average) if part is not None]
    if train is None:
        data = LMCorpora(work, model).packed_data(names)
    else:
        data = labelled_data(work, model, train, work.rows("validation", names))
    return NewExpert(work, stage, domain, name, seed, model, data, polarity, shared, next(iter(origins), None))


def _trained_domains(work: Workspace, stage: Stage, domain: Domain) -> list[str]:
    return list(work.run.domains) if stage is SHARED else [domain.name]


def _describe(metrics: Mapping[str, float]) -> str:
    """The perplexity on each corpus, or the metric that selected the weights."""
    prefix = "perplexity_"
    by_corpus = [f"{k.removeprefix(prefix)} {value:.2f}" for k, value in metrics.items() if k.startswith(prefix)]
    if by_corpus:
        return f"perplexity on {', '.join(by_corpus)}"
    metric = next((metric for metric in SELECTION_METRICS if metric.name in metrics), MACRO_F1)
    return f"validation {metric.describe(metrics)}"


def labelled_data(work: Workspace, model: Mixture, train: Dataset, held_out: Dataset) -> TrainingData:
    """Labelled rows as training data, evaluated on held-out rows by macro-F1, or CCC of tasks with a score alone."""
    run, names = work.run, [domain.name for domain in model.domains]
    counts = count_labels(train, model.labels)
    warn_equal_class_weights(run.losses, counts)
    tokenizer, max_length = model.loaded_backbone.tokenizer, run.backbone.resolved_length
    train = split_into_windows(train, tokenizer, run.template, max_length, run.backbone.windows)
    collator = Collator(tokenizer, run.template, max_length, model.labels, names)
    if run.stages.cache_trunk and run.backbone.trunk_depth:
        cache = TrunkCache(model, collator, work.out / CACHE)
        with distributed.main_process_first():
            cache.fill(train)
        collator.trunk = cache

    def evaluate(held_out: Mapping[str, Dataset]) -> dict[str, float]:
        return validate(model, held_out[LABELLED], run.template, max_length)

    scored = bool(set(held_out["task"]) & set(model.labels.score_tasks))
    metric = metric_of_rows(labelled=max(held_out["label"], default=-1) >= 0, scored=scored)
    return TrainingData(train, collator, {LABELLED: held_out}, evaluate, metric, counts)

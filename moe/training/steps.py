"""What the commands do, in order: train an expert, merge, train the router, judge the three mixtures.

Each step is a row of `moe.config.stages` run by `moe.training.trainer`; folders are whole or absent.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from experts.adapter import build_adapter
from experts.atomic_io import read_json, refuse_existing
from experts.domain import Domain
from experts.errors import Fault, suggest
from experts.expert_io import METRICS, ExpertCard, ExpertFolder, read_expert, write_expert
from moe import distributed
from moe.checkpoints.expert import SHARED_NAME, build_expert_model
from moe.checkpoints.mixture import read_mixture, write_mixture
from moe.checkpoints.mixture_card import MixtureCard
from moe.config.stages import EXPERT, JOINT, MERGED, SHARED, WARMUP, Stage
from moe.console import info
from moe.data.collator import Collator
from moe.evaluation.evaluate import validate
from moe.merging.merge import merge
from moe.model.backbone import identify_backbone, load_backbone
from moe.model.mixture import Mixture
from moe.runs.best import CANDIDATES, write_result
from moe.runs.selection_metric import MACRO_F1, PERPLEXITY, SelectionMetric
from moe.runs.workspace import Workspace, package_versions
from moe.training.job import TrainResult
from moe.training.lm_dataset import LMCorpora
from moe.training.stage import TrainingData, count_labels, run_stage, warn_equal_class_weights
from moe.training.trunk_cache import TrunkCache


def train_domain(work: Workspace, domain: str, overwrite: bool = False, resume: bool = False) -> list[Path]:
    """Train every expert of a domain, each from its own seed, and write their folders.

    Raises:
        Fault: when the domain is unknown, its data bad, or a finished expert would be overwritten.
    """
    work.begin()
    declared = work.domains()
    if domain not in declared:
        raise Fault(f"one of the domains {', '.join(declared)}", repr(domain), suggest(domain, declared))
    require_shared_expert(work, "moe train-expert --shared, or train --all")
    folders = []
    for k, name in enumerate(declared[domain].expert_names):
        folder = work.expert_folder(name)
        if resume and folder.is_dir():
            info(f"{name}: finished before, kept")
        else:
            _train_one(work, EXPERT, declared[domain], name, work.run.seed + k, overwrite, resume)
        folders.append(folder)
    return folders


def require_shared_expert(work: Workspace, command: str) -> None:
    """Experts that are to learn what a shared one leaves over need it.

    Args:
        command: what trains it.

    Raises:
        Fault: when it is not there yet.
    """
    if work.shared_folder and not work.shared_folder.is_dir():
        found = f"the shared expert at {work.shared_folder}, on top of which experts learn"
        raise Fault(found, "none", f"train it first: {command}")


def train_shared(work: Workspace, overwrite: bool = False, resume: bool = False) -> Path:
    """Train the shared expert on all domains pooled.

    Raises:
        Fault: when the config has none, or a finished one would be overwritten.
    """
    work.begin()
    if not work.run.shared or not work.shared_folder:
        raise Fault("a shared expert in the config", "none", "give it a rank, for example --set shared.r=12")
    pooled = Domain(SHARED_NAME, work.run.label_space().tasks)
    if not (resume and work.shared_folder.is_dir()):
        _train_one(work, SHARED, pooled, SHARED_NAME, work.run.seed, overwrite, resume)
    return work.shared_folder


def _train_one(
    work: Workspace, stage: Stage, domain: Domain, name: str, seed: int, overwrite: bool, resume: bool
) -> None:
    folder = work.expert_folder(name)
    refuse_existing(folder, overwrite)
    pooled = stage is SHARED
    domains = list(work.run.domains) if pooled else [domain.name]
    train, held_out = work.rows("train", domains), work.rows("validation", domains)
    polarity = any(score is not None for score in train["score"])
    shared = None if pooled or not work.shared_folder else read_expert(work.shared_folder)
    model = build_expert_model(work.run, name, build_adapter, polarity, seed, shared, always_on=pooled)
    fitted = run_stage(
        work, model, stage, labelled_data(work, model, train, held_out), seed, name, resume, learner=name
    )
    card = build_expert_card(work, domain, name, model, polarity, seed, fitted, shared, work.data_hashes(domains))
    save_expert(work, model, card, model.bank.adapter_parameters(name), fitted, fitted.history, overwrite)
    info(f"{name}: {fitted.steps} steps, validation macro-F1 {fitted.best.get('macro_f1', 0.0):.3f} → {folder}")


def save_expert(
    work: Workspace,
    model: Mixture,
    card: ExpertCard,
    weights: Mapping[str, Tensor],
    fitted: TrainResult,
    history: Sequence[Mapping[str, float]],
    overwrite: bool,
) -> None:
    """Write a trained expert's folder, and take its checkpoints away."""
    figures = {"best": fitted.best, "history": list(history), "steps": fitted.steps}
    adapter, heads = model.bank.adapters[card.name].adapter, model.heads.state_dict()
    folder, config = work.expert_folder(card.name), work.run.as_yaml()
    distributed.on_main(lambda: write_expert(folder, card, adapter, weights, heads, config, figures, overwrite))
    distributed.on_main(lambda: shutil.rmtree(work.checkpoints(card.name), ignore_errors=True))


def labelled_data(work: Workspace, model: Mixture, train: Dataset, held_out: Dataset) -> TrainingData:
    """Labelled rows to learn from, judged by macro-F1 on others."""
    run, names = work.run, [domain.name for domain in model.domains]
    counts = count_labels(train, model.labels)
    warn_equal_class_weights(run.losses, counts)
    collator = Collator(model.loaded_backbone.tokenizer, run.template, run.backbone.max_length, model.labels, names)
    if run.stages.cache_trunk and run.backbone.trunk_depth:
        cache = TrunkCache(model, collator, work.out / "cache")
        if work.dry_run is not None:
            work.dry_run.cached_bytes = cache.tried(train)
        else:
            with distributed.main_process_first():
                cache.fill(train)
            collator.trunk = cache
    length = run.backbone.max_length
    return TrainingData(train, collator, lambda: validate(model, held_out, run.template, length), counts=counts)


def build_expert_card(
    work: Workspace,
    domain: Domain,
    name: str,
    model: Mixture,
    polarity: bool,
    seed: int,
    fitted: TrainResult,
    shared: ExpertFolder | None,
    data: Mapping[str, str],
) -> ExpertCard:
    """What a trained expert says of itself.

    Args:
        model: that it was trained in.
        polarity: whether a polarity head was trained.
        shared: the expert that it was trained on top of.
        data: SHA-256 of the file of each task.
    """
    run, space = work.run, work.run.label_space()
    heads = dict.fromkeys(space.head_by_task[task] for task in domain.tasks)
    return ExpertCard(
        name=name,
        domain=domain.name,
        role=domain.group,
        backbone=identify_backbone(run.backbone),
        trunk_depth=run.backbone.trunk_depth,
        pooling=run.backbone.pooling,
        template=run.template,
        max_length=run.backbone.max_length,
        tasks={task: tuple(labels) for task, labels in domain.tasks.items()},
        heads={head: space.heads[head] for head in heads},
        layers=model.bank.adapters[name].layers,
        head_kind=run.heads.kind,
        polarity=polarity,
        language=run.language is not None,
        shared=shared.digest if shared else None,
        always_on=name == SHARED_NAME,
        data_sha256=dict(data),
        seed=seed,
        steps=fitted.steps,
        metrics={key: value for key, value in fitted.best.items() if key not in ("epoch", "step")},
        versions=package_versions(),
    )


def merge_experts(work: Workspace, folders: Sequence[Path] = (), overwrite: bool = False) -> Path:
    """Merge experts into `moe-init/`: those named, else all of the run.

    Raises:
        Fault: when there is nothing to merge, or parts do not fit.
    """
    distributed.init()
    target = work.out / MERGED
    refuse_existing(target, overwrite)
    chosen = list(folders) or _own_experts(work)
    info("merging " + (", ".join(str(folder) for folder in chosen) or "nothing"))
    experts = [read_expert(folder) for folder in chosen]
    if work.shared_folder and work.shared_folder.is_dir() and work.shared_folder not in chosen:
        experts.append(read_expert(work.shared_folder))
    backbone = load_backbone(work.run.backbone, lm_head=work.run.language is not None)
    model, card = merge(work.run, experts, backbone)
    distributed.on_main(lambda: write_mixture(target, model, card, work.run.as_yaml(), {}, overwrite))
    return target


def _own_experts(work: Workspace) -> list[Path]:
    names = [name for domain in work.run.domain_list() for name in domain.expert_names]
    return [work.expert_folder(name) for name in names if work.expert_folder(name).is_dir()]


def train_router(work: Workspace, overwrite: bool = False, resume: bool = False) -> str:
    """Warm start, then joint; judge the three mixtures by validation and name the best in `result.json`.

    Returns:
        the verdict, a sentence.

    Raises:
        Fault: when nothing was merged yet, or finished steps would be overwritten.
    """
    work.begin()
    start = work.out / MERGED
    if not start.is_dir():
        raise Fault(f"a merged mixture at {start}", "none", "run moe merge first")
    if not resume:
        for stage in (WARMUP, JOINT):
            refuse_existing(work.out / stage.folder, overwrite)
    for stage, before in ((WARMUP, start), (JOINT, work.out / WARMUP.folder)):
        if resume and (work.out / stage.folder).is_dir():
            info(f"{stage.folder}: finished before, kept")
        else:
            train_stage(work, stage, before, overwrite, resume)
    return select_best_mixture(work)


def train_stage(
    work: Workspace,
    stage: Stage,
    before: Path,
    overwrite: bool = False,
    resume: bool = False,
    teach: Callable[[Workspace, Mixture], TrainingData] | None = None,
) -> None:
    """Train one stage of the router from the mixture in a folder, and write the mixture that comes of it.

    Args:
        teach: gives what is learned; by default what experts of these domains learned from.
    """
    model, card = read_mixture(before)
    lesson = (teach or _lesson)(work, model)
    train_and_save(work, stage, model, card, lesson, stage.folder, overwrite, resume)


def train_and_save(
    work: Workspace,
    stage: Stage,
    model: Mixture,
    card: MixtureCard,
    lesson: TrainingData,
    name: str,
    overwrite: bool,
    resume: bool,
) -> TrainResult:
    """Train one stage of a mixture that is there, and write what comes of it.

    Args:
        name: of the folder below the run's, and of its logs and checkpoints.
    """
    torch.manual_seed(work.run.seed)
    fitted = run_stage(work, model, stage, lesson, work.run.seed, name, resume)
    metrics = {key: value for key, value in fitted.best.items() if key not in ("epoch", "step")}
    card = card.model_copy(update={"stage": stage.folder, "steps": fitted.steps, "metrics": metrics})
    everything = {"best": fitted.best, "history": fitted.history, "steps": fitted.steps}
    folder, config = work.out / name, work.run.as_yaml()
    distributed.on_main(lambda: write_mixture(folder, model.eval(), card, config, everything, overwrite))
    distributed.on_main(lambda: shutil.rmtree(work.checkpoints(name), ignore_errors=True))
    info(f"{name}: {fitted.steps} steps, validation {lesson.goal.describe(metrics)}")
    return fitted


def _lesson(work: Workspace, model: Mixture) -> TrainingData:
    """What all domains of a mixture have to learn from: documents in a language model, else labelled rows."""
    if work.run.language is not None:
        return LMCorpora(work, model).routed_data()
    names = [domain.name for domain in model.domains]
    return labelled_data(work, model, work.rows("train", names), work.rows("validation", names))


def select_best_mixture(work: Workspace) -> str:
    """Compare moe-init, router-warmup and moe-joint by validation and write `result.json`.

    The merged one is there to compare with: its router knows nothing yet, so it is never the best.
    """
    return distributed.broadcast_from_main(lambda: _judge(work))


def _judge(work: Workspace) -> str:
    scores: dict[str, dict[str, float]] = {}
    for name in CANDIDATES:
        scores[name] = _validation_of(work, work.out / name)
    goal = MACRO_F1 if work.run.language is None else PERPLEXITY
    best = max((WARMUP.folder, JOINT.folder), key=lambda name: goal.score(scores[name]))
    verdict = _verdict(scores, best, goal)
    write_result(work.out, scores, best, verdict)
    return verdict


def _validation_of(work: Workspace, folder: Path) -> dict[str, float]:
    model, card = read_mixture(folder)
    if card.metrics:
        return card.metrics
    return _lesson(work, model).evaluate()


def _verdict(scores: Mapping[str, Mapping[str, float]], best: str, goal: SelectionMetric) -> str:
    figures = ", ".join(f"{name} {goal.format_value(score)}" for name, score in scores.items())
    worse = goal.score(scores[JOINT.folder]) < goal.score(scores[WARMUP.folder])
    told = "; the joint phase made it worse than the warm start" if worse else ""
    idle = goal.score(scores[best]) < goal.score(scores[MERGED])
    told += "; merged alone, with a router that knows nothing, it was better" if idle else ""
    return f"best by validation {goal.title}: {best} ({figures}){told}"


def training_summary(folders: Sequence[Path]) -> dict[str, Any]:
    """What steps wrote, as `--json` prints it: each folder with its steps and its best validation figures."""
    found = []
    for folder in folders:
        figures = read_json(folder / METRICS)
        best = figures.get("best", {})
        found.append({"folder": str(folder), "steps": figures.get("steps", 0), "validation": best})
    return {"folders": found}

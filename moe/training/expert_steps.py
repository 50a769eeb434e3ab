"""Training steps of single experts: one for each domain, and the shared one."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset
from torch import Tensor

from experts.adapter import build_adapter
from experts.atomic_io import refuse_existing
from experts.domain import Domain
from experts.errors import Fault, suggest
from experts.expert_io import ExpertCard, ExpertFolder, read_expert, write_expert
from moe import distributed
from moe.checkpoints.expert import SHARED_NAME, build_expert_model
from moe.config.stages import EXPERT, SHARED, Stage
from moe.console import info
from moe.data.collator import Collator
from moe.evaluation.evaluate import validate
from moe.model.backbone import identify_backbone
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace, package_versions
from moe.training.job import TrainResult
from moe.training.stage import TrainingData, count_labels, run_stage, warn_equal_class_weights
from moe.training.trunk_cache import TrunkCache


def train_domain(work: Workspace, domain: str, overwrite: bool = False, resume: bool = False) -> list[Path]:
    """Train every expert of a domain, each from a different seed, and write their folders.

    Returns:
        the experts' folders.

    Raises:
        Fault: if the domain is unknown, its data are invalid, or an output exists.
    """
    work.begin()
    domains = work.domains()
    if domain not in domains:
        raise Fault(f"one of the domains {', '.join(domains)}", repr(domain), suggest(domain, domains))
    require_shared_expert(work, "moe train-expert --shared, or train --all")
    folders = []
    for k, name in enumerate(domains[domain].expert_names):
        folder = work.expert_folder(name)
        if resume and folder.is_dir():
            info(f"{name}: already finished, skipped")
        else:
            seed = work.run.seed + k
            _train_expert(work, EXPERT, domains[domain], name, seed=seed, overwrite=overwrite, resume=resume)
        folders.append(folder)
    return folders


def require_shared_expert(work: Workspace, command: str) -> None:
    """Check that the run's shared expert is trained, if it has one; the other experts are trained on top of it.

    Args:
        command: the command that trains it.

    Raises:
        Fault: if it is not yet trained.
    """
    if work.shared_folder and not work.shared_folder.is_dir():
        raise Fault(
            expected=f"the shared expert at {work.shared_folder}, on top of which other experts are trained",
            found="none",
            remedy=f"train it first: {command}",
        )


def train_shared(work: Workspace, overwrite: bool = False, resume: bool = False) -> Path:
    """Train the shared expert on all domains pooled.

    Returns:
        the expert's folder.

    Raises:
        Fault: if the config has none, or the output exists.
    """
    work.begin()
    if not work.run.shared or not work.shared_folder:
        raise Fault("a shared expert in the config", "none", "set its rank, for example --set shared.r=12")
    space, seed = work.run.label_space(), work.run.seed
    pooled = Domain(SHARED_NAME, space.tasks, target_tasks=tuple(sorted(space.target_tasks)))
    if not (resume and work.shared_folder.is_dir()):
        _train_expert(work, SHARED, pooled, SHARED_NAME, seed=seed, overwrite=overwrite, resume=resume)
    return work.shared_folder


def _train_expert(
    work: Workspace, stage: Stage, domain: Domain, name: str, seed: int, overwrite: bool, resume: bool
) -> None:
    folder = work.expert_folder(name)
    refuse_existing(folder, overwrite)
    pooled = stage is SHARED
    domains = list(work.run.domains) if pooled else [domain.name]
    train, held_out = work.rows("train", domains), work.rows("validation", domains)
    polarity = any(score is not None for score in train["score"])
    shared = None if pooled or not work.shared_folder else read_expert(work.shared_folder)
    model = build_expert_model(
        work.run, name, build_adapter, polarity=polarity, seed=seed, shared=shared, always_on=pooled
    )
    data = labelled_data(work, model, train, held_out)
    result = run_stage(work, model, stage, data, seed=seed, name=name, resume=resume, expert=name)
    card = build_expert_card(
        work,
        domain,
        name,
        model,
        polarity=polarity,
        seed=seed,
        result=result,
        shared=shared,
        data_hashes=work.data_hashes(domains),
    )
    save_expert(
        work,
        model,
        card,
        weights=model.bank.adapter_parameters(name),
        result=result,
        history=result.history,
        overwrite=overwrite,
    )
    info(f"{name}: {result.steps} steps, validation macro-F1 {result.best.get('macro_f1', 0.0):.3f} → {folder}")


def save_expert(
    work: Workspace,
    model: Mixture,
    card: ExpertCard,
    weights: Mapping[str, Tensor],
    result: TrainResult,
    history: Sequence[Mapping[str, float]],
    overwrite: bool,
) -> None:
    """Write a trained expert's folder and delete its checkpoints.

    Args:
        weights: of the adapter, by name.
        history: metrics of every evaluation, in order.
    """
    metrics = {"best": result.best, "history": list(history), "steps": result.steps}
    adapter, heads = model.bank.adapters[card.name].adapter, model.heads.state_dict()
    folder, config = work.expert_folder(card.name), work.run.as_yaml()
    distributed.on_main(
        lambda: write_expert(
            folder,
            card,
            adapter=adapter,
            weights=weights,
            heads=heads,
            config=config,
            metrics=metrics,
            overwrite=overwrite,
        )
    )
    distributed.on_main(lambda: shutil.rmtree(work.checkpoints(card.name), ignore_errors=True))


def labelled_data(work: Workspace, model: Mixture, train: Dataset, held_out: Dataset) -> TrainingData:
    """Labelled rows as training data, evaluated by macro-F1 on held-out rows."""
    run, names = work.run, [domain.name for domain in model.domains]
    counts = count_labels(train, model.labels)
    warn_equal_class_weights(run.losses, counts)
    max_length = run.backbone.max_length
    collator = Collator(model.loaded_backbone.tokenizer, run.template, max_length, model.labels, names)
    if run.stages.cache_trunk and run.backbone.trunk_depth:
        cache = TrunkCache(model, collator, work.out / "cache")
        if work.dry_run is not None:
            work.dry_run.cached_bytes = cache.dry_run(train)
        else:
            with distributed.main_process_first():
                cache.fill(train)
            collator.trunk = cache
    return TrainingData(train, collator, lambda: validate(model, held_out, run.template, max_length), counts=counts)


def build_expert_card(
    work: Workspace,
    domain: Domain,
    name: str,
    model: Mixture,
    polarity: bool,
    seed: int,
    result: TrainResult,
    shared: ExpertFolder | None,
    data_hashes: Mapping[str, str],
) -> ExpertCard:
    """Build the card (metadata) of a trained expert.

    Args:
        model: the model in which it was trained.
        polarity: whether a polarity head was trained.
        shared: the expert on top of which it was trained.
        data_hashes: SHA-256 of the file of each task.
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
        target_tasks=domain.target_tasks,
        heads={head: space.heads[head] for head in heads},
        layers=model.bank.adapters[name].layers,
        head_kind=run.heads.kind,
        polarity=polarity,
        language=run.language is not None,
        shared=shared.digest if shared else None,
        always_on=name == SHARED_NAME,
        data_sha256=dict(data_hashes),
        seed=seed,
        steps=result.steps,
        metrics=card_metrics(result),
        versions=package_versions(),
    )


def card_metrics(result: TrainResult) -> dict[str, float]:
    """The best validation metrics of a stage, without the position at which they were measured."""
    return {key: value for key, value in result.best.items() if key not in ("epoch", "step")}

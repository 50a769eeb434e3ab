"""The steps of a run, as the commands call them: train experts, merge them, train the router, select the best mixture.

Each step writes its output folder atomically.
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
    pooled, seed = Domain(SHARED_NAME, work.run.label_space().tasks), work.run.seed
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
        metrics=_card_metrics(result),
        versions=package_versions(),
    )


def _card_metrics(result: TrainResult) -> dict[str, float]:
    return {key: value for key, value in result.best.items() if key not in ("epoch", "step")}


def merge_experts(work: Workspace, folders: Sequence[Path] = (), overwrite: bool = False) -> Path:
    """Merge experts into `moe-init/`.

    Args:
        folders: of the experts; by default, all trained experts of the run. The run's shared expert is always included.

    Returns:
        the folder of the merged mixture.

    Raises:
        Fault: if there is no expert to merge, they are incompatible, or the output exists.
    """
    distributed.init()
    target = work.out / MERGED
    refuse_existing(target, overwrite)
    folders = list(folders) or _trained_experts(work)
    info("merging " + (", ".join(map(str, folders)) or "nothing"))
    experts = [read_expert(folder) for folder in folders]
    if work.shared_folder and work.shared_folder.is_dir() and work.shared_folder not in folders:
        experts.append(read_expert(work.shared_folder))
    backbone = load_backbone(work.run.backbone, lm_head=work.run.language is not None)
    model, card = merge(work.run, experts, backbone)
    config = work.run.as_yaml()
    distributed.on_main(lambda: write_mixture(target, model, card, config=config, metrics={}, overwrite=overwrite))
    return target


def _trained_experts(work: Workspace) -> list[Path]:
    names = [name for domain in work.run.domain_list() for name in domain.expert_names]
    return [work.expert_folder(name) for name in names if work.expert_folder(name).is_dir()]


def train_router(work: Workspace, overwrite: bool = False, resume: bool = False) -> str:
    """Train the router, first alone (warm-up), then jointly, and write the best mixture's name to `result.json`.

    Returns:
        a sentence that states the best mixture and the validation metric of all three.

    Raises:
        Fault: if nothing was merged yet, or an output exists.
    """
    work.begin()
    merged = work.out / MERGED
    if not merged.is_dir():
        raise Fault(f"a merged mixture at {merged}", "none", "run moe merge first")
    if not resume:
        for stage in (WARMUP, JOINT):
            refuse_existing(work.out / stage.folder, overwrite)
    for stage, before in ((WARMUP, merged), (JOINT, work.out / WARMUP.folder)):
        if resume and (work.out / stage.folder).is_dir():
            info(f"{stage.folder}: already finished, skipped")
        else:
            train_stage(work, stage, before, overwrite, resume)
    return select_best_mixture(work)


def train_stage(
    work: Workspace,
    stage: Stage,
    before: Path,
    overwrite: bool = False,
    resume: bool = False,
    load_data: Callable[[Workspace, Mixture], TrainingData] | None = None,
) -> None:
    """Train a stage of a mixture read from a folder, and write the result.

    Args:
        before: folder of the mixture to start from.
        load_data: loads the training data; by default, those on which experts of the mixture's domains are trained.
    """
    model, card = read_mixture(before)
    data = (load_data or _default_data)(work, model)
    train_and_save(work, stage, model, card, data=data, name=stage.folder, overwrite=overwrite, resume=resume)


def train_and_save(
    work: Workspace,
    stage: Stage,
    model: Mixture,
    card: MixtureCard,
    data: TrainingData,
    name: str,
    overwrite: bool,
    resume: bool,
) -> TrainResult:
    """Train a stage of a loaded mixture, and write the result.

    Args:
        card: of the mixture before this stage.
        name: name of the output folder, and of its logs and checkpoints.
    """
    torch.manual_seed(work.run.seed)
    result = run_stage(work, model, stage, data, seed=work.run.seed, name=name, resume=resume)
    best = _card_metrics(result)
    card = card.model_copy(update={"stage": stage.folder, "steps": result.steps, "metrics": best})
    metrics = {"best": result.best, "history": result.history, "steps": result.steps}
    folder, config = work.out / name, work.run.as_yaml()
    distributed.on_main(
        lambda: write_mixture(folder, model.eval(), card, config=config, metrics=metrics, overwrite=overwrite)
    )
    distributed.on_main(lambda: shutil.rmtree(work.checkpoints(name), ignore_errors=True))
    info(f"{name}: {result.steps} steps, validation {data.metric.describe(best)}")
    return result


def _default_data(work: Workspace, model: Mixture) -> TrainingData:
    """Training data of all domains of a mixture: documents for a language model, otherwise labelled rows."""
    if work.run.language is not None:
        return LMCorpora(work, model).routed_data()
    names = [domain.name for domain in model.domains]
    return labelled_data(work, model, work.rows("train", names), work.rows("validation", names))


def select_best_mixture(work: Workspace) -> str:
    """Compare moe-init, router-warmup and moe-joint by validation, and write `result.json`.

    moe-init is evaluated for comparison only: its router is untrained, so it is never selected.

    Returns:
        a sentence that states the best mixture and the validation metric of all three.
    """
    return distributed.broadcast_from_main(lambda: _select_best_mixture(work))


def _select_best_mixture(work: Workspace) -> str:
    scores: dict[str, dict[str, float]] = {}
    for name in CANDIDATES:
        scores[name] = _validation_metrics(work, work.out / name)
    metric = MACRO_F1 if work.run.language is None else PERPLEXITY
    best = max((WARMUP.folder, JOINT.folder), key=lambda name: metric.score(scores[name]))
    verdict = _verdict(scores, best, metric)
    write_result(work.out, scores, best, verdict)
    return verdict


def _validation_metrics(work: Workspace, folder: Path) -> dict[str, float]:
    model, card = read_mixture(folder)
    if card.metrics:
        return card.metrics
    return _default_data(work, model).evaluate()


def _verdict(scores: Mapping[str, Mapping[str, float]], best: str, metric: SelectionMetric) -> str:
    figures = ", ".join(f"{name} {metric.format_value(score)}" for name, score in scores.items())
    worse = metric.score(scores[JOINT.folder]) < metric.score(scores[WARMUP.folder])
    remarks = "; the joint phase made it worse than the warm start" if worse else ""
    idle = metric.score(scores[best]) < metric.score(scores[MERGED])
    remarks += "; merged alone, with a router that knows nothing, it was better" if idle else ""
    return f"best by validation {metric.title}: {best} ({figures}){remarks}"


def training_summary(folders: Sequence[Path]) -> dict[str, Any]:
    """Steps and best validation metrics of trained models, as `--json` prints them.

    Returns:
        `folders`: a list of `folder`, `steps` and `validation`.
    """
    summaries = []
    for folder in folders:
        metrics = read_json(folder / METRICS)
        best = metrics.get("best", {})
        summaries.append({"folder": str(folder), "steps": metrics.get("steps", 0), "validation": best})
    return {"folders": summaries}

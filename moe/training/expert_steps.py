"""Training steps of single experts: one for each domain, and the shared one."""

from functools import partial
from pathlib import Path

from datasets import Dataset

from experts.adapter import build_adapter
from experts.domain import Domain
from experts.errors import Fault, suggest
from experts.expert_io import ExpertFolder, read_expert
from moe import distributed
from moe.checkpoints.expert import SHARED_NAME, build_expert_model
from moe.checkpoints.mixture import load_strictly
from moe.config.stages import EXPERT, SHARED, Stage
from moe.console import info
from moe.data.collator import Collator, split_into_windows
from moe.evaluation.data_warnings import print_data_warnings
from moe.evaluation.evaluate import validate
from moe.evaluation.weak_tasks import FinishedStage, warn_of_weak_tasks
from moe.model.mixture import Mixture
from moe.runs.finished import expert_differences, keeps_finished
from moe.runs.layout import CACHE
from moe.runs.locking import writes_run
from moe.runs.shared_init import load_shared_init
from moe.runs.workspace import Workspace
from moe.training.expert_folder import place_frozen_expert, require_shared_expert, save_expert
from moe.training.stage import TrainingData, count_labels, run_stage, warn_equal_class_weights
from moe.training.trunk_cache import TrunkCache


@writes_run
def train_domain(work: Workspace, domain: str, overwrite: bool = False, resume: bool = False) -> list[Path]:
    """Train every expert of a domain, each from a different seed, and write their folders; finished ones are kept.

    Args:
        overwrite: train finished experts again.
        resume: continue from the last checkpoint of an expert that is under way.

    Returns:
        the experts' folders.

    Raises:
        Fault: if the domain is unknown, its data are invalid, or a finished expert has other settings or data.
    """
    work.begin()
    domains = work.domains()
    if domain not in domains:
        raise Fault(f"one of the domains {', '.join(domains)}", repr(domain), suggest(domain, domains))
    require_shared_expert(work, "moe train-expert --shared, or train --all")
    print_data_warnings(work, [domain])
    folders = []
    for k, name in enumerate(domains[domain].expert_names):
        folder, seed = work.expert_folder(name), work.run.seed + k
        differences = partial(expert_differences, work, EXPERT, folder, [domain])
        if not keeps_finished(work, folder, differences, overwrite=overwrite, resume=resume):
            _train_expert(work, EXPERT, domains[domain], name, seed=seed, resume=resume)
        folders.append(folder)
    return folders


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
        Fault: if the config has none, `shared.init` does not fit the run, or the finished expert has other settings or
            data.
    """
    work.begin()
    if not work.run.shared or not work.shared_folder:
        raise Fault("a shared expert in the config", "none", "set its rank, for example --set shared.r=12")
    print_data_warnings(work)
    space, seed = work.run.label_space(), work.run.seed
    pooled = Domain(SHARED_NAME, space.tasks, target_tasks=tuple(sorted(space.target_tasks)))
    differences = partial(expert_differences, work, SHARED, work.shared_folder, list(work.run.domains))
    if keeps_finished(work, work.shared_folder, differences, overwrite=overwrite, resume=resume):
        require_shared_expert(work, "")  # if it is placed: that it is the one that `shared.init` names
    elif work.frozen_experts:
        place_frozen_expert(work, overwrite=True)
    else:
        _train_expert(work, SHARED, pooled, SHARED_NAME, seed=seed, resume=resume)
    return work.shared_folder


def _train_expert(work: Workspace, stage: Stage, domain: Domain, name: str, seed: int, resume: bool) -> None:
    pooled = stage is SHARED
    start = load_shared_init(work.run) if pooled else None
    domains = list(work.run.domains) if pooled else [domain.name]
    train, held_out = work.rows("train", domains), work.rows("validation", domains)
    polarity = any(score is not None for score in train["score"])
    shared = None if pooled or not work.shared_folder else read_expert(work.shared_folder)
    factory = build_adapter if start is None else lambda *_: start.adapter
    model = build_expert_model(
        work.run,
        name,
        factory,
        polarity=polarity,
        seed=seed,
        shared=shared,
        always_on=pooled,
        domain=domain.name,
    )
    if start is not None:
        start.load_into(model, name)
    elif shared is not None:
        load_shared_heads(model, shared)
    data = labelled_data(work, model, train, held_out)
    starts_trained = start is not None or shared is not None
    result = run_stage(
        work, model, stage, data, seed=seed, name=name, resume=resume, expert=name, keep_start=starts_trained
    )
    warn_of_weak_tasks(FinishedStage(work, stage, name, data.rows, data.collate, result.best, result.history), domains)
    save_expert(
        work,
        model,
        domain,
        name,
        weights=model.bank.adapter_parameters(name),
        result=result,
        polarity=polarity,
        seed=seed,
        shared=shared,
        data_hashes=work.data_hashes(domains),
        init=None if start is None else start.origin,
    )
    figure = f"validation macro-F1 {result.best.get('macro_f1', 0.0):.3f}"
    info(f"{name}: {result.steps} steps, {figure} → {work.expert_folder(name)}")


def load_shared_heads(model: Mixture, shared: ExpertFolder) -> None:
    """Start an expert's heads from those of its shared expert, so that it starts as good as the shared expert."""
    fresh = model.heads.state_dict()
    load_strictly(model.heads, fresh | {k: v for k, v in shared.heads.items() if k in fresh}, shared.path)


def labelled_data(work: Workspace, model: Mixture, train: Dataset, held_out: Dataset) -> TrainingData:
    """Labelled rows as training data, evaluated by macro-F1 on held-out rows."""
    run, names = work.run, [domain.name for domain in model.domains]
    counts = count_labels(train, model.labels)
    warn_equal_class_weights(run.losses, counts)
    tokenizer, max_length = model.loaded_backbone.tokenizer, run.backbone.resolved_length
    train = split_into_windows(train, tokenizer, run.template, max_length, run.backbone.windows)
    collator = Collator(tokenizer, run.template, max_length, model.labels, names)
    if run.stages.cache_trunk and run.backbone.trunk_depth:
        cache = TrunkCache(model, collator, work.out / CACHE)
        if work.dry_run is not None:
            work.dry_run.cached_bytes = cache.dry_run(train)
        else:
            with distributed.main_process_first():
                cache.fill(train)
            collator.trunk = cache
    return TrainingData(train, collator, lambda: validate(model, held_out, run.template, max_length), counts=counts)

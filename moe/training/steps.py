"""Steps of a run after its experts: merge them, train the router, select the best mixture.

Each step writes its output folder atomically.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import concatenate_datasets

from experts.atomic_io import read_json
from experts.errors import Fault
from experts.expert_io import METRICS, read_expert
from moe import distributed
from moe.checkpoints.file_names import CARD
from moe.checkpoints.mixture import (
    EarlierRouter,
    mixture_digest,
    parse_mixture_card,
    read_mixture,
    write_mixture,
)
from moe.checkpoints.mixture_card import MixtureCard, RoutingDecision
from moe.config.stages import JOINT, MERGED, WARMUP, Stage
from moe.console import info
from moe.evaluation.routing_choice import decide_routing
from moe.evaluation.weak_tasks import FinishedStage, warn_of_weak_tasks
from moe.merging.merge import merge
from moe.model.backbone import load_backbone
from moe.model.mixture import Mixture
from moe.results.run import TrainedFolder, TrainingSummary
from moe.runs.finished import (
    keeps_finished,
    merge_differences,
    merge_setting_differences,
    mixture_differences,
    retrained_experts,
    training_hashes,
)
from moe.runs.layout import RESULT
from moe.runs.locking import writes_run
from moe.runs.recovery import recover_run
from moe.runs.workspace import Workspace
from moe.training.expert_folder import card_metrics
from moe.training.expert_steps import LABELLED, labelled_data
from moe.training.job import NewExpertScope, TrainResult
from moe.training.language.lm_dataset import LMCorpora
from moe.training.prototypes import fit_threshold
from moe.training.selection import select_best_mixture
from moe.training.stage import TrainingData, run_stage

ROUTER_START = ("gate.init", "gate.unfamiliar")
"""Settings of a merge that the training of its router takes from the merged mixture."""
LoadData = Callable[[Workspace, Mixture], TrainingData]
"""Loads the training data of a mixture of a run."""


@writes_run
def merge_experts(work: Workspace, folders: Sequence[Path] = (), overwrite: bool = False, resume: bool = False) -> Path:
    """Merge experts into `moe-init/`, or keep it if it was made of exactly these experts.

    Args:
        folders: of the experts; by default, all trained experts of the run. The run's shared expert is always included.
        overwrite: merge them again.
        resume: with `overwrite`, merge them again only if something differs.

    Returns:
        the folder of the merged mixture.

    Raises:
        Fault: if there is no expert to merge, they are incompatible, or the output was made of others.
    """
    distributed.init_process_group()
    distributed.on_main_process(lambda: recover_run(work.out))
    work.resolve_length()
    target = work.out / MERGED
    folders = list(folders) or _trained_experts(work)
    experts = [read_expert(folder) for folder in folders]
    if work.shared_folder and work.shared_folder.is_dir() and work.shared_folder not in folders:
        experts.append(read_expert(work.shared_folder))
    differences = partial(merge_differences, work, target, experts)
    if keeps_finished(work, target, differences, overwrite=overwrite, resume=resume, again="merges its experts again"):
        return target
    info("merging " + (", ".join(map(str, folders)) or "nothing"))
    backbone = load_backbone(work.run.backbone, lm_head=work.run.language is not None)
    model, card = merge(work.run, experts, backbone)
    fit_threshold(work, model)
    config = work.run.as_yaml()
    distributed.on_main_process(lambda: write_mixture(target, model, card, config=config, metrics={}, overwrite=True))
    return target


def _trained_experts(work: Workspace) -> list[Path]:
    names = [name for domain in work.run.domain_list() for name in domain.expert_names]
    return [work.expert_folder(name) for name in names if work.expert_folder(name).is_dir()]


@writes_run
def train_router(work: Workspace, overwrite: bool = False, resume: bool = False) -> str:
    """Train the router, first alone (warm-up), then jointly, and write the best mixture's name to `result.json`.

    Finished stages are kept.

    Args:
        overwrite: train finished stages again.
        resume: continue from the last checkpoint of a stage that is under way.

    Returns:
        a sentence that states the best mixture and the validation metric of all three.

    Raises:
        Fault: if nothing was merged yet, `moe-init/` is not made of the run's experts of now, or a finished stage has
            other settings or data or started from another mixture.
    """
    work.begin()
    merged = work.out / MERGED
    if not merged.is_dir():
        raise Fault(f"a merged mixture at {merged}", "none", "run moe merge first")
    _check_merged(work, merged)
    warm, joint = work.out / WARMUP.folder, work.out / JOINT.folder
    keeps = partial(keeps_finished, work, overwrite=overwrite, resume=resume)
    if keeps(warm, partial(mixture_differences, work, WARMUP, warm, merged)):
        if keeps(joint, partial(mixture_differences, work, JOINT, joint, warm)) and (work.out / RESULT).is_file():
            return str(read_json(work.out / RESULT)["verdict"])
    else:
        if joint.exists() and not overwrite and not resume:
            raise Fault(
                f"{warm}, from which {joint} was trained",
                "no such folder",
                "pass --overwrite to train both again",
            )
        train_stage(work, WARMUP, merged, overwrite=True, resume=resume)
    if joint not in work.reused and not keeps(joint, partial(mixture_differences, work, JOINT, joint, warm)):
        distributed.on_main_process(lambda: (work.out / RESULT).unlink(missing_ok=True))  # it is of the stages before
        train_stage(work, JOINT, warm, overwrite=True, resume=resume)
    return select_best_mixture(work)


def _check_merged(work: Workspace, merged: Path) -> None:
    """Check that the merged mixture is of the run's experts and settings of now."""
    reasons = [f"{name} was trained again since" for name in retrained_experts(work, merged)]
    if reasons := [*reasons, *merge_setting_differences(work, merged, ROUTER_START)]:
        raise Fault(
            f"{merged} merged from the current experts with the current settings",
            "; ".join(reasons),
            "run moe merge --overwrite, then moe train-router"
            + (" --overwrite" if (work.out / WARMUP.folder).exists() else ""),
        )


def train_stage(
    work: Workspace,
    stage: Stage,
    before: Path,
    overwrite: bool = False,
    resume: bool = False,
    load_data: LoadData | None = None,
) -> None:
    """Train a stage of a mixture read from a folder, and write the result.

    Args:
        before: folder of the mixture to start from.
        load_data: loads the training data; by default, those on which experts of the mixture's domains are trained.
    """
    model, card, data = load_mixture_stage(work, before, load_data)
    name = stage.folder
    result = train_and_save(work, stage, model, card, data=data, name=name, overwrite=overwrite, resume=resume)
    if result.kept_start:
        return  # the stage before has named the same tasks
    warn_of_weak_tasks(
        FinishedStage(work, stage, name, data.rows, data.collate, result.best, result.history),
        [domain.name for domain in model.domains],
    )


def load_mixture_stage(
    work: Workspace, before: Path, load_data: LoadData | None = None
) -> tuple[Mixture, MixtureCard, TrainingData]:
    """Return the mixture that a stage starts from, its card with the hashes of what the stage reads, and the data."""
    model, card = read_mixture(before)
    hashes = {} if load_data else training_hashes(work, [domain.name for domain in model.domains])
    card = card.model_copy(update={"start": mixture_digest(before), "data_sha256": card.data_sha256 | hashes})
    return model, card, (load_data or _default_data)(work, model)


def train_and_save(
    work: Workspace,
    stage: Stage,
    model: Mixture,
    card: MixtureCard,
    data: TrainingData,
    name: str,
    overwrite: bool,
    resume: bool,
    scope: NewExpertScope | None = None,
    earlier: Mapping[str, EarlierRouter] | None = None,
) -> TrainResult:
    """Train a stage of a loaded mixture, and write the result.

    Args:
        card: of the mixture before this stage.
        name: name of the output folder, and of its logs and checkpoints.
        scope: the part of heads and router that is trained; all of them by default.
        earlier: routers to keep in the folder, see `write_mixture`.
    """
    torch.manual_seed(work.run.seed)
    result = run_stage(
        work,
        model,
        stage,
        data,
        seed=work.run.seed,
        name=name,
        resume=resume,
        keep_start=keeps_mixture_start(work, stage),
        scope=scope,
    )
    routing = _decide_routing(work, model, data)
    card = card.model_copy(update={"routing": routing})
    save_mixture_stage(work, stage, model, card, result, name=name, overwrite=overwrite, earlier=earlier)
    info(f"{name}: {result.steps} steps, validation {data.metric.describe(card_metrics(result))}")
    if routing is not None:
        info(f"{name}: {routing.sentence}")
    return result


def _decide_routing(work: Workspace, model: Mixture, data: TrainingData) -> RoutingDecision | None:
    """What routing `auto` is, the same in every process; None, which is soft, for language models and sharded runs.

    Pruned and hard routing read the texts in passes that end early, which a sharded backbone does not support.
    """
    held_out = data.held_out.get(LABELLED)
    if held_out is None or work.run.stages.shard:
        return None

    def decide() -> Any:
        decision = decide_routing(model, held_out, work.run.template, work.run.backbone.resolved_length)
        return None if decision is None else decision.model_dump(mode="json")

    content = distributed.broadcast_from_main(decide)
    return None if content is None else RoutingDecision.model_validate(content)


def keeps_mixture_start(work: Workspace, stage: Stage) -> bool:
    """Whether the weights at the start of a stage are kept if no evaluation is better."""
    return stage is JOINT and work.run.language is None


def save_mixture_stage(
    work: Workspace,
    stage: Stage,
    model: Mixture,
    card: MixtureCard,
    result: TrainResult,
    name: str,
    overwrite: bool,
    earlier: Mapping[str, EarlierRouter] | None = None,
) -> None:
    """Write the folder of a trained mixture, and delete its checkpoints.

    Args:
        earlier: routers to keep in the folder, see `write_mixture`.
    """
    best = card_metrics(result)
    card = card.model_copy(update={"stage": stage.folder, "steps": result.steps, "metrics": best})
    metrics = {"best": result.best, "history": result.history, "steps": result.steps}
    folder, config = work.out / name, work.run.as_yaml()
    distributed.on_main_process(
        lambda: write_mixture(
            folder, model.eval(), card, config=config, metrics=metrics, overwrite=overwrite, earlier=earlier
        )
    )
    distributed.on_main_process(lambda: shutil.rmtree(work.checkpoints(name), ignore_errors=True))


def _default_data(work: Workspace, model: Mixture) -> TrainingData:
    """Training data of all domains of a mixture: documents for a language model, otherwise labelled rows."""
    if work.run.language is not None:
        return LMCorpora(work, model).routed_data()
    names = [domain.name for domain in model.domains]
    train = concatenate_datasets([work.training_rows(names), *work.unlabelled(names)])
    return labelled_data(work, model, train, work.rows("validation", names))


def training_summary(
    folders: Sequence[Path],
    reused: Sequence[Path] = (),
    *,
    verdict: str | None = None,
    stale: Sequence[str] | None = None,
    warnings: Sequence[str] | None = None,
) -> TrainingSummary:
    """Steps and best validation metrics of trained models, as `--json` prints them.

    Args:
        reused: those that were finished earlier.
        verdict: of the training of the router; None leaves it out, as for the two that follow.
        stale: finished steps that depend on something made again since.
        warnings: of the run.
    """
    summaries = []
    for folder in folders:
        metrics = read_json(folder / METRICS)
        best, steps = metrics.get("best", {}), metrics.get("steps", 0)
        trained = TrainedFolder(folder=str(folder), reused=folder in reused, steps=steps, validation=best)
        card = parse_mixture_card(folder) if (folder / CARD).is_file() else None
        chosen = {} if card is None or card.routing is None else {"routing": card.routing.choice}
        summaries.append(trained.model_copy(update=chosen))
    others = {"verdict": verdict, "stale": stale, "warnings": warnings}
    known = {name: value for name, value in others.items() if value is not None}
    return TrainingSummary(folders=summaries).model_copy(update=known)

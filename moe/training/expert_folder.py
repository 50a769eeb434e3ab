"""The folder of an expert in a run: its card, its files, and the frozen shared expert that needs no training."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from experts.atomic_io import refuse_existing
from experts.domain import Domain
from experts.errors import Fault
from experts.expert_io import ExpertCard, ExpertFolder, InitOrigin, read_expert, write_expert
from experts.lora import LoraSpec
from moe import distributed
from moe.checkpoints.expert import SHARED_NAME
from moe.console import info
from moe.evaluation.evaluate import ONLY_LABEL
from moe.model.backbone import identify_backbone, read_backbone_config
from moe.model.heads import Heads
from moe.model.mixture import Mixture
from moe.runs.shared_init import load_shared_init
from moe.runs.versions import package_versions
from moe.runs.workspace import Workspace
from moe.training.job import TrainResult


def save_expert(
    work: Workspace,
    model: Mixture,
    domain: Domain,
    name: str,
    weights: Mapping[str, Tensor],
    result: TrainResult,
    *,
    polarity: bool,
    seed: int,
    shared: ExpertFolder | None,
    data_hashes: Mapping[str, str],
    init: InitOrigin | None,
    folder: Path | None = None,
    prototypes: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a trained expert's folder, replacing an earlier one, and delete its checkpoints.

    Args:
        weights: of the adapter, by name.
        polarity: see `build_expert_card`, as for the others up to `init`.
        folder: to write; by default the expert's own in `experts/`.
        prototypes: statistics of its training states, from which a router can start.
    """
    adapter, heads = model.bank.adapters[name].adapter, model.heads.state_dict()
    card = build_expert_card(
        work,
        domain,
        name,
        adapter.layers,
        polarity=polarity,
        seed=seed,
        result=result,
        shared=shared,
        data_hashes=data_hashes,
        init=init,
    )
    metrics = {"best": result.best, "history": result.history, "steps": result.steps}
    target, config = folder or work.expert_folder(name), work.run.as_yaml()
    distributed.on_main_process(
        lambda: write_expert(
            target,
            card,
            adapter=adapter,
            weights=weights,
            heads=heads,
            config=config,
            metrics=metrics,
            overwrite=True,
            prototypes=prototypes,
        )
    )
    distributed.on_main_process(lambda: shutil.rmtree(work.checkpoints(name), ignore_errors=True))


def build_expert_card(
    work: Workspace,
    domain: Domain,
    name: str,
    layers: Mapping[str, LoraSpec],
    polarity: bool,
    seed: int,
    result: TrainResult,
    shared: ExpertFolder | None,
    data_hashes: Mapping[str, str],
    init: InitOrigin | None = None,
) -> ExpertCard:
    """Build the card (metadata) of a trained expert.

    Args:
        layers: rank and scaling of every layer that its adapter touches.
        polarity: whether a polarity head was trained.
        shared: the expert on top of which it was trained.
        data_hashes: SHA-256 of the file of each task.
        init: the trained expert that it started from.
    """
    run, space = work.run, work.run.label_space()
    heads = dict.fromkeys(space.head_by_task[task] for task in domain.tasks if task in space.head_by_task)
    return ExpertCard(
        name=name,
        domain=domain.name,
        role=domain.group,
        backbone=identify_backbone(run.backbone),
        trunk_depth=run.backbone.trunk_depth,
        pooling=run.backbone.pooling,
        template=run.template,
        max_length=run.backbone.resolved_length,
        tasks={task: tuple(labels) for task, labels in domain.tasks.items()},
        target_tasks=domain.target_tasks,
        kinds=dict(domain.kinds),
        heads={head: space.heads[head] for head in heads},
        layers=dict(layers),
        head_kind=run.heads.kind,
        polarity=polarity,
        language=run.language is not None,
        shared=shared.digest if shared else None,
        always_on=name == SHARED_NAME,
        init=init,
        data_sha256=dict(data_hashes),
        seed=seed,
        steps=result.steps,
        kept_start=result.kept_start,
        metrics=card_metrics(result),
        versions=package_versions(),
    )


def card_metrics(result: TrainResult) -> dict[str, float]:
    """The best validation metrics of a stage, without their position in the stage and without indices of labels."""
    return {
        key: value
        for key, value in result.best.items()
        if key not in ("epoch", "step") and not key.endswith(ONLY_LABEL)
    }


def require_shared_expert(work: Workspace, command: str) -> None:
    """Check that the run's shared expert exists, if it has one; the other experts are trained on top of it.

    A frozen one needs no training: it is written if it does not exist yet.

    Args:
        command: the command that trains it.

    Raises:
        Fault: if it is not yet trained, is one of another `shared.init`, or `shared.init` does not fit the run.
    """
    folder = work.shared_folder
    if folder is None:
        return
    if work.frozen_experts:
        if folder.is_dir():
            _check_placed(work)
        else:
            place_frozen_expert(work, overwrite=False)
    elif not folder.is_dir():
        raise Fault(
            expected=f"the shared expert at {folder}, on top of which other experts are trained",
            found="none",
            remedy=f"train it first: {command}",
        )


def place_frozen_expert(work: Workspace, overwrite: bool) -> None:
    """Write the frozen shared expert's folder: the trained weights, with heads and a card for the run's tasks.

    Raises:
        Fault: if `shared.init` does not fit the run, or the folder exists and `overwrite` is false.
    """
    folder = work.expert_folder(SHARED_NAME)
    refuse_existing(folder, overwrite)
    start = load_shared_init(work.run)
    assert start is not None
    run, space = work.run, work.run.label_space()
    heads, polarity = {}, False
    if run.language is None:
        has_polarity = any(key.startswith("polarity.") for key in start.expert.heads)
        polarity = has_polarity and any(score is not None for score in work.rows("train")["score"])
        width = read_backbone_config(run.backbone).hidden_size
        fresh = Heads(width, space.heads, run.heads, polarity, seed=run.seed).state_dict()
        heads = start.heads_for(space, fresh)
    card = build_expert_card(
        work,
        Domain(SHARED_NAME, space.tasks, target_tasks=tuple(sorted(space.target_tasks)), kinds=space.kinds),
        SHARED_NAME,
        start.adapter.layers,
        polarity=polarity,
        seed=run.seed,
        result=TrainResult(steps=0, best={}, history=[]),
        shared=None,
        data_hashes={},
        init=start.origin.model_copy(update={"frozen": True}),
    )
    weights = {key: tensor.float() for key, tensor in start.expert.weights.items()}  # as mixtures save them
    adapter, config = start.adapter, run.as_yaml()
    metrics = {"best": {}, "history": [], "steps": 0}
    distributed.on_main_process(
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
    info(f"{SHARED_NAME}: from {start.origin.source}, frozen → {folder}")


def _check_placed(work: Workspace) -> None:
    """Check that the frozen expert in the run's folder comes from `shared.init`."""
    start = load_shared_init(work.run)
    assert start is not None
    assert work.shared_folder is not None
    placed = read_expert(work.shared_folder).card
    if placed is None or placed.init is None or placed.init.sha256 != start.origin.sha256 or not placed.init.frozen:
        raise Fault(
            f"the frozen expert {start.origin.source} ({start.origin.sha256[:12]}…) at {work.shared_folder}",
            "another shared expert",
            "run moe train-expert --shared --overwrite, then train the other experts again",
        )

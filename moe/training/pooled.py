"""The pooled LoRA: one adapter of the mixture's total rank, trained on the rows of all domains, to compare it with.

It begins as the run's shared expert does, reads every row as often as the shared expert and the row's own expert do
together, and is no part of the mixture.
"""

import math
from copy import copy
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor

from experts.adapter import build_adapter
from experts.expert_io import CARD, CONFIG, ExpertFolder, read_expert, read_expert_card
from experts.lora import Adapter, LayerMap, LoraSettings, LoraSpec
from moe.checkpoints.expert import build_expert_model
from moe.config.stages import EXPERT, SHARED, StageSettings
from moe.console import info
from moe.model.heads import Heads
from moe.model.mixture import Mixture
from moe.runs.layout import POOLED
from moe.runs.locking import writes_run
from moe.runs.shared_init import SharedInit, load_shared_init
from moe.runs.workspace import Workspace
from moe.training.expert_folder import save_expert
from moe.training.expert_steps import labelled_data, pooled_domain
from moe.training.stage import run_stage


@writes_run
def train_pooled(work: Workspace, overwrite: bool = False, resume: bool = False) -> Path:
    """Train the pooled LoRA and write `pooled/`; a finished one with the same settings, start and data is kept.

    Args:
        overwrite: train a finished one again in any case.
        resume: continue from the last checkpoint.

    Returns:
        its folder.

    Raises:
        Fault: if the data are invalid, or `shared.init` does not fit the run.
    """
    work.begin()
    run, domains, folder = work.run, list(work.run.domains), work.pooled_folder
    train, held_out = work.training_rows(domains), work.rows("validation", domains)
    start = None if work.frozen_experts else load_shared_init(run)
    frozen = read_expert(work.shared_folder) if work.frozen_experts and work.shared_folder else None
    stage = SHARED if run.shared is not None and not work.frozen_experts else EXPERT
    pooled_work = _with_settings(work, stage.name, pooled_settings(work, train))
    if (resume or not overwrite) and _is_finished(pooled_work, start, frozen):
        work.reused.append(folder)
        info(f"{POOLED}: finished earlier, kept; --overwrite trains it again")
        return folder
    polarity = any(score is not None for score in train["score"])

    def build(layers: LayerMap, settings: LoraSettings, trunk_depth: int) -> Adapter:
        if start is not None:
            return widen(start.adapter, routed_rank(work))
        base = settings if frozen or run.shared is None else run.shared
        rank = routed_rank(work) + (0 if frozen or run.shared is None else run.shared.r)
        alpha = base.alpha * (rank / base.r) ** (0.5 if base.rslora else 1.0)  # the same scaling at the larger rank
        return build_adapter(layers, base.model_copy(update={"r": rank, "alpha": alpha}), trunk_depth)

    model = build_expert_model(run, POOLED, build, polarity=polarity, seed=run.seed, shared=frozen)
    model.bank.set_dropout(model.bank.adapters[POOLED].adapter.dropout)
    if start is not None:
        _load_start(model, start)
    data = labelled_data(work, model, train, held_out)
    result = run_stage(
        pooled_work,
        model,
        stage,
        data,
        seed=run.seed,
        name=POOLED,
        resume=resume,
        expert=POOLED,
        keep_start=start is not None or frozen is not None,
    )
    save_expert(
        pooled_work,
        model,
        pooled_domain(run, POOLED),
        POOLED,
        weights=model.bank.adapter_parameters(POOLED),
        result=result,
        polarity=polarity,
        seed=run.seed,
        shared=frozen,
        data_hashes=work.data_hashes(domains),
        init=None if start is None else start.origin,
        folder=folder,
    )
    info(f"{POOLED}: {result.steps} steps, validation {data.metric.describe(result.best)} → {folder}")
    return folder


def _is_finished(work: Workspace, start: SharedInit | None, frozen: ExpertFolder | None) -> bool:
    """Whether the folder holds the pooled LoRA of these settings, this start and these data."""
    folder = work.pooled_folder
    if not (folder / CARD).is_file():
        return False
    card = read_expert_card(folder / CARD)
    made_with = (card.init, card.shared, card.data_sha256, (folder / CONFIG).read_text(encoding="utf-8"))
    origin, shared = None if start is None else start.origin, None if frozen is None else frozen.digest
    return made_with == (origin, shared, work.data_hashes(work.run.domains), work.run.as_yaml())


def routed_rank(work: Workspace) -> int:
    """Sum of the ranks of the run's routed experts."""
    return work.run.lora.r * sum(domain.experts for domain in work.run.domains.values())


def widen(adapter: Adapter, extra: int) -> Adapter:
    """Return an adapter with `extra` more ranks in every layer, and the scaling that each layer has."""
    config, rslora = adapter.peft_config, bool(adapter.peft_config.get("use_rslora"))
    ranks, alphas = dict(config.get("rank_pattern") or {}), dict(config.get("alpha_pattern") or {})

    def wider_alpha(rank: int, alpha: float) -> float:
        return float(alpha * ((rank + extra) / rank) ** (0.5 if rslora else 1.0))

    patterns = dict.fromkeys([*ranks, *alphas])
    values = {
        key: (ranks[key] if key in ranks else config["r"], alphas[key] if key in alphas else config["lora_alpha"])
        for key in patterns
    }
    wider = config | {
        "r": config["r"] + extra,
        "lora_alpha": wider_alpha(config["r"], config["lora_alpha"]),
        "rank_pattern": {key: rank + extra for key, (rank, _) in values.items()},
        "alpha_pattern": {key: wider_alpha(rank, alpha) for key, (rank, alpha) in values.items()},
    }
    return Adapter(wider, {path: LoraSpec(its.rank + extra, its.scaling) for path, its in adapter.layers.items()})


def pooled_settings(work: Workspace, train: Dataset) -> StageSettings:
    """Settings of the stage `shared`, or without a trained shared expert of `expert`, with the steps of both.

    They are as many as it takes to read as many rows as the shared expert and one expert of each domain read together.
    """
    stages, sizes = work.run.stages, [len(work.training_rows([name])) for name in work.run.domains]
    trains_shared = work.run.shared is not None and not work.frozen_experts
    base = stages.shared if trains_shared else stages.expert
    read = sum(rows_read(stages.expert, size) for size in sizes)
    read += rows_read(stages.shared, len(train)) if trains_shared else 0
    evals = base.evals + (stages.expert.evals if trains_shared else 0)
    steps = max(1, math.ceil(read / (base.batch_size * base.accumulate)))
    return base.model_copy(update={"steps": steps, "evals": evals})


def rows_read(settings: StageSettings, rows: int) -> int:
    """Number of rows that a stage reads, each counted as often as it is read."""
    batch = settings.batch_size * settings.accumulate
    return batch * settings.count_steps(math.ceil(rows / batch))


def _with_settings(work: Workspace, stage: str, settings: StageSettings) -> Workspace:
    """The run with other settings of a stage; prepared rows are shared."""
    other = copy(work)
    stages = work.run.stages.model_copy(update={stage: settings})
    other.run = work.run.model_copy(update={"stages": stages})
    return other


@torch.no_grad()
def _load_start(model: Mixture, start: SharedInit) -> None:
    """Load the weights that the shared expert starts from; the added ranks have B = 0, so the function is the same."""
    fresh = model.bank.adapter_parameters(POOLED)
    trained = {model.bank.bare_key(key, fresh): tensor for key, tensor in start.expert.weights.items()}
    model.bank.load_adapter(POOLED, {key: _place(tensor, trained[key]) for key, tensor in fresh.items()})
    if isinstance(model.heads, Heads):
        model.heads.load_state_dict(start.heads_for(model.labels, model.heads.state_dict()))


def _place(fresh: Tensor, trained: Tensor) -> Tensor:
    """Fresh weights whose first rows and columns are the trained ones."""
    placed = fresh.detach().clone()
    placed[: trained.shape[0], : trained.shape[1]] = trained.to(placed)
    return placed

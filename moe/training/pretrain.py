"""Role pre-training: an expert of a language model learns its role's plain text, mixed with some general text.

A shared expert learns every role's first, and lies below the others from then on. Rows are `moe.training.lm_dataset`'s;
the loop is every stage's, `moe.training.stage`.
"""

from collections.abc import Mapping
from pathlib import Path

from experts.adapter import build_adapter
from experts.atomic_io import refuse_existing
from experts.domain import Domain
from experts.errors import Fault, suggest
from experts.expert_io import read_expert
from moe.checkpoints.expert import SHARED_NAME, build_expert_model
from moe.config.stages import PRETRAIN, SHARED, Stage
from moe.console import info
from moe.runs.workspace import Workspace
from moe.training.lm_dataset import LMCorpora
from moe.training.stage import run_stage
from moe.training.steps import build_expert_card, require_shared_expert, save_expert


def pretrain(work: Workspace, role: str | None = None, overwrite: bool = False, resume: bool = False) -> list[Path]:
    """Pre-train the experts of one role, or of all, and write their folders.

    Args:
        role: as `domains.NAME.role` says, the domain's own name by default; None takes every role.

    Raises:
        Fault: when the run has no language model or no such role, a corpus is missing or bad, the shared expert that
            the config asks for is not there yet, or a finished expert would be overwritten.
    """
    _begin(work)
    roles = list(dict.fromkeys(one.group for one in work.run.domain_list()))
    if role is not None and role not in roles:
        raise Fault(f"one of the roles {', '.join(roles)}", repr(role), suggest(role, roles))
    require_shared_expert(work, "moe pretrain --shared, or --all")
    return [
        _pretrain_one(work, PRETRAIN, domain, name, work.run.seed + k, overwrite, resume)
        for domain in work.run.domain_list()
        for k, name in enumerate(domain.expert_names if role in (None, domain.group) else ())
    ]


def pretrain_shared(work: Workspace, overwrite: bool = False, resume: bool = False) -> Path:
    """Pre-train the shared expert on every role's text, by the numbers of `stages.shared`.

    Raises:
        Fault: when the run has no language model, the config no shared expert, a corpus is missing or bad, or a
            finished one would be overwritten.
    """
    _begin(work)
    if not work.run.shared:
        raise Fault("a shared expert in the config", "none", "give it a rank, for example --set shared.r=12")
    return _pretrain_one(work, SHARED, Domain(SHARED_NAME, {}), SHARED_NAME, work.run.seed, overwrite, resume)


def _begin(work: Workspace) -> None:
    work.begin()
    if work.run.language is None:
        raise Fault("a run over a language model", "a config without language", "add `language: {}` to the config")


def _pretrain_one(
    work: Workspace, stage: Stage, domain: Domain, name: str, seed: int, overwrite: bool, resume: bool
) -> Path:
    folder = work.expert_folder(name)
    if resume and folder.is_dir():
        info(f"{name}: finished before, kept")
        return folder
    refuse_existing(folder, overwrite)
    pooled = stage is SHARED
    learned = list(work.run.domains) if pooled else [domain.name]
    shared = None if pooled or not work.shared_folder else read_expert(work.shared_folder)
    model = build_expert_model(work.run, name, build_adapter, False, seed, shared, always_on=pooled)
    shelf = LMCorpora(work, model)
    lesson = shelf.packed_data(learned)
    before = lesson.evaluate()
    info(f"{name}: before, {_told(before)}")
    fitted = run_stage(work, model, stage, lesson, seed, name, resume, learner=name)
    data = {one: shelf.digest(one) for one in learned}
    card = build_expert_card(work, domain, name, model, False, seed, fitted, shared, data)
    history = [before | {"step": 0.0}, *fitted.history]
    save_expert(work, model, card, model.bank.peft_state_dict(name), fitted, history, overwrite)
    info(f"{name}: {fitted.steps} steps, {_told(fitted.best)} → {folder}")
    return folder


def _told(figures: Mapping[str, float]) -> str:
    named = {key.removeprefix("perplexity_"): value for key, value in figures.items() if key.startswith("perplexity_")}
    return "perplexity on " + ", ".join(f"{name} {value:.2f}" for name, value in named.items())

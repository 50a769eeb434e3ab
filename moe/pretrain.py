"""Role pre-training: an expert of a language model learns its role's plain text, mixed with some general text.

Its rows are `moe.shelf`'s; the loop is every stage's, `moe.stage_run`.
"""

from collections.abc import Mapping
from pathlib import Path

from experts.adapter import fresh_adapter
from experts.domain import Domain
from experts.errors import Fault, guess
from experts.files import refuse_existing
from moe.alone import expert_model
from moe.progress import say
from moe.shelf import Shelf
from moe.stage_run import run_stage
from moe.stages import PRETRAIN
from moe.steps import expert_card, keep_expert
from moe.workspace import Workspace


def pretrain(work: Workspace, role: str | None = None, overwrite: bool = False, resume: bool = False) -> list[Path]:
    """Pre-train the experts of one role, or of all, and write their folders.

    Args:
        role: as `domains.NAME.role` says, the domain's own name by default; None takes every role.

    Raises:
        Fault: when the run has no language model or no such role, a corpus is missing or bad, or a finished expert
            would be overwritten.
    """
    work.begin()
    if work.run.language is None:
        raise Fault("a run over a language model", "a config without language", "add `language: {}` to the config")
    roles = list(dict.fromkeys(one.group for one in work.run.domain_list()))
    if role is not None and role not in roles:
        raise Fault(f"one of the roles {', '.join(roles)}", repr(role), guess(role, roles))
    folders = []
    for domain in work.run.domain_list():
        for k, name in enumerate(domain.expert_names if role in (None, domain.group) else ()):
            folder = work.expert_folder(name)
            if resume and folder.is_dir():
                say(f"{name}: finished before, kept")
            else:
                _pretrain_one(work, domain, name, work.run.seed + k, overwrite, resume)
            folders.append(folder)
    return folders


def _pretrain_one(work: Workspace, domain: Domain, name: str, seed: int, overwrite: bool, resume: bool) -> None:
    folder = work.expert_folder(name)
    refuse_existing(folder, overwrite)
    model = expert_model(work.run, name, fresh_adapter, False, seed)
    model.only = name
    shelf = Shelf(work, model)
    lesson = shelf.packed(domain.name)
    before = lesson.evaluate()
    say(f"{name}: before, {_told(before)}")
    fitted = run_stage(work, model, PRETRAIN, lesson, seed, name, resume, learner=name)
    data = {domain.name: shelf.digest(domain.name)}
    card = expert_card(work, domain, name, model, False, seed, fitted, None, data)
    history = [before | {"step": 0.0}, *fitted.history]
    keep_expert(work, model, card, model.bank.saved(name), fitted, history, overwrite)
    say(f"{name}: {fitted.steps} steps, {_told(fitted.best)} → {folder}")


def _told(figures: Mapping[str, float]) -> str:
    named = {key.removeprefix("perplexity_"): value for key, value in figures.items() if key.startswith("perplexity_")}
    return "perplexity on " + ", ".join(f"{name} {value:.2f}" for name, value in named.items())

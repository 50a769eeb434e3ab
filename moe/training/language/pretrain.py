"""Pre-training of role experts: an expert of a language model is trained on plain text of its role and general text.

A shared expert is trained first, on the text of all roles, and is always active below the others.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from experts.adapter import build_adapter
from experts.domain import Domain
from experts.errors import Fault, suggest
from experts.expert_io import read_expert
from moe.checkpoints.expert import SHARED_NAME, build_expert_model
from moe.config.stages import PRETRAIN, SHARED, Stage
from moe.console import info
from moe.runs.finished import expert_differences, keeps_finished, training_hashes
from moe.runs.locking import writes_run
from moe.runs.shared_init import load_shared_init
from moe.runs.workspace import Workspace
from moe.training.expert_folder import place_frozen_expert, require_shared_expert, save_expert
from moe.training.language.lm_dataset import LMCorpora
from moe.training.stage import run_stage


@writes_run
def pretrain(work: Workspace, role: str | None = None, overwrite: bool = False, resume: bool = False) -> list[Path]:
    """Pre-train the experts of one role, or of all, and write their folders.

    Args:
        role: a role of the config (`domains.NAME.role`, which defaults to the domain's name); None trains all roles.
        overwrite: train finished experts again; otherwise they are kept.
        resume: continue from the last checkpoint of an expert that is under way.

    Returns:
        the experts' folders.

    Raises:
        Fault: if the run has no language model or no such role, a corpus is missing or invalid, the config has a shared
            expert that is not yet trained, or a finished expert has other settings or text.
    """
    _begin(work)
    roles = list(dict.fromkeys(domain.group for domain in work.run.domain_list()))
    if role is not None and role not in roles:
        raise Fault(f"one of the roles {', '.join(roles)}", repr(role), suggest(role, roles))
    require_shared_expert(work, "moe pretrain --shared, or --all")
    return [
        _pretrain_expert(work, PRETRAIN, domain, name, seed=work.run.seed + k, overwrite=overwrite, resume=resume)
        for domain in work.run.domain_list()
        for k, name in enumerate(domain.expert_names if role in (None, domain.group) else ())
    ]


@writes_run
def pretrain_shared(work: Workspace, overwrite: bool = False, resume: bool = False) -> Path:
    """Pre-train the shared expert on the text of all roles, with the settings of `stages.shared`.

    Returns:
        the expert's folder.

    Raises:
        Fault: if the run has no language model, the config has no shared expert, a corpus is missing or invalid, or the
            finished expert has other settings or text.
    """
    _begin(work)
    if not work.run.shared:
        raise Fault("a shared expert in the config", "none", "set its rank, for example --set shared.r=12")
    if work.frozen_experts:
        folder = work.expert_folder(SHARED_NAME)
        differences = partial(expert_differences, work, SHARED, folder, list(work.run.domains))
        if keeps_finished(work, folder, differences, overwrite=overwrite, resume=resume):
            require_shared_expert(work, "")  # that it is the one that `shared.init` names
        else:
            place_frozen_expert(work, overwrite=True)
        return folder
    domain, seed = Domain(SHARED_NAME, {}), work.run.seed
    return _pretrain_expert(work, SHARED, domain, SHARED_NAME, seed=seed, overwrite=overwrite, resume=resume)


def _begin(work: Workspace) -> None:
    work.begin()
    if work.run.language is None:
        raise Fault("a run over a language model", "a config without language", "add `language: {}` to the config")


def _pretrain_expert(
    work: Workspace, stage: Stage, domain: Domain, name: str, seed: int, overwrite: bool, resume: bool
) -> Path:
    folder = work.expert_folder(name)
    pooled = stage is SHARED
    domains = list(work.run.domains) if pooled else [domain.name]
    differences = partial(expert_differences, work, stage, folder, domains)
    if keeps_finished(work, folder, differences, overwrite=overwrite, resume=resume):
        return folder
    start = load_shared_init(work.run) if pooled else None
    shared = None if pooled or not work.shared_folder else read_expert(work.shared_folder)
    factory = build_adapter if start is None else lambda *_: start.adapter
    model = build_expert_model(
        work.run,
        name,
        factory,
        polarity=False,
        seed=seed,
        shared=shared,
        always_on=pooled,
        domain=domain.name,
    )
    if start is not None:
        start.load_into(model, name)
    corpora = LMCorpora(work, model)
    data = corpora.packed_data(domains)
    before = data.evaluate()
    info(f"{name}: before training, {_format_perplexities(before)}")
    result = run_stage(work, model, stage, data, seed=seed, name=name, resume=resume, expert=name)
    save_expert(
        work,
        model,
        domain,
        name,
        weights=model.bank.peft_state_dict(name),
        result=result,
        polarity=False,
        seed=seed,
        shared=shared,
        data_hashes=training_hashes(work, domains),
        init=None if start is None else start.origin,
        history=[before | {"step": 0.0}, *result.history],
    )
    info(f"{name}: {result.steps} steps, {_format_perplexities(result.best)} → {folder}")
    return folder


def _format_perplexities(metrics: Mapping[str, float]) -> str:
    by_domain = {
        key.removeprefix("perplexity_"): value for key, value in metrics.items() if key.startswith("perplexity_")
    }
    return "perplexity on " + ", ".join(f"{name} {value:.2f}" for name, value in by_domain.items())

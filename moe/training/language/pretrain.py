"""Pre-training of role experts: an expert of a language model is trained on plain text of its role and general text.

A shared expert is trained first, on the text of all roles, and is always active below the others.
"""

from pathlib import Path

from experts.errors import Fault, suggest
from moe.config.stages import PRETRAIN
from moe.runs.locking import writes_run
from moe.runs.workspace import Workspace
from moe.training.expert_folder import require_shared_expert
from moe.training.expert_steps import train_experts, train_shared_expert


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
    domains = [domain for domain in work.run.domain_list() if role in (None, domain.group)]
    return train_experts(work, PRETRAIN, domains, overwrite=overwrite, resume=resume)


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
    return train_shared_expert(work, overwrite=overwrite, resume=resume)


def _begin(work: Workspace) -> None:
    work.begin()
    if work.run.language is None:
        raise Fault("a run over a language model", "a config without language", "add `language: {}` to the config")

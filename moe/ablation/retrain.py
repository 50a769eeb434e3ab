"""Training of one ablation variant: the run with other settings, reusing its folders as far as possible."""

import os
import shutil
from pathlib import Path

from experts.atomic_io import os_errors_as_faults, write_text
from experts.errors import Fault
from moe.ablation.variants import RetrainedVariant
from moe.config.overrides import apply_override
from moe.config.run import RunSettings, parse_run
from moe.config.stages import MERGED
from moe.runs.best import best_model
from moe.runs.layout import ABLATION, CACHE
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_router

CONFIG = "config.yaml"


def train_variant(work: Workspace, variant: RetrainedVariant) -> Path:
    """Train a variant in `ablation/NAME/`, or resume it; reused folders of the run are linked.

    Returns:
        its best mixture by validation.

    Raises:
        Fault: if the folder is of another config, or training fails.
        Interrupted: on Ctrl-C, after a checkpoint.
    """
    own = Workspace(variant_settings(work.run, variant), work.out / ABLATION / variant.name, work.data_dir or work.out)
    _claim_folder(own)
    for name in (*variant.folders, CACHE):  # cached trunk states are keyed by hash, so stale ones are never read
        _link_folder(work.out / name, own.out / name)
    if not (own.out / MERGED).is_dir():
        if own.run.shared:
            train_shared(own, resume=True)
        for domain in own.run.domains:
            train_domain(own, domain, resume=True)
        merge_experts(own)
    train_router(own, resume=True)
    shutil.rmtree(own.out / CACHE, ignore_errors=True)
    return best_model(own.out)


def variant_settings(run: RunSettings, variant: RetrainedVariant) -> RunSettings:
    """Return the run's config with the variant's overrides.

    Raises:
        Fault: with every error of the resulting config.
    """
    raw = run.model_dump(mode="json")
    for override in variant.sets:
        apply_override(raw, override)
    return parse_run(raw, f"the variant {variant.name}")


def _claim_folder(own: Workspace) -> None:
    """Write the variant's config, or check that the folder's config equals it."""
    path, config = own.out / CONFIG, own.run.as_yaml()
    if not path.is_file():
        write_text(path, config)
    elif path.read_text(encoding="utf-8") != config:
        raise Fault(
            f"a variant of this config at {own.out}", "one of another config", "remove the folder, or use another run"
        )


def _link_folder(source: Path, target: Path) -> None:
    """Hard-link the source's files in a new folder, or copy them where the disk does not support links."""
    if not source.is_dir() or target.is_dir():
        return
    temporary = target.with_name(f".{target.name}.partial")
    with os_errors_as_faults(target.parent):
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary, copy_function=_link_file)
        temporary.rename(target)


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)

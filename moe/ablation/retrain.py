"""One retrained row: the run again with other settings, from as much of it as these leave standing.

Which rows there are is `moe.ablation.variants`'.
"""

import os
import shutil
from pathlib import Path

from experts.atomic_io import os_errors_as_faults, write_text
from experts.errors import Fault
from moe.ablation.variants import RetrainedVariant
from moe.config.run import RunSettings, apply_override, parse_run
from moe.config.stages import MERGED
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.training.steps import merge_experts, train_domain, train_router, train_shared

FOLDER, CONFIG, CACHE = "ablation", "config.yaml", "cache"


def retrain(work: Workspace, row: RetrainedVariant) -> Path:
    """Train a row in `ablation/NAME/`, going on where it was stopped; what the run has already is linked.

    Returns:
        its best mixture by validation.

    Raises:
        Fault: when the folder is of another config, or training goes wrong.
        Interrupted: on Ctrl-C, after a checkpoint.
    """
    own = Workspace(variant_settings(work.run, row), work.out / FOLDER / row.name, work.data_dir or work.out)
    _claim(own)
    for name in (*row.folders, CACHE):  # trunk states are found by their hash, so they fit or are not looked at
        _link(work.out / name, own.out / name)
    if not (own.out / MERGED).is_dir():
        if own.run.shared:
            train_shared(own, resume=True)
        for domain in own.run.domains:
            train_domain(own, domain, resume=True)
        merge_experts(own)
    train_router(own, resume=True)
    shutil.rmtree(own.out / CACHE, ignore_errors=True)
    return best_model(own.out)


def variant_settings(run: RunSettings, row: RetrainedVariant) -> RunSettings:
    """The run's config with the row's settings.

    Raises:
        Fault: with every disagreement of the two.
    """
    raw = run.model_dump(mode="json")
    for one in row.sets:
        apply_override(raw, one)
    return parse_run(raw, f"the row {row.name}")


def _claim(own: Workspace) -> None:
    """Write the row's config, or hold the one that is there against it: a row is never made of two configs."""
    path, said = own.out / CONFIG, own.run.as_yaml()
    if not path.is_file():
        write_text(path, said)
    elif path.read_text(encoding="utf-8") != said:
        raise Fault(
            f"a row of this config at {own.out}", "one of another config", "remove the folder, or name another run"
        )


def _link(source: Path, target: Path) -> None:
    """The source's files again under another name, without their bytes where the disk can."""
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
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)

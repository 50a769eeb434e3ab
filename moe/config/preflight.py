"""What a config asks for and this machine lacks: files, corpora, a backbone deep enough; all told at once.

What is wrong in a config itself is `moe.config.run`'s.
"""

from collections.abc import Sequence
from pathlib import Path

from experts.errors import Fault
from moe.config.run import ConfigFault, RunSettings, load_run
from moe.model.backbone import read_backbone_config
from moe.trackers import missing_trackers


def check_config(path: Path, sets: Sequence[str] = ()) -> str:
    """Tell every fault of a config, missing files and an impossible trunk included; no weight is loaded.

    Returns:
        what the config says, in one line.

    Raises:
        Fault: with every fault at once.
    """
    run = load_run(path, sets)
    faults = _missing_corpora(run) if run.language else _missing_files(run)
    faults += [f"track: {name} is not installed; pip install {name}, or take it out" for name in missing_trackers(run.track)]
    if faults := faults + _backbone_faults(run):
        raise ConfigFault(str(path), faults)
    experts = [name for domain in run.domain_list() for name in domain.expert_names]
    answers = "a language model's head" if run.language else f"{len(run.label_space().heads)} class head(s)"
    return f"{path}: no fault; experts {', '.join(experts)}; {answers}"


def _missing_files(run: RunSettings) -> list[str]:
    tasks = [(domain, one) for domain in run.domains for one in run.tasks_of(domain).values()]
    faults = [
        f"domains.{domain}: no file at {run.data.path(one.file)}; set data.folder or the domain's file"
        for domain, one in tasks
        if one.file is not None and not run.data.path(one.file).exists()
    ]
    return faults + [
        f"domains.{domain}: names no file, and there is no sample; set domains.{domain}.file"
        for domain, one in tasks
        if one.file is None and run.sample is None
    ]


def _missing_corpora(run: RunSettings) -> list[str]:
    assert run.language is not None
    named = {f"domains.{name}.corpus": one.corpus for name, one in run.domains.items()}
    faults = [f"{key}: names no file of plain text; name one" for key, files in named.items() if not files]
    named |= {
        f"domains.{domain}.tasks.{task}": (str(one.file),)
        for domain in run.domains
        for task, one in run.questions_of(domain).items()
    }
    return faults + [
        f"{key}: no file at {run.data.path(file)}; set data.folder or mend the name"
        for key, files in (named | {"language.general": run.language.general}).items()
        for file in files
        if not run.data.path(file).exists()
    ]


def _backbone_faults(run: RunSettings) -> list[str]:
    try:
        config = read_backbone_config(run.backbone)
    except Fault as fault:
        return [f"backbone.name: {fault}"]
    depth = config.num_hidden_layers
    if run.backbone.trunk_depth >= depth:
        return [f"backbone.trunk_depth is {run.backbone.trunk_depth}, the backbone has {depth} layers: lower it"]
    return []

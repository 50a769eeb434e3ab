"""Finished steps of a run: with which settings, data and inputs each was made, and whether these are those of now.

A finished step is kept if they are. Otherwise its output is stale: it is refused, or replaced with `--overwrite`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experts.atomic_io import MANIFEST, manifest_faults, sha256_of
from experts.cards import EXPERT_FILES
from experts.errors import Fault
from experts.expert_io import ADAPTER, CARD, CONFIG, BackboneId, ExpertFolder, read_expert_card
from experts.yaml_io import read_yaml
from moe.checkpoints.mixture import mixture_digest, mixture_faults, parse_mixture_card
from moe.config.run import RunSettings, parse_run
from moe.config.stages import INSTRUCT, JOINT, MERGED, SHARED, WARMUP, Stage
from moe.console import info
from moe.data.pretraining_corpus import corpus_digest
from moe.model.backbone import identify_backbone
from moe.runs.layout import MIXTURES
from moe.runs.workspace import Workspace

_MAX_REASONS = 4
"""Most differences that a message lists."""
_NO_EFFECT = {"backbone": ("compile", "fold_memory", "name", "revision"), "stages": ("keep", "nonfinite")}
"""Settings without effect on the result of a step, by section; a backbone is compared by the hash of its weights."""
_TASK_ONLY = ("file", "tasks", "corpus", "unlabelled", "max_unlabelled_rows", "role", "experts")
"""Keys of a domain that do not change its labelled rows; files are compared by their hashes."""


def keeps_finished(
    work: Workspace,
    folder: Path,
    differences: Callable[[], list[str]],
    overwrite: bool,
    resume: bool,
    again: str = "trains it again",
) -> bool:
    """Whether the output of a step is kept, which is then noted in `work.reused` and on the terminal.

    A step with checkpoints is under way: with `resume` it goes on, and replaces the output of an earlier run. With
    `overwrite` and `resume`, which continue an interrupted `--overwrite`, only what differs is made again.

    Args:
        folder: the step's output.
        differences: returns what has changed since the output was written; called only if it decides.
        overwrite: make finished steps again.
        resume: continue a step that is under way.
        again: what `--overwrite` does, in the message.

    Raises:
        Fault: if the output exists and differs from what the step would make now, and `overwrite` is false.
    """
    under_way = resume and any(work.checkpoints(folder.name).glob("checkpoint-*"))
    if not folder.exists() or under_way or (overwrite and not resume):
        return False
    if reasons := differences():
        if overwrite:
            return False
        more = f"; {len(reasons) - _MAX_REASONS} more differences" if len(reasons) > _MAX_REASONS else ""
        raise Fault(
            f"{folder} made with the current settings and inputs",
            "; ".join(reasons[:_MAX_REASONS]) + more,
            "pass --overwrite to make it again, or choose another --run",
        )
    work.reused.append(folder)
    info(f"{folder.name}: finished earlier, kept; --overwrite {again}")
    return True


def expert_differences(work: Workspace, stage: Stage, folder: Path, domains: Sequence[str]) -> list[str]:
    """Return what has changed since an expert was trained: settings, data, backbone, shared expert; empty if nothing.

    Args:
        stage: that trained it.
        domains: on whose rows it was trained.
    """
    if damage := next(manifest_faults(folder, "an expert", EXPERT_FILES), None):
        return [f"a damaged folder ({damage.found})"]
    stored, card = _stored_settings(folder), read_expert_card(folder / CARD)
    if isinstance(stored, str):
        return [stored]
    differences = [
        *_changed_settings(stored, work.run, stage, domains),
        *_changed_backbone(stored, work, card.backbone),
    ]
    if stage is not SHARED:
        differences += _changed_shared(work, card.shared)
    if not (card.init is not None and card.init.frozen):
        differences += _changed_data(card.data_sha256, training_hashes(work, domains))
    return differences


def training_hashes(work: Workspace, domains: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of the training data, by task, or of a language model's corpora by domain."""
    if work.run.language is None:
        return work.data_hashes(domains)
    data = work.run.data
    return {name: corpus_digest([data.path(file) for file in work.run.domains[name].corpus], name) for name in domains}


def merge_differences(work: Workspace, folder: Path, experts: Sequence[ExpertFolder]) -> list[str]:
    """Return what has changed since a mixture was merged: its experts, or settings of gates and heads."""
    if damage := next(mixture_faults(folder), None):
        return [f"a damaged folder ({damage.found})"]
    card = parse_mixture_card(folder)
    now = {expert.name: expert.digest for expert in experts}
    before = {name: origin.sha256 for name, origin in card.origins.items()}
    added = [f"{name} is not in it" for name in now if name not in (*card.routed, *card.shared)]
    changed = [f"{name} was trained again since" for name in now if before.get(name, now[name]) != now[name]]
    removed = [f"{name} is no longer among the experts" for name in (*card.routed, *card.shared) if name not in now]
    return [*changed, *added, *removed, *merge_setting_differences(work, folder)]


def merge_setting_differences(work: Workspace, folder: Path, ignored: Sequence[str] = ()) -> list[str]:
    """Return which settings of a merge differ from those of now.

    Args:
        ignored: dotted keys that may differ.
    """
    stored = _stored_settings(folder)
    if isinstance(stored, str):
        return [stored]
    card = parse_mixture_card(folder)
    names = [domain.name for domain in card.domains]
    before, now = (
        _without(
            _flatten({"seed": run.seed, "template": run.template} | _dump(run, "gate", "heads") | _roles(run, names)),
            ("gate.expert_gate_steps", *ignored),
        )
        for run in (stored, work.run)
    )
    return [*_compare(before, now), *_changed_backbone(stored, work, card.backbone)]


def mixture_differences(work: Workspace, stage: Stage, folder: Path, before: Path) -> list[str]:
    """Return what has changed since a stage of a mixture was trained: the mixture it started from, settings or data.

    Args:
        before: the mixture that the stage starts from now.
    """
    if damage := next(mixture_faults(folder), None):
        return [f"a damaged folder ({damage.found})"]
    stored, card = _stored_settings(folder), parse_mixture_card(folder)
    if isinstance(stored, str):
        return [stored]
    names = [domain.name for domain in card.domains if domain.name in work.run.domains]
    differences = [f"another {before.name} than it was trained from"] if _has_other_start(folder, before) else []
    differences += _changed_settings(stored, work.run, stage, names)
    hashes = training_hashes(work, names) if stage is not INSTRUCT else {}
    return differences + _changed_data(card.data_sha256, hashes)


def _has_other_start(folder: Path, before: Path) -> bool:
    """Whether a mixture was trained from other weights; of one that does not record them, whether experts differ."""
    card, source = parse_mixture_card(folder), parse_mixture_card(before)
    if card.start is not None:
        return card.start != mixture_digest(before)
    return {name: origin.sha256 for name, origin in card.origins.items()} != {
        name: origin.sha256 for name, origin in source.origins.items()
    }


def retrained_experts(work: Workspace, folder: Path) -> list[str]:
    """Return which experts of the run were trained again after they were merged into a mixture.

    An expert in the run's folder that is older than the mixture is another one than was merged, not a newer one.
    """
    merged = (folder / MANIFEST).stat().st_mtime_ns
    names = []
    for name, origin in parse_mixture_card(folder).origins.items():
        own = work.expert_folder(name)
        if (own / ADAPTER).is_file() and (own / MANIFEST).is_file():
            newer = (own / MANIFEST).stat().st_mtime_ns > merged
            if newer and sha256_of(own / ADAPTER) != origin.sha256:
                names.append(name)
    return names


def stale_steps(work: Workspace) -> list[str]:
    """Return the finished steps of a run that depend on something that was made again since, in the order of a run."""
    stale = []
    if work.shared_folder is not None and (work.shared_folder / ADAPTER).is_file():
        for name in (name for domain in work.run.domain_list() for name in domain.expert_names):
            card = work.expert_folder(name) / CARD
            if card.is_file() and _changed_shared(work, read_expert_card(card).shared):
                stale.append(name)
    for name in (*MIXTURES, INSTRUCT.folder):
        if (work.out / name / MANIFEST).is_file() and (stale or _is_stale(work, name)):
            stale.append(name)
    return stale


def _is_stale(work: Workspace, name: str) -> bool:
    folder = work.out / name
    sources = {WARMUP.folder: [MERGED], JOINT.folder: [WARMUP.folder], INSTRUCT.folder: MIXTURES}.get(name, ())
    existing = [work.out / source for source in sources if (work.out / source / MANIFEST).is_file()]
    has_source = not existing or any(not _has_other_start(folder, source) for source in existing)
    return not has_source or bool(retrained_experts(work, folder))


def stale_note(work: Workspace, stale: Sequence[str]) -> str:
    """Return one line on stale steps and the commands that make them again; empty if there are none."""
    if not stale:
        return ""
    mixtures = [name for name in (*MIXTURES, INSTRUCT.folder) if name in stale]
    language = work.run.language is not None
    commands = ["moe pretrain --all --overwrite" if language else "moe train-expert --all --overwrite"]
    commands = commands if len(mixtures) < len(stale) else []
    commands += ["moe merge --overwrite"] if MERGED in stale else []
    commands += ["moe train-router --overwrite"] if {WARMUP.folder, JOINT.folder} & set(stale) else []
    commands += ["moe instruct --overwrite"] if INSTRUCT.folder in stale else []
    return f"stale, since a step that they depend on was made again: {', '.join(stale)}; run {', then '.join(commands)}"


def _stored_settings(folder: Path) -> RunSettings | str:
    """Settings with which a step ran, or the reason why they cannot be compared."""
    path = folder / CONFIG
    if not path.is_file():
        return f"no {CONFIG} in it"
    try:
        return parse_run(read_yaml(path), str(path))
    except Fault:
        return f"a {CONFIG} that this version of finmoe cannot read"


def _changed_settings(stored: RunSettings, run: RunSettings, stage: Stage, domains: Sequence[str]) -> Iterator[str]:
    """Differences in the settings that a stage depends on."""
    names = list(stored.domains) if stage is SHARED else [name for name in domains if name in stored.domains]
    for name in dict.fromkeys((*domains, *names)):
        if (name in domains) != (name in names):
            yield f"domains.{name}: not in the config {'then' if name in domains else 'now'}"
    common = [name for name in domains if name in names]
    yield from _compare(_stage_settings(stored, stage, common), _stage_settings(run, stage, common))


def _stage_settings(run: RunSettings, stage: Stage, domains: Sequence[str]) -> dict[str, Any]:
    """Settings that the result of a stage depends on, by dotted key."""
    dump = run.model_dump(mode="json")
    labelled = run.language is None
    settings: dict[str, Any] = {"seed": run.seed, "template": run.template, "language": dump["language"]}
    settings["backbone"] = _without(dump["backbone"], _NO_EFFECT["backbone"])
    settings["stages"] = {stage.name: _without(dump["stages"][stage.name], _NO_EFFECT["stages"])}
    if stage is SHARED:
        settings["shared"] = dump["shared"]
        if run.shared is not None and run.shared.is_frozen:  # which is not trained
            return _flatten({"shared": dump["shared"], "template": run.template, "seed": run.seed})
    elif not stage.routed:
        settings |= {"lora": dump["lora"], "expert_init": dump["expert_init"]}
    elif "experts" in stage.trains:
        settings["shared"] = {"frozen": run.shared is not None and run.shared.is_frozen}
    if labelled:
        settings["heads"] = _without(dump["heads"], ("merge",))
        settings["data"] = {key: dump["data"][key] for key in ("seed", "near_duplicates", "across_tasks", "augmented")}
        if any(task.file is None for name in domains for task in run.tasks_of(name).values()):
            settings["sample"] = dump["sample"]
        if run.distill is not None:  # the soft labels themselves are compared by the hash of their file
            names = ("temperature", "weight", "weighting", "domain_weights")
            settings["distill"] = {name: dump["distill"][name] for name in names}
    if labelled or stage.routed:
        settings |= _loss_settings(dump, stage, labelled)
    settings["domains"] = {name: _domain_settings(dump["domains"][name], stage, labelled) for name in domains}
    return _flatten(settings)


def _loss_settings(dump: Mapping[str, Any], stage: Stage, labelled: bool) -> dict[str, Any]:
    losses = dict(dump["losses"])
    if not stage.routed:
        losses["without"] = [name for name in losses["without"] if name == "polarity"]
        losses["constants"] = {key: losses["constants"][key] for key in ("classes", "polarity")}
        losses = _without(losses, ("outer", "balance"))
    if losses["classes"] != "effective":
        losses = _without(losses, ("effective_beta",))
    used = {losses["classes"], losses["inner"] if labelled else "constant", losses.get("outer", "constant")}
    settings = {"losses": losses} | ({"dao": dump["dao"]} if "dao" in used else {})
    others = used - {"dao", "constant", "cross_entropy", "effective"}
    return settings | ({"comparators": dump["comparators"]} if others else {})


def _domain_settings(domain: Mapping[str, Any], stage: Stage, labelled: bool) -> dict[str, Any]:
    settings = _without(domain, _TASK_ONLY) if labelled else {key: domain[key] for key in _CORPUS_KEYS}
    if labelled and domain["tasks"]:
        settings = {"tasks": {name: _without(task, _TASK_ONLY) for name, task in domain["tasks"].items()}}
    if stage.routed:
        settings |= {key: domain[key] for key in ("unlabelled", "max_unlabelled_rows")}
    return settings


_CORPUS_KEYS = ("max_train_rows", "max_validation_rows")


def _changed_backbone(stored: RunSettings, work: Workspace, trained_on: BackboneId) -> list[str]:
    before, now = stored.backbone, work.run.backbone
    if (before.name, before.revision) == (now.name, now.revision):
        return []
    other = identify_backbone(now).sha256 != trained_on.sha256
    return [f"backbone.name: {before.name} then, {now.name} now, with other weights"] if other else []


def _changed_shared(work: Workspace, trained_on: str | None) -> list[str]:
    """Whether an expert was trained on top of another shared expert than the run's."""
    folder = work.shared_folder
    present = sha256_of(folder / ADAPTER) if folder is not None and (folder / ADAPTER).is_file() else None
    if trained_on == present:
        return []
    if trained_on is None or present is None:
        return [f"{'a' if trained_on else 'no'} shared expert then, {'a' if present else 'no'} shared expert now"]
    return ["the shared expert, on top of which it was trained, was trained again since"]


def _changed_data(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [f"the data of {task} have changed since" for task in now if before.get(task, now[task]) != now[task]]


def _dump(run: RunSettings, *keys: str) -> dict[str, Any]:
    return run.model_dump(mode="json", include=set(keys))


def _roles(run: RunSettings, names: Sequence[str]) -> dict[str, Any]:
    """Roles of domains, which group the gates' columns."""
    return {"domains": {name: {"role": run.domains[name].role or name} for name in names if name in run.domains}}


def _without(settings: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; an empty table remains a value."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {_format(before.get(key))} then, {_format(now.get(key))} now"
        for key in dict.fromkeys((*now, *before))
        if before.get(key) != now.get(key)
    ]


def _format(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"

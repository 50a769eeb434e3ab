"""Experts of a trained mixture that join it, leave it or are replaced: what may, what is trained then, what is told.

How a mixture is laid anew is `moe.merging.edit`'; the stage that adapts router and heads is run by
`moe.training.steps`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from experts.atomic_io import refuse_existing
from experts.errors import Fault
from experts.expert_io import CONFIG, read_expert
from moe.checkpoints.mixture import check_same_backbone, write_mixture
from moe.checkpoints.mixture_card import MixtureCard
from moe.config.run import RunSettings
from moe.config.stages import ADAPT
from moe.console import info
from moe.data.sampler import subsample_per_domain
from moe.membership.compatibility import (
    check_expert_fits,
    check_same_domain,
    check_same_labels,
    check_known_expert,
    resolve_domain,
)
from moe.merging.edit import StoredMixture, with_expert, read_stored_mixture, build_edited_mixture, with_swapped_expert, without_expert
from moe.model.backbone import load_backbone
from moe.model.mixture import Mixture
from moe.runs.selection_metric import MACRO_F1, PERPLEXITY
from moe.runs.workspace import Workspace
from moe.training.lm_dataset import LMCorpora
from moe.training.stage import TrainingData
from moe.training.steps import train_and_save, labelled_data

UpdateReport = dict[str, Any]


@dataclass(frozen=True)
class UpdateTarget:
    """Where the changed mixture is written.

    Args:
        out: its folder; prepared rows, logs and checkpoints of its training lie beside it.
        overwrite: over one that is there.
        resume: go on from the last checkpoint.
        rows: where prepared rows are kept; beside it by default.
    """

    out: Path
    overwrite: bool = False
    resume: bool = False
    rows: Path | None = None

    def check(self, model: Path) -> None:
        """Refuse a folder that is there, and the one that is to be changed.

        Raises:
            Fault: naming it.
        """
        if self.out.resolve() == model.resolve():
            raise Fault("another folder for the changed mixture", str(self.out), "the old one is kept: name a new one")
        refuse_existing(self.out, self.overwrite)


def add(model: Path, expert: Path, run: RunSettings, target: UpdateTarget) -> UpdateReport:
    """Lay one more expert beside a mixture's, and adapt router and heads; every expert is frozen.

    Returns:
        `model`, `expert`, `domain`, `steps`, and `figures`: by task, or role of a language model, `before` and `after`
        on validation rows.

    Raises:
        Fault: when the expert does not fit, as for `moe merge`, or the run lacks rows of a domain.
    """
    target.check(model)
    before = read_stored_mixture(model)
    newcomer = read_expert(expert)
    if newcomer.name in before.experts:
        remedy = f"replace it: moe expert swap {model} {newcomer.name} {expert}"
        raise Fault("a name of its own for the new expert", f"{newcomer.name}, which is in {model}", remedy)
    check_expert_fits(before, newcomer)
    domain = resolve_domain(before, newcomer, {one.name: one for one in run.domain_list()})
    after = with_expert(before, newcomer, domain)
    told = _changed(before, after, run, target, "", [domain.name])
    return {"model": str(target.out), "expert": newcomer.name, "domain": domain.name, **told}


def remove(model: Path, name: str, target: UpdateTarget, run: RunSettings | None = None) -> UpdateReport:
    """Take one routed expert out of a mixture: its column of the gates, its heads, its domain where it was alone in it.

    Args:
        run: a run whose rows adapt router and heads; None leaves all weights as they are.

    Returns:
        `model`, `expert`, `domain`, `tasks_gone`, `answered_by` (the domain's experts that stay), and what an
        adaptation told.

    Raises:
        Fault: when there is no such expert, or it is the last, or the shared one.
    """
    target.check(model)
    before = read_stored_mixture(model)
    check_known_expert(before, name)
    if len(before.card.routed) == 1:
        raise Fault(f"an expert beside {name} in {model}", "none", "add another one first")
    after = without_expert(before, name)
    owner = next(one for one in before.card.domains if name in one.experts)
    left = next((one.experts for one in after.card.domains if one.name == owner.name), ())
    told: UpdateReport = {"model": str(target.out), "expert": name, "domain": owner.name}
    told |= {"tasks_gone": [] if left else list(owner.tasks), "answered_by": list(left)}
    return told | _changed(before, after, run, target, "expert-removed", [])


def swap(model: Path, name: str, expert: Path, target: UpdateTarget, run: RunSettings | None = None) -> UpdateReport:
    """Put a newer expert of the same domain in another's place; the router stays.

    Args:
        run: as for `remove`.

    Returns:
        `model`, `expert`, `domain`, `old` and `new` (SHA-256 of the adapters), and what an adaptation told.

    Raises:
        Fault: when the expert does not fit, is of another domain or labels, or has the same weights.
    """
    target.check(model)
    before = read_stored_mixture(model)
    check_known_expert(before, name)
    newcomer = read_expert(expert)
    owner = next(one for one in before.card.domains if name in one.experts)
    check_same_domain(owner.to_domain(), newcomer)
    check_expert_fits(before, newcomer)
    after = with_swapped_expert(before, name, newcomer)
    told = {"model": str(target.out), "expert": name, "domain": owner.name}
    told |= {"old": before.experts[name].digest, "new": newcomer.digest}
    return told | _changed(before, after, run, target, "expert-swapped", [owner.name])


def _changed(
    before: StoredMixture, after: StoredMixture, run: RunSettings | None, target: UpdateTarget, stage: str, whole: Sequence[str]
) -> UpdateReport:
    """Write the changed mixture: adapted to a run's rows, or with no weight trained where there is no run.

    Args:
        stage: what its card calls it where nothing is trained.
        whole: domains all of whose rows are learned from; of the others a sample is.
    """
    run = None if run is None else _of_these(run, after.card)
    backbone = load_backbone(before.card.backbone_settings, lm_head=before.card.language)
    check_same_backbone(before.card.backbone, backbone.id, str(before.folder))
    model, card = build_edited_mixture(before, after, backbone)
    if run is not None:
        return _adapted(before, model, card, run, target, whole)
    card = card.model_copy(update={"stage": stage, "steps": 0, "metrics": {}})
    resolved = (before.folder / CONFIG).read_text(encoding="utf-8")
    write_mixture(target.out, model, card, resolved, {}, target.overwrite)
    return {}


def _of_these(run: RunSettings, card: MixtureCard) -> RunSettings:
    """A run on the mixture's domains, which reads texts as the mixture does.

    Raises:
        Fault: when it lacks one of them, or calls its labels otherwise.
    """
    if (run.language is not None) != card.language:
        kinds = ("labelled rows", "a language model's text")
        raise Fault(
            f"a config of {kinds[card.language]}, as the mixture learned",
            f"one of {kinds[not card.language]}",
            "name another",
        )
    names = [one.name for one in card.domains]
    if missing := [name for name in names if name not in run.domains]:
        raise Fault(
            f"the mixture's domains {', '.join(names)} in the config, to learn again from", f"no {missing[0]}", "add it"
        )
    for one in run.domain_list():
        if one.name in names and not card.language:
            owner = next(domain for domain in card.domains if domain.name == one.name)
            check_same_labels(owner.to_domain(), one.tasks, "the config")
    own = {"backbone": card.backbone_settings, "template": card.template, "heads": card.heads, "gate": card.gate}
    return run.model_copy(update=own | {"domains": {name: run.domains[name] for name in names}})


def _adapted(
    before: StoredMixture, model: Mixture, card: MixtureCard, run: RunSettings, target: UpdateTarget, whole: Sequence[str]
) -> UpdateReport:
    work = Workspace(run, target.out.parent, target.rows)
    lesson = _lesson(work, model, whole)
    fitted = train_and_save(work, ADAPT, model, card, lesson, target.out.name, target.overwrite, target.resume)
    return {"steps": fitted.steps, "figures": _figures(before.card.metrics, fitted.best, card)}


def _lesson(work: Workspace, model: Mixture, whole: Sequence[str]) -> TrainingData:
    names, most, seed = [one.name for one in model.domains], work.run.stages.replay, work.run.seed
    if work.run.language is not None:
        lesson = LMCorpora(work, model).routed_data()
        return replace(lesson, rows=_replayed(lesson.rows, whole, most, seed))
    rows = _replayed(work.rows("train", names), whole, most, seed)
    return labelled_data(work, model, rows, work.rows("validation", names))


def _replayed(rows: Dataset, whole: Sequence[str], most: int, seed: int) -> Dataset:
    found = subsample_per_domain(rows, most, seed, whole)
    info(f"{len(found)} rows to learn from, at most {most} of each {'other ' if whole else ''}domain")
    return found


def _figures(before: Mapping[str, float], after: Mapping[str, float], card: MixtureCard) -> dict[str, UpdateReport]:
    """Validation by task, or by domain of a language model, of the mixture before and after."""
    if card.language:
        keys = {one.name: f"{PERPLEXITY.name}_{one.name}" for one in card.domains}
    else:
        keys = {task: f"{task}_{MACRO_F1.name}" for one in card.domains for task in one.tasks}
    return {name: {"before": before.get(key), "after": after[key]} for name, key in keys.items() if key in after}

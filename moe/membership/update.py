"""Adding, removing and swapping experts of a trained mixture, with an optional adaptation of router and heads."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset

from experts.domain import SCORE, Domain, LabelSpace
from experts.errors import Fault
from experts.expert_io import CONFIG, ExpertFolder, read_expert
from experts.locks import run_lock
from experts.outputs import check_output_folder
from moe.checkpoints.mixture import EarlierRouter, check_same_backbone, write_mixture
from moe.checkpoints.mixture_card import MixtureCard
from moe.config.run import RunSettings
from moe.config.stages import ADAPT
from moe.console import info
from moe.data.sampler import subsample_per_domain
from moe.inference.calibration import Calibration, read_calibration, write_calibration
from moe.membership.compatibility import (
    check_expert_fits,
    check_known_expert,
    check_same_domain,
    check_same_labels,
    resolve_domain,
)
from moe.membership.listing import Adaptation, ExpertChange, MetricChange
from moe.merging.edit import (
    StoredMixture,
    build_edited_mixture,
    read_stored_mixture,
    router_before,
    with_expert,
    with_swapped_expert,
    without_expert,
)
from moe.model.backbone import load_backbone
from moe.model.heads import Heads, MixedHeads, head_key
from moe.model.mixture import Mixture
from moe.runs.locking import new_folder_lock
from moe.runs.recovery import recover_run
from moe.runs.selection_metric import CCC, MACRO_F1, PERPLEXITY
from moe.runs.workspace import Workspace
from moe.training.expert_steps import labelled_data
from moe.training.job import NewExpertScope
from moe.training.language.lm_dataset import LMCorpora
from moe.training.prototypes import fit_threshold
from moe.training.stage import TrainingData
from moe.training.steps import train_and_save
from router.prior import NEVER


@dataclass(frozen=True)
class UpdateTarget:
    """Where the changed mixture is written.

    Args:
        out: its folder; logs and checkpoints of the adaptation are written to the parent folder.
        overwrite: replace an existing folder.
        resume: resume the adaptation from its last checkpoint.
        data_dir: folder of prepared rows; the parent of `out` by default.
    """

    out: Path
    overwrite: bool = False
    resume: bool = False
    data_dir: Path | None = None

    def check(self, *inputs: Path) -> None:
        """Check that the folder is new, and does not replace the mixture to change or the new expert.

        Raises:
            Fault: if it exists and `overwrite` is false, if it is, contains or is a part of an input, or if it was not
                written as a whole before.
        """
        recover_run(self.out.parent)
        check_output_folder(self.out, inputs, self.overwrite)

    def lock(self, trains: bool) -> AbstractContextManager[None]:
        """Lock the folder, or the parent folder if the change is trained, so that no other process writes there."""
        return run_lock(self.out.absolute().parent) if trains else new_folder_lock(self.out)


def add(model: Path, expert: Path, run: RunSettings | None, target: UpdateTarget) -> ExpertChange:
    """Add an expert to a trained mixture, then adapt the router and the new expert's heads.

    All experts stay frozen, and so do the heads of the others: a text that is restricted to an old domain with a single
    expert gets the logits that it got before, bit for bit on a CPU. The calibration of old tasks is kept.

    Args:
        run: the run on whose rows router and heads are adapted; None trains nothing, and the expert's domain is that on
            its card.

    Raises:
        Fault: if the expert does not fit, as for `moe merge`, or the run has no rows of a domain.
    """
    with target.lock(trains=run is not None):
        target.check(model, expert)
        before = read_stored_mixture(model)
        new_expert = read_expert(expert)
        if new_expert.name in before.experts:
            remedy = f"replace it: moe expert swap {model} {new_expert.name} {expert}"
            raise Fault("an unused name for the new expert", f"{new_expert.name}, which is in {model}", remedy)
        check_expert_fits(before, new_expert)
        declared = run.domain_list() if run is not None else _domains_on_card(new_expert)
        domain = resolve_domain(before, new_expert, {domain.name: domain for domain in declared})
        after = with_expert(before, new_expert, domain)
        if before.card.gate.init == "centroid" or (run is not None and run.stages.adapt_router == "all"):
            after = replace(after, earlier={**after.earlier, new_expert.name: router_before(before)})
        calibration = _calibration_of_others(before, domain.name)
        adaptation = _write_changed(before, after, run, target, stage="expert-added", full_domains=[domain.name])
        _write_calibration(target.out, calibration)
        return ExpertChange(model=str(target.out), expert=new_expert.name, domain=domain.name, adaptation=adaptation)


def _calibration_of_others(before: StoredMixture, changed: str) -> Calibration | None:
    """Return the temperatures and thresholds of all domains but the one that changes."""
    calibration = read_calibration(before.folder)
    tasks = {task for name, domain in before.domains.items() if name != changed for task in domain.tasks}
    if calibration is None:
        return None
    unchanged = {task: its for task, its in calibration.tasks.items() if task in tasks}
    return calibration.model_copy(update={"tasks": unchanged})


def _write_calibration(out: Path, calibration: Calibration | None) -> None:
    """Write the calibration of unchanged domains, if there is one."""
    if calibration is not None and calibration.tasks:
        tasks = ", ".join(calibration.tasks)
        write_calibration(out, calibration.tasks, calibration.routing)
        info(f"the calibration of {tasks} is kept; moe calibrate {out} fits that of all tasks")


def _domains_on_card(expert: ExpertFolder) -> list[Domain]:
    """The domain that an expert's card names, with its tasks; none for a plain PEFT adapter."""
    card = expert.card
    if card is None:
        return []
    return [Domain(card.domain, card.tasks, card.role, target_tasks=card.target_tasks, kinds=card.kinds)]


def remove(model: Path, name: str, target: UpdateTarget, run: RunSettings | None = None) -> ExpertChange:
    """Remove a routed expert from a mixture: its column of the gates, its heads, and its domain if that has no other.

    Args:
        run: a run on whose rows router and heads are adapted; None leaves all weights unchanged.

    Raises:
        Fault: if there is no such expert, or it is the last one, or the shared one.
    """
    with target.lock(trains=run is not None):
        target.check(model)
        before = read_stored_mixture(model)
        check_known_expert(before, name)
        if len(before.card.routed) == 1:
            raise Fault(f"another expert besides {name} in {model}", "none", "add another expert first")
        after = without_expert(before, name)
        domain = next(domain for domain in before.card.domains if name in domain.experts)
        remaining = next((other.experts for other in after.card.domains if other.name == domain.name), ())
        calibration = None if run is not None else _calibration_of_others(before, domain.name)
        adaptation = _write_changed(before, after, run, target, stage="expert-removed", full_domains=[])
        _write_calibration(target.out, calibration)
        return ExpertChange(
            model=str(target.out),
            expert=name,
            domain=domain.name,
            tasks_gone=[] if remaining else list(domain.tasks),
            answered_by=list(remaining),
            adaptation=adaptation,
        )


def swap(model: Path, name: str, expert: Path, target: UpdateTarget, run: RunSettings | None = None) -> ExpertChange:
    """Replace an expert with another one of the same domain; the router stays unchanged.

    Args:
        run: as for `remove`.

    Raises:
        Fault: if the expert does not fit, has a different domain or labels, or has the same weights.
    """
    with target.lock(trains=run is not None):
        target.check(model, expert)
        before = read_stored_mixture(model)
        check_known_expert(before, name)
        new_expert = read_expert(expert)
        domain = next(domain for domain in before.card.domains if name in domain.experts)
        check_same_domain(domain.to_domain(), new_expert)
        check_expert_fits(before, new_expert)
        after = with_swapped_expert(before, name, new_expert)
        calibration = None if run is not None else _calibration_of_others(before, domain.name)
        adaptation = _write_changed(before, after, run, target, stage="expert-swapped", full_domains=[domain.name])
        _write_calibration(target.out, calibration)
        return ExpertChange(
            model=str(target.out),
            expert=name,
            domain=domain.name,
            old=before.experts[name].digest,
            new=new_expert.digest,
            adaptation=adaptation,
        )


def _write_changed(
    before: StoredMixture,
    after: StoredMixture,
    run: RunSettings | None,
    target: UpdateTarget,
    *,
    stage: str,
    full_domains: Sequence[str],
) -> Adaptation | None:
    """Write the changed mixture, adapted on a run's rows, or untrained if there is no run.

    Args:
        stage: `stage` of its card if nothing is trained.
        full_domains: domains that are trained on all their rows; of the others a sample is used.
    """
    run = None if run is None else _restrict_run(run, after.card)
    backbone = load_backbone(before.card.backbone_settings, lm_head=before.card.language)
    check_same_backbone(before.card.backbone, backbone.id, str(before.folder))
    model, card = build_edited_mixture(before, after, backbone)
    if after.card.routed != before.card.routed:
        _fit_threshold(model, run, target)
    if run is not None:
        added = after.new_expert if after.new_expert not in before.card.routed else None
        scope = None if added is None else _new_expert_scope(before, model, added, run)
        earlier = {} if added is None else after.earlier
        return _adapt(before, model, card, run, target, full_domains, scope=scope, earlier=earlier)
    card = card.model_copy(update={"stage": stage, "steps": 0, "start": None, "metrics": {}, "routing": None})
    config = (before.folder / CONFIG).read_text(encoding="utf-8")
    write_mixture(target.out, model, card, config=config, metrics={}, overwrite=target.overwrite, earlier=after.earlier)
    return None


def _fit_threshold(model: Mixture, run: RunSettings | None, target: UpdateTarget) -> None:
    """Fit the threshold of unfamiliar texts again, which depends on all experts; without a run, say that there is none.

    A mixture that has its earlier router back has the threshold of then.
    """
    prior = None if model.gate is None else model.gate.prior
    if prior is None or prior.prototypes is None or float(prior.prototypes.threshold) != NEVER:
        return
    if run is not None:
        fit_threshold(_workspace(run, target), model)
    else:
        info("no text is marked as unfamiliar until the threshold is fitted again; training with --config fits it")


def _workspace(run: RunSettings, target: UpdateTarget) -> Workspace:
    return Workspace(run, target.out.parent, target.data_dir)


def _new_expert_scope(before: StoredMixture, model: Mixture, added: str, run: RunSettings) -> NewExpertScope:
    """What is trained when an expert joins: its own heads, or of a single set of heads those that no old task uses."""
    experts = (added,) if run.stages.adapt_router == "new_expert" else None
    heads: tuple[str, ...] = ()
    if run.stages.adapt_heads and isinstance(model.heads, MixedHeads):
        heads = (f"experts.{added}.",)
    elif run.stages.adapt_heads and isinstance(model.heads, Heads):
        old_tasks = LabelSpace.from_domains(list(before.domains.values())).tasks
        used = {model.labels.head_by_task.get(task) for task in old_tasks}
        heads = tuple(f"classes.{head_key(name)}." for name in model.labels.heads if name not in used)
        heads += () if before.card.polarity else ("polarity.",)
    return NewExpertScope(heads, experts)


def _restrict_run(run: RunSettings, card: MixtureCard) -> RunSettings:
    """Return the run restricted to the mixture's domains, with the mixture's settings.

    Raises:
        Fault: if a domain is missing, or its labels differ.
    """
    if (run.language is not None) != card.language:
        kinds = ("labelled rows", "a language model's text")
        raise Fault(
            f"a config of {kinds[card.language]}, on which the mixture was trained",
            f"one of {kinds[not card.language]}",
            "use another config",
        )
    domains = {domain.name: domain for domain in card.domains}
    if missing := [name for name in domains if name not in run.domains]:
        raise Fault(
            f"the mixture's domains {', '.join(domains)} in the config, to train on their rows",
            f"no {missing[0]}",
            "add it to the config",
        )
    for declared in run.domain_list():
        if declared.name in domains and not card.language:
            own_domain = domains[declared.name].to_domain()
            check_same_labels(own_domain, declared, "the config")
    own = {"backbone": card.backbone_settings, "template": card.template, "heads": card.heads, "gate": card.gate}
    return run.model_copy(update=own | {"domains": {name: run.domains[name] for name in domains}})


def _adapt(
    before: StoredMixture,
    model: Mixture,
    card: MixtureCard,
    run: RunSettings,
    target: UpdateTarget,
    full_domains: Sequence[str],
    *,
    scope: NewExpertScope | None,
    earlier: Mapping[str, EarlierRouter],
) -> Adaptation:
    work = _workspace(run, target)
    data = _adaptation_data(work, model, full_domains)
    result = train_and_save(
        work,
        ADAPT,
        model,
        card,
        data,
        target.out.name,
        target.overwrite,
        target.resume,
        scope=scope,
        earlier=earlier,
    )
    return Adaptation(result.steps, _figures(before.card.metrics, result.best, card))


def _adaptation_data(work: Workspace, model: Mixture, full_domains: Sequence[str]) -> TrainingData:
    names, limit, seed = [domain.name for domain in model.domains], work.run.stages.replay, work.run.seed
    if work.run.language is not None:
        data = LMCorpora(work, model).routed_data()
        return replace(data, rows=_subsample(data.rows, full_domains, limit, seed))
    rows = _subsample(work.rows("train", names), full_domains, limit, seed)
    return labelled_data(work, model, rows, work.rows("validation", names))


def _subsample(rows: Dataset, full_domains: Sequence[str], limit: int, seed: int) -> Dataset:
    sample = subsample_per_domain(rows, limit, seed, full_domains)
    info(f"{len(sample)} training rows, at most {limit} of each {'other ' if full_domains else ''}domain")
    return sample


def _figures(before: Mapping[str, float], after: Mapping[str, float], card: MixtureCard) -> dict[str, MetricChange]:
    """Return validation metrics before and after, by task, or by domain of a language model."""
    if card.language:
        keys = {domain.name: f"{PERPLEXITY.name}_{domain.name}" for domain in card.domains}
    else:
        metrics = {task: CCC if kind == SCORE else MACRO_F1 for d in card.domains for task, kind in d.kinds.items()}
        keys = {task: f"{task}_{metrics.get(task, MACRO_F1).name}" for d in card.domains for task in d.tasks}
    return {name: MetricChange(before.get(key), after[key]) for name, key in keys.items() if key in after}

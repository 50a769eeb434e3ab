"""The list of a mixture's experts (`moe expert list`), and the summaries of `moe expert add`, `remove` and `swap`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from experts.expert_io import ExpertFolder
from experts.json_io import INLINE, OMIT_NONE
from moe.checkpoints.mixture_card import DomainCard, MixtureCard
from moe.console import Table
from moe.merging.edit import read_stored_mixture

MAX_LOSS = 0.005
"""Macro-F1 that an existing domain may lose on validation rows without a warning."""


@dataclass(frozen=True)
class ListedExpert:
    """An expert of a mixture.

    Args:
        name: of the expert.
        domain: its domain; None for a shared one.
        role: its role; None for a shared one.
        always_on: whether it is shared, so that the router does not decide on it.
        rank: smallest and largest rank over its layers.
        weights: number of weights.
        trained: how it was trained, in words.
        seed: of its training; None if unknown.
        steps: optimizer steps of its own training; None if unknown.
        sha256: of its weights.
        tasks: labels by task of its domain.
    """

    name: str
    domain: str | None
    role: str | None
    always_on: bool
    rank: tuple[int, int]
    weights: int
    trained: str
    seed: int | None
    steps: int | None
    sha256: str
    tasks: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class ExpertList:
    """The experts of a mixture.

    Args:
        model: folder of the mixture.
        stage: in which it was trained or changed last.
        backbone: its name.
        experts: the routed ones, then the shared ones.
    """

    model: str
    stage: str
    backbone: str
    experts: Sequence[ListedExpert]


@dataclass(frozen=True)
class MetricChange:
    """A validation metric of a task, or of a domain of a language model.

    Args:
        before: in the old mixture; None if it is unknown.
        after: in the new mixture.
    """

    before: float | None
    after: float


@dataclass(frozen=True)
class Adaptation:
    """Training of router and heads after a change.

    Args:
        steps: optimizer steps.
        figures: macro-F1 by task, or perplexity by domain of a language model.
    """

    steps: int
    figures: Mapping[str, MetricChange]


@dataclass(frozen=True, kw_only=True)
class ExpertChange:
    """An expert that was added, removed or swapped.

    Args:
        model: folder of the new mixture.
        expert: name of the expert.
        domain: of the expert.
        tasks_gone: tasks without an expert, after a removal.
        answered_by: remaining experts of the domain, after a removal.
        old: SHA-256 of the old adapter, after a swap.
        new: SHA-256 of the new adapter, after a swap.
        adaptation: training that followed; None if no weight was trained.
    """

    model: str
    expert: str
    domain: str
    tasks_gone: Sequence[str] | None = field(default=None, metadata=OMIT_NONE)
    answered_by: Sequence[str] | None = field(default=None, metadata=OMIT_NONE)
    old: str | None = field(default=None, metadata=OMIT_NONE)
    new: str | None = field(default=None, metadata=OMIT_NONE)
    adaptation: Adaptation | None = field(default=None, metadata=INLINE)


def list_experts(folder: Path) -> ExpertList:
    """List the experts of a mixture, without loading the backbone.

    Raises:
        Fault: if the folder is missing, broken or not a mixture.
    """
    mixture = read_stored_mixture(folder)
    card = mixture.card
    return ExpertList(
        model=str(folder),
        stage=card.stage,
        backbone=card.backbone.name,
        experts=[_listed(card, mixture.experts[name]) for name in (*card.routed, *card.shared)],
    )


def _listed(card: MixtureCard, expert: ExpertFolder) -> ListedExpert:
    name, origin = expert.name, card.origins.get(expert.name)
    domain: DomainCard | None = next((domain for domain in card.domains if name in domain.experts), None)
    ranks = [spec.rank for spec in card.layers[name].values()]
    return ListedExpert(
        name=name,
        domain=None if domain is None else domain.name,
        role=None if domain is None else domain.to_domain().group,
        always_on=name in card.shared,
        rank=(min(ranks), max(ranks)),
        weights=sum(tensor.numel() for tensor in expert.weights.values()),
        trained=_trained(card, expert),
        seed=None if origin is None else origin.seed,
        steps=None if origin is None else origin.steps,
        sha256=expert.digest,
        tasks={} if domain is None else {task: list(labels) for task, labels in domain.tasks.items()},
    )


def _trained(card: MixtureCard, expert: ExpertFolder) -> str:
    origin = card.origins.get(expert.name)
    if origin is None:
        return "not in the card"
    alone = "elsewhere" if origin.steps is None else f"{origin.steps:,} steps alone"
    return alone if origin.sha256 == expert.digest else f"{alone}, then in the mixture"


def experts_table(listed: ExpertList) -> RenderableType:
    """Format the experts of a mixture as a table."""
    title = f"{listed.model}: {listed.stage} on {listed.backbone}"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("expert", "domain", "role", "rank", "weights", "trained", "sha256", "tasks"):
        table.add_column(name, justify="right" if name in ("rank", "weights") else "left")
    for expert in listed.experts:
        least, most = expert.rank
        table.add_row(
            expert.name,
            "all, always on" if expert.always_on else expert.domain,
            expert.role or "",
            str(most) if least == most else f"{least} to {most}",
            f"{expert.weights:,}",
            expert.trained,
            expert.sha256[:12],
            "\n".join(f"{task}: {', '.join(labels) or 'a score'}" for task, labels in expert.tasks.items()),
        )
    return table


def change_summary(change: ExpertChange) -> RenderableType:
    """Format the result of `moe expert add`, `remove` or `swap`."""
    lines = [Text(f"written to {change.model}")]
    if change.tasks_gone:
        lines.append(Text(f"tasks without an expert now: {', '.join(change.tasks_gone)}"))
    if change.answered_by:
        lines.append(Text(f"remaining experts of {change.domain}: {', '.join(change.answered_by)}"))
    if change.old and change.new:
        lines.append(Text(f"{change.expert}: {change.old[:12]} → {change.new[:12]}"))
    if change.adaptation is None or not change.adaptation.figures:
        return Group(*lines, Text("no weight was trained"))
    figures = change.adaptation.figures
    warnings = [Text(warning) for warning in regression_warnings(figures)]
    return Group(_figures_table(figures), *warnings, *lines)


def _figures_table(figures: Mapping[str, MetricChange]) -> Table:
    table = Table(title="validation, before and after", title_justify="left", header_style="bold")
    for name in ("", "before", "after", "difference"):
        table.add_column(name, justify="right" if name else "left")
    for name, figure in figures.items():
        if figure.before is None:
            table.add_row(name, "–", f"{figure.after:.3f}", "new")
        else:
            difference = figure.after - figure.before
            table.add_row(name, f"{figure.before:.3f}", f"{figure.after:.3f}", f"{difference:+.3f}")
    return table


def regression_warnings(figures: Mapping[str, MetricChange]) -> list[str]:
    """Return warnings: no figures from before, or an existing task that lost more than half a point of macro-F1."""
    differences = {name: figure.after - figure.before for name, figure in figures.items() if figure.before is not None}
    if not differences:
        return ["the old mixture's card has no validation figures to compare with: use moe compare"]
    lost = [f"{name} {100 * difference:+.1f}" for name, difference in differences.items() if difference < -MAX_LOSS]
    return [f"lost more than half a point on validation rows: {', '.join(lost)}"] if lost else []

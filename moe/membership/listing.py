"""The list of a mixture's experts (`moe expert list`), and the summaries of `moe expert add`, `remove` and `swap`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from experts.expert_io import ExpertFolder
from moe.checkpoints.mixture_card import DomainCard, MixtureCard
from moe.console import Table
from moe.merging.edit import read_stored_mixture

MAX_LOSS = 0.005
"""Macro-F1 that an existing domain may lose on validation rows without a warning."""


def list_experts(folder: Path) -> dict[str, Any]:
    """List the experts of a mixture, without loading the backbone.

    Returns:
        `model`, `stage`, `backbone`, and `experts`: `name`, `domain` (None for the shared one), `role`,
        `always_on`, `rank` (minimum and maximum over its layers), `weights` (their number), `trained` (in words),
        `seed`, `steps`, `sha256`, `tasks`.

    Raises:
        Fault: if the folder is missing, broken or not a mixture.
    """
    mixture = read_stored_mixture(folder)
    card = mixture.card
    return {
        "model": str(folder),
        "stage": card.stage,
        "backbone": card.backbone.name,
        "experts": [_expert_row(card, mixture.experts[name]) for name in (*card.routed, *card.shared)],
    }


def _expert_row(card: MixtureCard, expert: ExpertFolder) -> dict[str, Any]:
    name, origin = expert.name, card.origins.get(expert.name)
    domain: DomainCard | None = next((domain for domain in card.domains if name in domain.experts), None)
    ranks = [spec.rank for spec in card.layers[name].values()]
    return {
        "name": name,
        "domain": domain and domain.name,
        "role": domain and domain.to_domain().group,
        "always_on": name in card.shared,
        "rank": [min(ranks), max(ranks)],
        "weights": sum(tensor.numel() for tensor in expert.weights.values()),
        "trained": _trained(card, expert),
        "seed": origin and origin.seed,
        "steps": origin and origin.steps,
        "sha256": expert.digest,
        "tasks": {} if domain is None else {task: list(labels) for task, labels in domain.tasks.items()},
    }


def _trained(card: MixtureCard, expert: ExpertFolder) -> str:
    origin = card.origins.get(expert.name)
    if origin is None:
        return "not in the card"
    alone = "elsewhere" if origin.steps is None else f"{origin.steps:,} steps alone"
    return alone if origin.sha256 == expert.digest else f"{alone}, then in the mixture"


def experts_table(report: Mapping[str, Any]) -> RenderableType:
    """Format the report of `list_experts` as a table."""
    title = f"{report['model']}: {report['stage']} on {report['backbone']}"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("expert", "domain", "role", "rank", "weights", "trained", "sha256", "tasks"):
        table.add_column(name, justify="right" if name in ("rank", "weights") else "left")
    for expert in report["experts"]:
        least, most = expert["rank"]
        table.add_row(
            expert["name"],
            "all, always on" if expert["always_on"] else expert["domain"],
            expert["role"] or "",
            str(most) if least == most else f"{least} to {most}",
            f"{expert['weights']:,}",
            expert["trained"],
            expert["sha256"][:12],
            "\n".join(f"{task}: {', '.join(labels)}" for task, labels in expert["tasks"].items()),
        )
    return table


def change_summary(report: Mapping[str, Any]) -> RenderableType:
    """Format the report of `moe expert add`, `remove` or `swap`."""
    lines = [Text(f"written to {report['model']}")]
    if report.get("tasks_gone"):
        lines.append(Text(f"tasks without an expert now: {', '.join(report['tasks_gone'])}"))
    if report.get("answered_by"):
        lines.append(Text(f"remaining experts of {report['domain']}: {', '.join(report['answered_by'])}"))
    if "new" in report:
        lines.append(Text(f"{report['expert']}: {report['old'][:12]} → {report['new'][:12]}"))
    if not report.get("figures"):
        return Group(*lines, Text("no weight was trained"))
    warnings = [Text(warning) for warning in regression_warnings(report["figures"])]
    return Group(_figures_table(report["figures"]), *warnings, *lines)


def _figures_table(figures: Mapping[str, Mapping[str, float | None]]) -> Table:
    table = Table(title="validation, before and after", title_justify="left", header_style="bold")
    for name in ("", "before", "after", "difference"):
        table.add_column(name, justify="right" if name else "left")
    for name, figure in figures.items():
        before, after = figure["before"], figure["after"]
        assert after is not None
        if before is None:
            table.add_row(name, "–", f"{after:.3f}", "new")
        else:
            table.add_row(name, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}")
    return table


def regression_warnings(figures: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Return warnings: no figures from before, or an existing task that lost more than half a point of macro-F1."""
    differences = {}
    for name, figure in figures.items():
        before, after = figure["before"], figure["after"]
        if before is not None and after is not None:
            differences[name] = after - before
    if not differences:
        return ["the old mixture's card has no validation figures to compare with: use moe compare"]
    lost = [f"{name} {100 * difference:+.1f}" for name, difference in differences.items() if difference < -MAX_LOSS]
    return [f"lost more than half a point on validation rows: {', '.join(lost)}"] if lost else []

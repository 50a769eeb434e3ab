"""Who is in a mixture, as `moe expert list` shows it, and what the other `moe expert` commands say they did.

Changing a mixture is `moe.membership.update`'s.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from experts.expert_io import ExpertFolder
from moe.checkpoints.mixture_card import DomainCard, MixtureCard
from moe.console import Table
from moe.merging.edit import read_stored_mixture

MOST = 0.005
"""How much macro-F1 an old domain may lose on validation rows before it is said aloud."""


def list_experts(folder: Path) -> dict[str, Any]:
    """Every expert of a mixture; no weight of a backbone is loaded.

    Returns:
        `model`, `stage`, `backbone`, and `experts`: `name`, `domain` (None of the shared one), `role`, `always_on`,
        `rank` (of its layers, least and most), `weights`, `trained` (in words), `seed`, `steps`, `sha256`, `tasks`.

    Raises:
        Fault: when the folder is missing, broken or no mixture.
    """
    found = read_stored_mixture(folder)
    card = found.card
    return {
        "model": str(folder),
        "stage": card.stage,
        "backbone": card.backbone.name,
        "experts": [_one(card, found.experts[name]) for name in (*card.routed, *card.shared)],
    }


def _one(card: MixtureCard, expert: ExpertFolder) -> dict[str, Any]:
    name, origin = expert.name, card.origins.get(expert.name)
    owner: DomainCard | None = next((one for one in card.domains if name in one.experts), None)
    ranks = [touch.rank for touch in card.layers[name].values()]
    return {
        "name": name,
        "domain": owner and owner.name,
        "role": owner and owner.to_domain().group,
        "always_on": name in card.shared,
        "rank": [min(ranks), max(ranks)],
        "weights": sum(tensor.numel() for tensor in expert.weights.values()),
        "trained": _trained(card, expert),
        "seed": origin and origin.seed,
        "steps": origin and origin.steps,
        "sha256": expert.digest,
        "tasks": {} if owner is None else {task: list(labels) for task, labels in owner.tasks.items()},
    }


def _trained(card: MixtureCard, expert: ExpertFolder) -> str:
    origin = card.origins.get(expert.name)
    if origin is None:
        return "not told by the card"
    alone = "elsewhere" if origin.steps is None else f"{origin.steps:,} steps alone"
    return alone if origin.sha256 == expert.digest else f"{alone}, then with the others"


def experts_table(found: Mapping[str, Any]) -> RenderableType:
    """The table of `moe expert list`."""
    title = f"{found['model']}: {found['stage']} over {found['backbone']}"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("expert", "domain", "role", "rank", "weights", "trained", "sha256", "tasks"):
        table.add_column(name, justify="right" if name in ("rank", "weights") else "left")
    for one in found["experts"]:
        least, most = one["rank"]
        table.add_row(
            one["name"],
            "all, always on" if one["always_on"] else one["domain"],
            one["role"] or "",
            str(most) if least == most else f"{least} to {most}",
            f"{one['weights']:,}",
            one["trained"],
            one["sha256"][:12],
            "\n".join(f"{task}: {', '.join(labels)}" for task, labels in one["tasks"].items()),
        )
    return table


def change_summary(told: Mapping[str, Any]) -> RenderableType:
    """What `moe expert add`, `remove` and `swap` did."""
    lines = [Text(f"written to {told['model']}")]
    if told.get("tasks_gone"):
        lines.append(Text(f"no longer answered: {', '.join(told['tasks_gone'])}"))
    if told.get("answered_by"):
        lines.append(Text(f"{told['domain']} is answered by {', '.join(told['answered_by'])}"))
    if "new" in told:
        lines.append(Text(f"{told['expert']}: {told['old'][:12]} → {told['new'][:12]}"))
    if not told.get("figures"):
        return Group(*lines, Text("no weight was trained"))
    return Group(_figures(told["figures"]), *[Text(one) for one in regression_warnings(told["figures"])], *lines)


def _figures(figures: Mapping[str, Mapping[str, float | None]]) -> Table:
    table = Table(title="validation, before and after", title_justify="left", header_style="bold")
    for name in ("", "before", "after", "difference"):
        table.add_column(name, justify="right" if name else "left")
    for name, one in figures.items():
        before, after = one["before"], one["after"]
        assert after is not None
        cells = ("–", f"{after:.3f}", "new") if before is None else _pair(before, after)
        table.add_row(name, *cells)
    return table


def _pair(before: float, after: float) -> Sequence[str]:
    return f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"


def regression_warnings(figures: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """What a person should look at: no figures before, or an old task that lost more than half a point of macro-F1."""
    old = {name: one["after"] - one["before"] for name, one in figures.items() if one["before"] is not None}  # type: ignore[operator]
    if not old:
        return ["the old mixture's card has no validation figures to compare with: moe compare tells"]
    lost = [f"{name} {100 * less:+.1f}" for name, less in old.items() if less < -MOST]
    return [f"lost more than half a point on validation rows: {', '.join(lost)}"] if lost else []

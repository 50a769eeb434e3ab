"""The estimated cost of a run as tables for the terminal: time and memory of each stage, and what shortens the run."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from moe.console import Table, format_duration
from moe.plan.cost_estimate import CostEstimate
from moe.plan.measured_cost import StageEstimate

_PARTS = ("program", "weights", "gradients", "optimizer", "activations", "cache")


def cost_view(estimate: CostEstimate) -> RenderableType:
    """Tables of estimates, as `moe plan` prints them."""
    stages, evaluation = estimate.stages, estimate.evaluation
    time = Table(title=f"estimated time on {estimate.machine}", title_justify="left", header_style="bold")
    time.add_column("stage")
    for name in ("trainable parameters", "steps", "s/step", "evaluations", "time"):
        time.add_column(name, justify="right")
    for stage in stages:
        time.add_row(*_time_cells(stage))
    if evaluation.rows:
        title = f"evaluation of {evaluation.models} models on {evaluation.rows:,} test rows"
        time.add_row(title, "", "", "", "", format_duration(evaluation.seconds))
    memory = Table(title="estimated memory, MiB", title_justify="left", header_style="bold")
    memory.add_column("stage")
    for name in ("peak", *_PARTS):
        memory.add_column(name, justify="right")
    for stage in stages:
        memory.add_row(*_memory_cells(stage))
    early = any(stage.at_most for stage in stages)
    peak = "" if estimate.peak_mib is None else f", at most {estimate.peak_mib:,.0f} MiB"
    total = f"total {'at most ' if early else ''}{format_duration(estimate.seconds)}{peak}"
    lines = [Text(f"{total}; patience may end a stage sooner" if early else total)]
    scaled = [stage.name for stage in stages if stage.measured != stage.name]
    if scaled:
        lines.append(Text(f"not measured, but scaled by tokens from stages with the same losses: {', '.join(scaled)}"))
    if estimate.cache_trunk:
        lines.append(Text("steps measured without the trunk cache (stages.cache_trunk); its saving is computed"))
    lines += map(Text, estimate.texts)
    return Group(time, memory, *lines, *_saving_lines(estimate))


def _saving_lines(estimate: CostEstimate) -> list[Text]:
    """One line for each change of settings that would make the run shorter."""
    if not estimate.savings:
        return []
    now = format_duration(estimate.seconds)
    lines = [
        f"  {saving.change} → about {format_duration(saving.seconds)} instead of {now}"
        + (f" ({saving.note})" if saving.note else "")
        for saving in estimate.savings
    ]
    return [Text("what makes it shorter:", style="bold"), *map(Text, lines)]


def _title(stage: StageEstimate) -> str:
    return stage.name if stage.stage in stage.name else f"{stage.stage} {stage.name}"


def _time_cells(stage: StageEstimate) -> Sequence[str]:
    return [
        _title(stage),
        f"{stage.learned:,} ({stage.learned / stage.weights:.1%})",
        f"{stage.steps:,}",
        f"{stage.seconds_per_step:.2f}",
        str(stage.evaluations),
        ("at most " if stage.at_most else "") + format_duration(stage.seconds),
    ]


def _memory_cells(stage: StageEstimate) -> Sequence[str]:
    memory = stage.memory
    return [
        _title(stage),
        "–" if stage.peak_mib is None else f"{stage.peak_mib:,.0f}",
        *[f"{memory[part]:,.0f}" if part in memory else "–" for part in _PARTS],
    ]

"""Results of `moe data augment`: counts of rows and sample prompts, and their output in the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from experts.json_io import OMIT_NONE
from moe.augment.prompts import Message
from moe.console import Table


@dataclass(frozen=True)
class AugmentCounts:
    """Rows of one task.

    Args:
        domain: of the task.
        task: its name.
        rows: training rows.
        wanted: requested variants by origin.
        kept: retained variants by origin; None before they are requested, as the next two.
        dropped: dropped variants by reason.
        file: of the retained variants.
    """

    domain: str
    task: str
    rows: int
    wanted: Mapping[str, int]
    kept: Mapping[str, int] | None = field(default=None, metadata=OMIT_NONE)
    dropped: Mapping[str, int] | None = field(default=None, metadata=OMIT_NONE)
    file: str | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True)
class SamplePrompt:
    """A prompt that would be sent.

    Args:
        id: of the source row.
        origin: kind of the requested variant.
        messages: the prompt.
    """

    id: str
    origin: str
    messages: Sequence[Message]


@dataclass(frozen=True)
class AugmentPreview:
    """What an augmentation would request.

    Args:
        tasks: counts of each task.
        prompts: a few of the prompts.
    """

    tasks: Sequence[AugmentCounts]
    prompts: Sequence[SamplePrompt]


@dataclass(frozen=True)
class Augmentation:
    """Result of an augmentation.

    Args:
        model: name of the model that wrote the variants.
        tasks: counts of each task.
    """

    model: str
    tasks: Sequence[AugmentCounts]


def augment_view(report: AugmentPreview | Augmentation) -> RenderableType:
    """Output of `moe data augment`: a table of counts, with the prompts of a dry run below."""
    table = Table(header_style="bold")
    for name in ("domain", "task", "training rows", "requested", "retained"):
        table.add_column(name, justify="left" if name in ("domain", "task", "requested") else "right")
    table.add_column("dropped")
    for task in report.tasks:
        requested = ", ".join(f"{count} {kind}" for kind, count in task.wanted.items())
        retained = "–" if task.kept is None else str(sum(task.kept.values()))
        dropped = "\n".join(f"{count} {reason}" for reason, count in (task.dropped or {}).items()) or "–"
        table.add_row(task.domain, task.task, str(task.rows), requested, retained, dropped)
    prompts = report.prompts if isinstance(report, AugmentPreview) else ()
    return Group(table, *map(_prompt_view, prompts))


def _prompt_view(prompt: SamplePrompt) -> RenderableType:
    messages = "\n".join(f"[dim]{message['role']}:[/dim] {escape(message['content'])}" for message in prompt.messages)
    return Text.from_markup(f"\n[bold]{escape(prompt.id)}, {prompt.origin}[/bold]\n{messages}")

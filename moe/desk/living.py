"""Commands to live with a mixture: who is in it, an expert that joins, leaves or is replaced; drift.

Imports of ours stand inside the commands, so that help answers at once; the work lies in `moe.joining` and `moe.drift`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.desk.options import ConfigOption, JsonOption, ResumeOption, SetOption, show

if TYPE_CHECKING:
    from moe.config import RunSettings

app = typer.Typer()
expert_app = typer.Typer(help="Change who is in a trained mixture.", no_args_is_help=True)
app.add_typer(expert_app, name="expert")

MixtureArgument = Annotated[Path, typer.Argument(help="A mixture's folder; it is not changed.", show_default=False)]
NameArgument = Annotated[str, typer.Argument(help="The expert, as `moe expert list` calls it.", show_default=False)]
ExpertArgument = Annotated[Path, typer.Argument(help="The expert's folder.", show_default=False)]
ChangedOption = Annotated[Path, typer.Option("--out", "-o", help="The new mixture's folder.", show_default=False)]
AgainOption = Annotated[bool, typer.Option("--overwrite", help="Write over a folder that is there.")]
AdaptOption = Annotated[bool, typer.Option("--adapt", help="Adapt router and heads to the rows of --config.")]


@expert_app.command("list")
def list_(
    model: Annotated[Path, typer.Argument(help="A mixture's folder.", show_default=False)],
    json_: JsonOption = False,
) -> None:
    """Show a mixture's experts: domain, role, rank, how they were trained, hash, tasks and labels."""
    from moe.roster import roster, roster_view

    show(roster(model), roster_view, json_)


@expert_app.command("add")
def add_(
    model: MixtureArgument,
    expert: ExpertArgument,
    out: ChangedOption,
    config: ConfigOption = None,
    sets: SetOption = None,
    overwrite: AgainOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Have a new expert join: all experts frozen, router and heads adapted on its rows and a sample of the others'."""
    from moe.config import load_run
    from moe.joining import Target, add
    from moe.roster import changed_view

    show(add(model, expert, load_run(config, sets or ()), Target(out, overwrite, resume)), changed_view, json_)


@expert_app.command("remove")
def remove_(
    model: MixtureArgument,
    name: NameArgument,
    out: ChangedOption,
    adapt: AdaptOption = False,
    config: ConfigOption = None,
    sets: SetOption = None,
    overwrite: AgainOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Take an expert out; the gates of the others share its part, and no weight is trained unless asked."""
    from moe.joining import Target, remove
    from moe.roster import changed_view

    run = _run_to_adapt_to(adapt, config, sets)
    show(remove(model, name, Target(out, overwrite, resume), run), changed_view, json_)


@expert_app.command("swap")
def swap_(
    model: MixtureArgument,
    name: NameArgument,
    expert: ExpertArgument,
    out: ChangedOption,
    adapt: AdaptOption = False,
    config: ConfigOption = None,
    sets: SetOption = None,
    overwrite: AgainOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Put a newer expert of the same domain in another's place; the router stays; nothing is trained unless asked."""
    from moe.joining import Target, swap
    from moe.roster import changed_view

    run = _run_to_adapt_to(adapt, config, sets)
    show(swap(model, name, expert, Target(out, overwrite, resume), run), changed_view, json_)


def _run_to_adapt_to(adapt: bool, config: Path | None, sets: list[str] | None) -> "RunSettings | None":
    from moe.config import load_run
    from moe.errors import Fault

    if not adapt and (config is not None or sets):
        raise Fault("--adapt, which alone reads --config and --set", "none", "add --adapt, or leave them out")
    return load_run(config, sets or ()) if adapt else None

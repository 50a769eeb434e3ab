"""Commands to live with a mixture: who is in it, an expert that joins, leaves or is replaced; drift.

Imports of ours stand inside the commands, so that help answers at once; the work lies in `moe.membership.update` and
`moe.drift.drift`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.commands.options import (
    ConfigOption,
    JsonOption,
    ModelArgument,
    OutOption,
    ResumeOption,
    SetOption,
    examples,
    resolve_model,
    print_view,
    open_workspace,
)

if TYPE_CHECKING:
    from moe.config.run import RunSettings

app = typer.Typer()
expert_app = typer.Typer(help="Change who is in a trained mixture.", no_args_is_help=True)
app.add_typer(expert_app, name="expert")

MixtureArgument = Annotated[
    Path, typer.Argument(help="A mixture's or a run's folder; it is not changed.", show_default=False, callback=resolve_model)
]
NameArgument = Annotated[str, typer.Argument(help="The expert, as `moe expert list` calls it.", show_default=False)]
ExpertArgument = Annotated[Path, typer.Argument(help="The expert's folder.", show_default=False)]
ChangedOption = Annotated[Path, typer.Option("--out", "-o", help="The new mixture's folder.", show_default=False)]
AgainOption = Annotated[bool, typer.Option("--overwrite", help="Write over a folder that is there.")]
AdaptOption = Annotated[bool, typer.Option("--adapt", help="Adapt router and heads to the rows of --config.")]


@expert_app.command("list", epilog=examples("moe expert list runs/demo/router-warmup"))
def list_(
    model: MixtureArgument,
    json_: JsonOption = False,
) -> None:
    """Show a mixture's experts: domain, role, rank, how they were trained, hash, tasks and labels."""
    from moe.membership.listing import list_experts, experts_table

    print_view(list_experts(model), experts_table, json_)


@expert_app.command(
    "add",
    epilog=examples(
        "moe expert add runs/demo/router-warmup runs/mine/experts/crypto -c configs/mine.yaml --out runs/three"
    ),
)
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
    from moe.config.run import load_run
    from moe.membership.listing import changed_view
    from moe.membership.update import UpdateTarget, add

    print_view(add(model, expert, load_run(config, sets or ()), UpdateTarget(out, overwrite, resume)), changed_view, json_)


@expert_app.command(
    "remove", epilog=examples("moe expert remove runs/demo/router-warmup forum --out runs/without-forum")
)
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
    from moe.membership.listing import changed_view
    from moe.membership.update import UpdateTarget, remove

    run = _run_to_adapt_to(adapt, config, sets)
    print_view(remove(model, name, UpdateTarget(out, overwrite, resume), run), changed_view, json_)


@expert_app.command(
    "swap", epilog=examples("moe expert swap runs/demo/router-warmup news runs/newer/experts/news --out runs/swapped")
)
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
    from moe.membership.listing import changed_view
    from moe.membership.update import UpdateTarget, swap

    run = _run_to_adapt_to(adapt, config, sets)
    print_view(swap(model, name, expert, UpdateTarget(out, overwrite, resume), run), changed_view, json_)


def _run_to_adapt_to(adapt: bool, config: Path | None, sets: list[str] | None) -> "RunSettings | None":
    from moe.config.run import load_run
    from moe.errors import Fault

    if not adapt and (config is not None or sets):
        raise Fault("--adapt, which alone reads --config and --set", "none", "add --adapt, or leave them out")
    return load_run(config, sets or ()) if adapt else None


@app.command("drift", epilog=examples("moe drift runs/demo --fit", "moe drift runs/demo posts.csv --date-column date"))
def drift_(
    model: ModelArgument,
    file: Annotated[
        Path | None, typer.Argument(help="csv, jsonl, parquet, txt or a datasets folder.", show_default=False)
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="First fit the model's reference to the run's training and validation rows.")
    ] = False,
    domain: Annotated[
        str | None, typer.Option("--domain", "-d", help="Compare with this domain's validation rows alone.")
    ] = None,
    text_column: Annotated[str, typer.Option("--text-column", help="The file's text column.")] = "text",
    date_column: Annotated[
        str | None, typer.Option("--date-column", help="Its column of dates; `date` by default, where there is one.")
    ] = None,
    date_format: Annotated[
        str | None, typer.Option("--date-format", help="How dates are written, e.g. %d.%m.%Y; ISO 8601 by default.")
    ] = None,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Tell whether a file is unlike the training data, by month too: experts' shares, confidence, distance."""
    from moe.drift.drift import drift, drift_view
    from moe.drift.fit import fit_reference, reference_view
    from moe.drift.timeline import DriftRequest
    from moe.errors import Fault

    if file is None and not fit:
        raise Fault("a file to look at, or --fit", "neither", f"name a file, or say moe drift {model} --fit")
    work = open_workspace(config, out, sets)
    fitted = fit_reference(work, model, sets or (), quiet=False) if fit else {}
    if file is None:
        print_view(fitted, reference_view, json_)
        return
    asked = DriftRequest(file, text_column, date_column, date_format, domain)
    target = work.out / "evaluation" / model.name / f"drift-{file.stem}"
    print_view(drift(model, asked, target, sets or (), quiet=False), drift_view, json_)

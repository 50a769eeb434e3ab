"""Commands for a trained mixture: list, add, remove and swap experts; data drift."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.commands.options import (
    ConfigOption,
    EncodingOption,
    JsonOption,
    ModelArgument,
    OverwriteFolderOption,
    RenamedOptions,
    ResumeOption,
    RunOption,
    SeparatorOption,
    SetOption,
    TextColumnOption,
    examples,
    open_workspace,
    print_view,
)

if TYPE_CHECKING:
    from moe.config.run import RunSettings

app = typer.Typer()
expert_app = typer.Typer(help="List, add, remove or swap the experts of a trained mixture.", no_args_is_help=True)
app.add_typer(expert_app, name="expert")

MixtureArgument = Annotated[Path, typer.Argument(help="Mixture or run folder; it is not modified.", show_default=False)]
ExpertNameArgument = Annotated[
    str, typer.Argument(help="Name of the expert, see `moe expert list`.", show_default=False)
]
ExpertFolderArgument = Annotated[Path, typer.Argument(help="Folder of the new expert.", show_default=False)]
NewMixtureOption = Annotated[
    Path, typer.Option("--out-dir", "-o", help="Folder of the new mixture.", show_default=False)
]
AdaptOption = Annotated[bool, typer.Option("--adapt", help="Also train router and heads on the rows of --config.")]


@expert_app.command("list", epilog=examples("moe expert list runs/demo/router-warmup"))
def list_(
    model: MixtureArgument,
    json_: JsonOption = False,
) -> None:
    """List the experts of a mixture: domain, role, rank, training, hash, tasks and labels."""
    from moe.membership.listing import experts_table, list_experts
    from moe.runs.model_ref import resolve

    print_view(list_experts(resolve(model).folder), experts_table, json_)


@expert_app.command(
    "add",
    cls=RenamedOptions,
    epilog=examples(
        "moe expert add runs/demo/router-warmup runs/mine/experts/crypto -c configs/mine.yaml --out-dir runs/three"
    ),
)
def add_(
    model: MixtureArgument,
    expert: ExpertFolderArgument,
    out: NewMixtureOption,
    adapt: Annotated[
        bool,
        typer.Option(
            "--adapt/--no-adapt",
            help="Train router and heads on rows of all domains. A mixture merged with `--router centroid` needs no "
            "training to find the new domain.",
        ),
    ] = True,
    config: ConfigOption = None,
    sets: SetOption = None,
    overwrite: OverwriteFolderOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Add an expert to a trained mixture; trains the router and its heads, unless `--no-adapt`."""
    from moe.membership.listing import change_summary
    from moe.membership.update import UpdateTarget, add
    from moe.runs.model_ref import resolve

    run, folder = _adaptation_run(adapt, config, sets), resolve(model).folder
    print_view(add(folder, expert, run, UpdateTarget(out, overwrite, resume)), change_summary, json_)


@expert_app.command(
    "remove",
    cls=RenamedOptions,
    epilog=examples("moe expert remove runs/demo/router-warmup forum --out-dir runs/without-forum"),
)
def remove_(
    model: MixtureArgument,
    name: ExpertNameArgument,
    out: NewMixtureOption,
    adapt: AdaptOption = False,
    config: ConfigOption = None,
    sets: SetOption = None,
    overwrite: OverwriteFolderOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Remove an expert and renormalise the other routing weights; trains only with `--adapt`."""
    from moe.membership.listing import change_summary
    from moe.membership.update import UpdateTarget, remove
    from moe.runs.model_ref import resolve

    run, folder = _adaptation_run(adapt, config, sets), resolve(model).folder
    print_view(remove(folder, name, UpdateTarget(out, overwrite, resume), run), change_summary, json_)


@expert_app.command(
    "swap",
    cls=RenamedOptions,
    epilog=examples("moe expert swap runs/demo/router-warmup news runs/newer/experts/news --out-dir runs/swapped"),
)
def swap_(
    model: MixtureArgument,
    name: ExpertNameArgument,
    expert: ExpertFolderArgument,
    out: NewMixtureOption,
    adapt: AdaptOption = False,
    config: ConfigOption = None,
    sets: SetOption = None,
    overwrite: OverwriteFolderOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Replace an expert with another of the same domain and keep the router; trains only with `--adapt`."""
    from moe.membership.listing import change_summary
    from moe.membership.update import UpdateTarget, swap
    from moe.runs.model_ref import resolve

    run, folder = _adaptation_run(adapt, config, sets), resolve(model).folder
    print_view(swap(folder, name, expert, UpdateTarget(out, overwrite, resume), run), change_summary, json_)


def _adaptation_run(adapt: bool, config: Path | None, sets: list[str] | None) -> "RunSettings | None":
    from moe.config.run import load_run
    from moe.errors import Fault

    if not adapt and (config is not None or sets):
        raise Fault(
            "--adapt together with --config or --set", "no --adapt", "add --adapt, or remove --config and --set"
        )
    return load_run(config, sets or ()) if adapt else None


@app.command(
    "drift",
    cls=RenamedOptions,
    epilog=examples("moe drift runs/demo --fit", "moe drift runs/demo posts.csv --date-column date"),
)
def drift_(
    model: ModelArgument,
    file: Annotated[
        Path | None,
        typer.Argument(help="Data file (csv, jsonl, parquet, txt) or `datasets` folder.", show_default=False),
    ] = None,
    fit: Annotated[
        bool,
        typer.Option("--fit", help="First fit the model's drift reference on the run's training and validation rows."),
    ] = False,
    domain: Annotated[
        str | None, typer.Option("--domain", "-d", help="Compare with the validation rows of this domain only.")
    ] = None,
    text_column: TextColumnOption = "text",
    date_column: Annotated[
        str | None,
        typer.Option(
            "--date-column", help="Date column of the file; default: `date`, if there is one; '' ignores dates."
        ),
    ] = None,
    date_format: Annotated[
        str | None, typer.Option("--date-format", help="Format of the dates, e.g. %d.%m.%Y; default: ISO 8601.")
    ] = None,
    encoding: EncodingOption = None,
    separator: SeparatorOption = None,
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Test a file for drift from the training data, overall and by month: routing weights, confidence, distance."""
    from moe.drift.drift import drift, drift_view
    from moe.drift.fit import fit_reference, reference_view
    from moe.errors import Fault
    from moe.inference.text_io import TextSource
    from moe.runs.layout import EVALUATION
    from moe.runs.model_ref import resolve

    if file is None and not fit:
        raise Fault("a file to test, or --fit", "neither", f"give a file, or run moe drift {model} --fit")
    work, folder = open_workspace(config, run, sets), resolve(model).folder
    reference = fit_reference(work, folder, sets or (), quiet=False) if fit else None
    if file is None:
        print_view(reference, reference_view, json_)
        return
    report = drift(
        folder,
        TextSource(file=file, text_column=text_column, encoding=encoding, separator=separator),
        work.out / EVALUATION / folder.name / f"drift-{file.stem}",
        date_column=date_column,
        date_format=date_format,
        domain=domain,
        sets=sets or (),
        quiet=False,
    )
    print_view(report, drift_view, json_)

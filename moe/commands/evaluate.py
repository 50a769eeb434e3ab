"""Commands that measure: evaluate, compare, calibrate, report, sweep, ablate.

Imports of ours stand inside the commands, so that help answers at once; figures and pictures are made elsewhere.
"""

from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    DomainOption,
    OptionalModelArgument,
    ModelArgument,
    OutOption,
    RoutingOption,
    SetOption,
    examples,
    resolve_model,
    print_view,
    open_workspace,
)

app = typer.Typer()


@app.command(
    "evaluate",
    epilog=examples(
        "moe evaluate",
        "moe evaluate runs/demo/moe-init --pin",
        "moe evaluate --data labelled.csv --domain news --routing hard",
    ),
)
def evaluate_(
    model: OptionalModelArgument = None,
    data: DataOption = None,
    domain: DomainOption = None,
    routing: RoutingOption = "soft",
    pin: Annotated[bool, typer.Option("--pin", help="Give each text to the experts of its true domain.")] = False,
    alone: Annotated[
        bool, typer.Option("--alone", help="Ask each expert alone too, for the report → alone.csv.")
    ] = False,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="A language model's questions: these tasks, comma between; else all.")
    ] = None,
    by: Annotated[
        str, typer.Option("--by", help="A language model's choices: by their likelihood, or by generation.")
    ] = "likelihood",
    most: Annotated[int | None, typer.Option("--most", min=1, help="At most so many questions of a task.")] = None,
    bare: Annotated[bool, typer.Option("--bare", help="Ask the language model alone, without experts.")] = False,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure a model: per class, per domain, routing → `evaluation/MODEL/`, with right and wrong rows."""
    from moe.errors import Fault
    from moe.evaluation.evaluate import evaluate_folder
    from moe.report.terminal import evaluation_view
    from moe.runs.best import default_model, best_model

    work = open_workspace(config, out, sets)
    if work.run.language is not None:
        if domain is not None:
            raise Fault("--tasks for a language model's questions", "--domain", "name tasks, or leave it out for all")
        if alone:
            raise Fault("a run of labels for --alone", "a run over a language model", "leave it out")
        from moe.qa.evaluate import EvalSettings, evaluate_qa_folder, qa_view

        sitting = EvalSettings(by, routing == "hard", pin)  # type: ignore[arg-type]
        names = tuple(name.strip() for name in (tasks or "").split(",") if name.strip())
        found = evaluate_qa_folder(work, model or default_model(work.out), names, data, sitting, most, bare)
        print_view(found, qa_view, json_)
        return
    if tasks or most or bare:
        raise Fault("a run over a language model for --tasks, --most, --bare", "a run of labels", "leave them out")
    report = evaluate_folder(work, model or best_model(work.out), sets or (), data, domain, routing, pin, alone)
    print_view(report, evaluation_view, json_)


@app.command(
    epilog=examples(
        "moe compare runs/demo/moe-joint runs/demo/router-warmup",
        "moe compare runs/demo/moe-joint runs/demo/experts/news --data labelled.csv --domain news --json",
    )
)
def compare(
    model_a: ModelArgument,
    model_b: ModelArgument,
    data: DataOption = None,
    domain: DomainOption = None,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Two models on the same rows: both figures, their difference with its interval, and whether it is one."""
    from moe.evaluation.compare import compare as compare_models
    from moe.evaluation.compare import comparison_view

    work = open_workspace(config, out, sets)
    report = compare_models(work, (model_a, model_b), sets or (), data, domain, quiet=False)
    print_view(report, comparison_view, json_)


@app.command("calibrate", epilog=examples("moe calibrate", "moe calibrate runs/demo/experts/news --json"))
def calibrate_(
    model: OptionalModelArgument = None,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Fit a model's temperatures and thresholds on validation rows → `calibration.json` in its folder."""
    from moe.evaluation.calibrate import calibrate, calibration_view
    from moe.runs.best import best_model

    work = open_workspace(config, out, sets)
    print_view(calibrate(work, model or best_model(work.out), sets or (), quiet=False), calibration_view, json_)


@app.command(
    "report",
    epilog=examples(
        "moe report runs/demo",
        "moe report runs/demo --against runs/constant --out report",
        "moe report runs/demo --json",
    ),
)
def report_(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    against: Annotated[
        Path | None, typer.Option("--against", help="Another run, whose curves are laid beside.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder to write to; RUN/report by default.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show what a run did and came to, from its data to its mistakes → `RUN/report/index.html`, and a model card."""
    from moe.report.html import write_report
    from moe.report.terminal import training_view

    print_view(write_report(run, against, out), training_view, json_)


@app.command(
    "sweep",
    epilog=examples(
        "moe sweep configs/dao/sweep_ranks.yaml --set data.folder=data/real",
        "moe sweep configs/demo.yaml --over lora.r=8,16,32 --over seed=13,42",
        'moe sweep configs/demo.yaml --over "lora.r,lora.alpha=[8,8],[16,16]" --set stages.joint.steps=50',
    ),
)
def sweep_(
    file: Annotated[Path, typer.Argument(help="A sweep file, or a run's config with --over.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The sweep's folder; runs/sweeps/NAME by default.", show_default=False),
    ] = None,
    sets: SetOption = None,
    over: Annotated[
        list[str] | None, typer.Option("--over", help="Sweep this setting too, e.g. lora.r=8,16,32.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Train and measure one run over many settings and seeds; goes on where it was stopped."""
    from moe.sweep.run import run_sweep
    from moe.sweep.summary import sweep_view

    print_view(run_sweep(file, out, sets or (), over or ()), sweep_view, json_)


@app.command("ablate", epilog=examples("moe ablate", "moe ablate --list", "moe ablate --retrain --only balance-off"))
def ablate_(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A mixture's or a run's folder; the run of --config by default.", show_default=False, callback=resolve_model
        ),
    ] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train the rows that need it too.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this row; may be given several times.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Print the rows and do none.")] = False,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure what each part of a mixture is worth → `ablation/`; goes on where it was stopped."""
    from moe.ablation.run import ablate, list_variants
    from moe.ablation.view import ablation_view, variant_records, variants_view

    work = open_workspace(config, out, sets)
    if list_:
        return print_view(variant_records(list_variants(work, model)), variants_view, json_)
    return print_view(ablate(work, model, only or (), retrain), ablation_view, json_)

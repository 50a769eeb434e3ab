"""Evaluation commands: evaluate, compare, calibrate, report, sweep, ablate."""

from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import (
    ConfigOption,
    DataOption,
    DomainOption,
    JsonOption,
    ModelArgument,
    OptionalModelArgument,
    OverwriteFileOption,
    RenamedOptions,
    RoutingChoiceOption,
    RunOption,
    SetOption,
    check_number,
    examples,
    open_workspace,
    print_view,
)

app = typer.Typer()


@app.command(
    "evaluate",
    cls=RenamedOptions,
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
    routing: RoutingChoiceOption = "auto",
    pin: Annotated[
        bool, typer.Option("--pin", help="Route each text to the experts of its true domain (oracle routing).")
    ] = False,
    per_expert: Annotated[
        bool,
        typer.Option("--per-expert", help="Also evaluate each expert on its own, for the report (alone.csv)."),
    ] = False,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Language models: tasks to evaluate, comma-separated; default: all.")
    ] = None,
    choice_method: Annotated[
        str,
        typer.Option("--choice-method", help="Language models: answer choices by likelihood or by generation."),
    ] = "likelihood",
    max_questions: Annotated[
        int | None,
        typer.Option(
            "--max-questions", min=1, max=10**9, help="Language models: maximum number of questions per task."
        ),
    ] = None,
    no_experts: Annotated[
        bool, typer.Option("--no-experts", help="Language models: evaluate the backbone without experts.")
    ] = False,
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Evaluate a model: metrics per class and domain, routing; writes `evaluation/MODEL/` with every prediction."""
    from moe.errors import Fault
    from moe.evaluation.evaluate import evaluate_folder
    from moe.inference.load import check_routing
    from moe.report.terminal import evaluation_view
    from moe.runs.model_ref import resolve

    mode, work = check_routing(routing), open_workspace(config, run, sets)
    if work.run.language is not None:
        if domain is not None:
            raise Fault("--tasks for a language model's questions", "--domain", "use --tasks, or neither for all tasks")
        if per_expert:
            raise Fault("a classification run for --per-expert", "a language-model run", "remove --per-expert")
        from moe.qa.evaluate import EvalSettings, check_choice_method, evaluate_qa_folder, qa_view

        settings = EvalSettings(
            check_choice_method(choice_method),
            hard=mode != "auto" and check_routing(routing, ("soft", "hard")) == "hard",
            pin=pin,
        )
        names = tuple(name.strip() for name in (tasks or "").split(",") if name.strip())
        folder = resolve(model, run=work.out).folder
        answers = evaluate_qa_folder(work, folder, names, data, settings, max_questions, no_experts)
        print_view(answers, qa_view, json_)
        return
    if tasks or max_questions or no_experts:
        raise Fault(
            "a language-model run for --tasks, --max-questions, --no-experts", "a classification run", "remove them"
        )
    report = evaluate_folder(
        work,
        resolve(model, run=work.out).folder,
        sets or (),
        data=data,
        domain=domain,
        routing=mode,
        pin=pin,
        per_expert=per_expert,
    )
    print_view(report, evaluation_view, json_)


@app.command(
    cls=RenamedOptions,
    epilog=examples(
        "moe compare runs/demo/moe-joint runs/demo/router-warmup",
        "moe compare runs/demo/moe-joint runs/demo/experts/news --data labelled.csv --domain news --json",
    ),
)
def compare(
    model_a: ModelArgument,
    model_b: ModelArgument,
    data: DataOption = None,
    domain: DomainOption = None,
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Compare two models on the same rows: metrics, difference with 95 % interval, and whether it is significant."""
    from moe.evaluation.compare import compare as compare_models
    from moe.evaluation.compare import comparison_view
    from moe.runs.model_ref import resolve

    work = open_workspace(config, run, sets)
    models = resolve(model_a).folder, resolve(model_b).folder
    report = compare_models(work, models, sets or (), data, domain, quiet=False)
    print_view(report, comparison_view, json_)


@app.command(
    "calibrate",
    cls=RenamedOptions,
    epilog=examples("moe calibrate", "moe calibrate --conformal 0.9", "moe calibrate runs/demo/experts/news --json"),
)
def calibrate_(
    model: OptionalModelArgument = None,
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    routing: RoutingChoiceOption = "auto",
    level: Annotated[
        float,
        typer.Option(
            "--level",
            min=0.5,
            max=1,
            callback=check_number,
            help="Confidence level at which thresholds guarantee an accuracy, 0.5 to 1.",
        ),
    ] = 0.9,
    conformal: Annotated[
        float | None,
        typer.Option(
            "--conformal",
            min=0.5,
            max=1,
            callback=check_number,
            help="Also fit label sets: the least share of texts whose set holds the true label, e.g. 0.9.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Fit a model's temperatures, abstention thresholds and label sets on validation rows, into `calibration.json`."""
    from moe.evaluation.calibration.calibrate import calibrate, calibration_view
    from moe.inference.load import check_routing
    from moe.runs.model_ref import resolve

    mode = check_routing(routing)
    work = open_workspace(config, run, sets)
    folder = resolve(model, run=work.out).folder
    report = calibrate(work, folder, sets or (), quiet=False, level=level, conformal=conformal, routing=mode)
    print_view(report, calibration_view, json_)


@app.command(
    "report",
    cls=RenamedOptions,
    epilog=examples(
        "moe report runs/demo",
        "moe report runs/demo --against runs/constant --out-dir report",
        "moe report runs/demo --json",
    ),
)
def report_(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    against: Annotated[
        Path | None, typer.Option("--against", help="Second run, whose training curves are overlaid.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out-dir", "-o", help="Output folder; default: RUN/report.")] = None,
    overwrite: OverwriteFileOption = False,
    json_: JsonOption = False,
) -> None:
    """Write a run's HTML report and model card: data, metrics, routing, calibration, errors, training curves."""
    from moe.report.html import write_report
    from moe.report.terminal import training_view

    print_view(write_report(run, against, out, overwrite), training_view, json_)


@app.command(
    "sweep",
    cls=RenamedOptions,
    epilog=examples(
        "moe sweep configs/dao/sweep_ranks.yaml --set data.folder=data/real",
        "moe sweep configs/walk_forward.yaml --folds",
        'moe sweep configs/demo.yaml --over "lora.r,lora.alpha=[8,8],[16,16]" --set stages.joint.steps=50',
    ),
)
def sweep_(
    file: Annotated[Path, typer.Argument(help="Sweep file, or a run config with --over.")],
    out: Annotated[
        Path | None,
        typer.Option("--out-dir", "-o", help="Sweep folder; default: runs/sweeps/NAME.", show_default=False),
    ] = None,
    sets: SetOption = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", help="Sweep a setting over values, e.g. lora.r=8,16,32 (repeatable)."),
    ] = None,
    folds: Annotated[
        bool, typer.Option("--folds", help="Sweep all folds, in time or at random, beside TF-IDF and with drift.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Train and evaluate one run over many settings, seeds or folds; called again, it resumes."""
    from moe.sweep.fold_view import fold_view
    from moe.sweep.run import run_sweep
    from moe.sweep.summary import sweep_view

    summary = run_sweep(file, out, sets or (), over or (), folds=folds)
    print_view(summary, fold_view if summary.folds else sweep_view, json_)


@app.command(
    "ablate",
    cls=RenamedOptions,
    epilog=examples("moe ablate", "moe ablate --list", "moe ablate --retrain --only balance-off"),
)
def ablate_(
    model: Annotated[
        Path | None,
        typer.Argument(help="Mixture or run folder; default: the run of --config.", show_default=False),
    ] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Include the variants that need training.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this variant (repeatable).")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the variants and exit.")] = False,
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure what each part of a mixture contributes; writes `ablation/`; called again, it resumes."""
    from moe.ablation.run import ablate, list_variants
    from moe.ablation.view import ablation_view, variant_records, variants_view

    work = open_workspace(config, run, sets, reads_only=list_)
    if list_:
        return print_view(variant_records(list_variants(work, model)), variants_view, json_)
    return print_view(ablate(work, model, only or (), retrain), ablation_view, json_)

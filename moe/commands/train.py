"""Training commands: experts, roles, merge, router, instruction tuning, and all steps in a row."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.commands.main import is_secondary_process
from moe.commands.options import (
    ConfigOption,
    JsonOption,
    OverwriteOption,
    RenamedOptions,
    ResumeOption,
    RunOption,
    SetOption,
    examples,
    open_workspace,
    print_text,
    print_view,
)

if TYPE_CHECKING:
    from moe.runs.workspace import Workspace

GraphOption = Annotated[
    bool,
    typer.Option("--graph/--no-graph", help="Write the graph with which the best mixture predicts without PyTorch."),
]
app = typer.Typer()


@app.command(
    "train-expert",
    cls=RenamedOptions,
    epilog=examples(
        "moe train-expert --domain news",
        "moe train-expert --all --config configs/demo.yaml --run runs/mine --set stages.expert.lr=1e-3",
    ),
)
def train_expert(
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="Domain to train.", show_default=False)] = None,
    all_domains: Annotated[
        bool, typer.Option("--all", help="Train every domain, after the shared expert if there is one.")
    ] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="Train the shared expert on the pooled rows of all domains.")
    ] = False,
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Train the LoRA expert of one domain (or `--all`); writes `experts/NAME/` in PEFT's format."""
    from moe.errors import Fault

    if sum((domain is not None, all_domains, shared)) != 1:
        raise Fault("one of --domain NAME, --all, --shared", "none or several", "use one, e.g. --domain news")
    from moe.evaluation.data_warnings import print_data_warnings
    from moe.training.expert_steps import train_domain, train_shared
    from moe.training.steps import training_summary

    work = open_workspace(config, run, sets)
    if all_domains:
        print_data_warnings(work)
    folders = [train_shared(work, overwrite, resume)] if shared or (all_domains and work.run.shared) else []
    for name in [domain] if domain else list(work.run.domains) if all_domains else []:
        folders += train_domain(work, name, overwrite, resume)
    stale = _report_stale(work)
    if json_:
        print_text(training_summary(folders, work.reused, stale=stale, warnings=work.warnings), "", json_)


@app.command(
    "pretrain",
    cls=RenamedOptions,
    epilog=examples(
        "moe pretrain --role macro --config my_roles.yaml",
        "moe pretrain --all --config my_roles.yaml --run runs/roles --resume",
    ),
)
def pretrain_(
    role: Annotated[str | None, typer.Option("--role", help="Role to pre-train.", show_default=False)] = None,
    all_roles: Annotated[
        bool, typer.Option("--all", help="Pre-train every role, after the shared expert if there is one.")
    ] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="Pre-train the shared expert on the text of all roles.")
    ] = False,
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Pre-train a language model's role experts on plain text; writes `experts/NAME/` in PEFT's format."""
    from moe.errors import Fault

    if sum((role is not None, all_roles, shared)) != 1:
        raise Fault("one of --role NAME, --all, --shared", "none or several", "use one, e.g. --role macro")
    from moe.training.language.pretrain import pretrain, pretrain_shared
    from moe.training.steps import training_summary

    work = open_workspace(config, run, sets)
    folders = [pretrain_shared(work, overwrite, resume)] if shared or (all_roles and work.run.shared) else []
    folders += [] if shared else pretrain(work, role, overwrite, resume)
    stale = _report_stale(work)
    print_text(training_summary(folders, work.reused, stale=stale), "\n".join(map(str, folders)), json_)


@app.command(
    cls=RenamedOptions,
    epilog=examples(
        "moe merge",
        "moe merge runs/demo/experts/news adapters/forum --run runs/mine",
        "moe merge --router centroid --run runs/mine",
    ),
)
def merge(
    experts: Annotated[
        list[Path] | None, typer.Argument(help="Expert folders; default: all of the run.", show_default=False)
    ] = None,
    router: Annotated[
        str | None,
        typer.Option(
            "--router",
            help="Start of the router: centroid (prototypes of the experts' training states), arrow (the experts' "
            "weights alone), phatgoose (gates trained with the experts), random; default: gate.init of the config.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    json_: JsonOption = False,
) -> None:
    """Combine experts on one backbone under a router that starts as `--router` says; writes `moe-init/`."""
    from moe.training.steps import merge_experts, training_summary

    work = open_workspace(config, run, [*(sets or ()), *([f"gate.init={router}"] if router else ())])
    folder = merge_experts(work, experts or (), overwrite)
    stale = _report_stale(work)
    print_text(training_summary([folder], work.reused, stale=stale), str(folder), json_)


@app.command("train-router", cls=RenamedOptions, epilog=examples("moe train-router", "moe train-router --resume"))
def train_router_(
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    graph: GraphOption = True,
    json_: JsonOption = False,
) -> None:
    """Train the router on frozen experts, then all of them jointly; writes `router-warmup/` and `moe-joint/`."""
    from moe.runs.layout import MIXTURES
    from moe.training.steps import train_router, training_summary

    work = open_workspace(config, run, sets)
    verdict = train_router(work, overwrite, resume)
    _write_best_graph(work, graph)
    stale = _report_stale(work)
    folders = [work.out / name for name in MIXTURES]
    print_text(training_summary(folders, work.reused, verdict=verdict, stale=stale), verdict, json_)


@app.command(
    "instruct",
    cls=RenamedOptions,
    epilog=examples(
        "moe instruct --config my_roles.yaml",
        "moe instruct runs/my_roles/router-warmup --config my_roles.yaml --set stages.instruct.epochs=2",
    ),
)
def instruct_(
    model: Annotated[
        Path | None, typer.Argument(help="Mixture folder; default: the best one of the run.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Instruction-tune a language model's mixture on the questions of its domains; writes `moe-instruct/`."""
    from moe.runs.model_ref import resolve
    from moe.training.language.instruct import instruct
    from moe.training.steps import training_summary

    work = open_workspace(config, run, sets)
    folder = instruct(work, resolve(model).folder if model else None, overwrite, resume)
    print_text(training_summary([folder], work.reused), str(folder), json_)


@app.command(
    "run", cls=RenamedOptions, epilog=examples("moe run --config configs/demo.yaml --run runs/mine", "moe run --resume")
)
def run_(
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    pooled: Annotated[
        bool,
        typer.Option("--pooled/--no-pooled", help="Also train one LoRA on all domains, to compare the mixture with."),
    ] = True,
    graph: GraphOption = True,
    json_: JsonOption = False,
) -> None:
    """Run all steps: train every expert, merge, train the router, compare the models on the test rows."""
    from moe.training.pipeline import run_all, summary_view

    work = open_workspace(config, run, sets)
    summary = run_all(work, overwrite, resume, pooled)
    _write_best_graph(work, graph)
    if not json_ and not sys.stdout.isatty() and not is_secondary_process():
        from moe.console import console

        console.print(summary_view(summary), width=120)
    print_view(summary, summary_view, json_)


@app.command(
    "distill",
    epilog=examples(
        "moe distill --config my.yaml --teacher runs/large --text news=headlines.txt",
        "moe distill --config my.yaml --teacher runs/a --teacher runs/b --label-only --engine ray --workers 4",
    ),
)
def distill_(
    teachers: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher", help="Model whose answers are learned: a folder or hub id (repeatable); default: the config's."
        ),
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option("--text", help="Unlabelled texts of a domain, DOMAIN=FILE (repeatable); default: the config's."),
    ] = None,
    label_only: Annotated[bool, typer.Option("--label-only", help="Write the soft labels and train nothing.")] = False,
    engine: Annotated[str, typer.Option("--engine", help="How the teachers run: local or ray.")] = "local",
    workers: Annotated[int, typer.Option("--workers", min=1, max=1024, help="Number of Ray actors.")] = 1,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads of each actor; default: 1.")
    ] = None,
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    graph: GraphOption = True,
    json_: JsonOption = False,
) -> None:
    """Have large teachers label texts, then train the mixture on their soft labels too, as `moe run` does."""
    from moe.distill.label import label_texts, with_teachers
    from moe.distill.results import labelling_view
    from moe.errors import check_choice
    from moe.inference.bulk.engine import ENGINES
    from moe.training.pipeline import run_all, summary_view

    check_choice(engine, ENGINES, "--engine")
    work = open_workspace(config, run, sets)
    work.run = with_teachers(work.run, teachers or (), texts or ())
    report = label_texts(work, overwrite, engine, workers, threads)
    if label_only:
        print_view(report, labelling_view, json_)
        return
    if not json_ and sys.stdout.isatty():
        print_view(report, labelling_view, json_)
    summary = run_all(work, overwrite, resume, label=False)
    _write_best_graph(work, graph)
    print_view(summary, summary_view, json_)


def _report_stale(work: "Workspace") -> list[str]:
    """Names of finished steps that depend on something made again since; one line says how to make them again."""
    from moe.console import info
    from moe.runs.finished import stale_note, stale_steps

    stale = stale_steps(work)
    if stale:
        info(stale_note(work, stale))
    return stale


def _write_best_graph(work: "Workspace", requested: bool) -> None:
    """Write the graph of a run's best mixture, with which it predicts without PyTorch."""
    if not requested or is_secondary_process():
        return
    from moe.export.graph import write_graph_if_possible
    from moe.runs.best import best_model

    write_graph_if_possible(best_model(work.out))

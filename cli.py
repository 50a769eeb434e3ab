"""The front desk: what people type, told to `moe`, and faults told back in one line.

Only this module catches faults. Everything heavy is imported inside a command, so that `--help` answers at once.
"""

import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from moe.workspace import Workspace

app = typer.Typer(
    name="moe",
    help="FinMoE: a mixture of domain experts for financial text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
data_app = typer.Typer(help="Look at data before training on it.", no_args_is_help=True)
app.add_typer(data_app, name="data")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A YAML file; configs/demo.yaml by default.", show_default=False)
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The run folder; runs/NAME of the config by default.", show_default=False),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Lay one setting over the config, e.g. stages.joint.lr=1e-4.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Do finished steps again.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint; keep finished steps.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Plain JSON instead of tables.")]
ModelArgument = Annotated[
    Path | None, typer.Argument(help="A mixture or expert folder; the run's best by default.", show_default=False)
]
DataOption = Annotated[Path | None, typer.Option("--data", help="A labelled file instead of the run's test rows.")]
JudgedDomainOption = Annotated[
    str | None, typer.Option("--domain", "-d", help="Only this domain; with --data, the domain of the file.")
]
SpreadsheetOption = Annotated[
    bool, typer.Option("--spreadsheet", help="In a .csv, put a ' before texts that a spreadsheet would run.")
]
RoutingOption = Annotated[str, typer.Option("--routing", help="soft blends experts, hard asks the most probable one.")]


TOGETHER = ("train-expert", "pretrain", "merge", "train-router", "instruct", "run")
"""Commands that torchrun or accelerate may start in several processes."""


def _silent() -> bool:
    """Whether this is one of several processes, and not the one that speaks."""
    return os.environ.get("RANK", "0") != "0"


def _workspace(config: Path | None, out: Path | None, sets: list[str] | None) -> "Workspace":
    from moe.config import find_config, load_run
    from moe.workspace import Workspace

    run = load_run(config, sets or ())
    return Workspace(run, out or Path("runs") / find_config(config).stem)


@app.command("train-expert")
def train_expert(
    domain: Annotated[
        str | None, typer.Option("--domain", "-d", help="The domain to train.", show_default=False)
    ] = None,
    all_domains: Annotated[bool, typer.Option("--all", help="Every domain, after the shared expert if any.")] = False,
    shared: Annotated[bool, typer.Option("--shared", help="The shared expert, on all domains pooled.")] = False,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
) -> None:
    """Train one LoRA expert (or `--all`) on its domain → `experts/NAME/`, in PEFT's format."""
    from moe.errors import Fault

    if sum((domain is not None, all_domains, shared)) != 1:
        raise Fault("one of --domain NAME, --all, --shared", "none or several", "name one, e.g. --domain news")
    from moe.steps import train_domain, train_shared

    work = _workspace(config, out, sets)
    if shared or (all_domains and work.run.shared):
        train_shared(work, overwrite, resume)
    for name in [domain] if domain else list(work.run.domains) if all_domains else []:
        train_domain(work, name, overwrite, resume)


@app.command("pretrain")
def pretrain_(
    role: Annotated[str | None, typer.Option("--role", help="The role to pre-train.", show_default=False)] = None,
    all_roles: Annotated[bool, typer.Option("--all", help="Every role.")] = False,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
) -> None:
    """Train one role's experts (or `--all`) of a language model on plain text → `experts/NAME/`, in PEFT's format."""
    from moe.errors import Fault

    if (role is not None) == all_roles:
        raise Fault("one of --role NAME, --all", "both" if all_roles else "neither", "name one, e.g. --role macro")
    from moe.pretrain import pretrain

    for folder in pretrain(_workspace(config, out, sets), role, overwrite, resume):
        typer.echo(str(folder))


@app.command()
def merge(
    experts: Annotated[
        list[Path] | None, typer.Argument(help="Expert folders; all of the run by default.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Lay experts beside one backbone with a fresh router → `moe-init/`."""
    from moe.steps import merge_experts

    typer.echo(str(merge_experts(_workspace(config, out, sets), experts or (), overwrite)))


@app.command("train-router")
def train_router_(
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
) -> None:
    """Warm-start the router with frozen experts → `router-warmup/`, then train jointly → `moe-joint/`."""
    from moe.steps import train_router

    typer.echo(train_router(_workspace(config, out, sets), overwrite, resume))


@app.command("instruct")
def instruct_(
    model: Annotated[
        Path | None, typer.Argument(help="A mixture's folder; the run's best by default.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
) -> None:
    """Teach a language model's mixture to answer its domains' questions → `moe-instruct/`."""
    from moe.instruct import instruct

    typer.echo(str(instruct(_workspace(config, out, sets), model, overwrite, resume)))


@app.command("run")
def run_(
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """All steps: train every expert, merge, train the router, compare on the test rows."""
    from moe.pipeline import run_all, summary_view

    summary = run_all(_workspace(config, out, sets), overwrite, resume)
    if not json_ and not sys.stdout.isatty() and not _silent():
        from rich.console import Console

        Console(stderr=True, width=120).print(summary_view(summary))
    _show(summary, summary_view, json_)


@app.command()
def infer(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to answer.", show_default=False)] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="A mixture or expert folder; the run's best by default.")
    ] = None,
    data_type: Annotated[
        str | None, typer.Option("--data-type", help="Pin the texts to this domain's experts; else the router decides.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="The task to answer, where there are several.")] = None,
    file: Annotated[str | None, typer.Option("--file", "-f", help="csv, jsonl, parquet or txt, of any size.")] = None,
    text_column: Annotated[str, typer.Option("--text-column", help="The file's text column.")] = "text",
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="A .csv, .jsonl or .parquet file for the answers; else the run folder."),
    ] = None,
    routing: RoutingOption = "soft",
    windows: Annotated[bool, typer.Option("--windows", help="Average long texts over windows, not cut them.")] = False,
    tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Tokens in one pass; by default what suits the machine.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that share the texts; for many.")] = 1,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Cores of each process; by default all, shared out.")
    ] = None,
    abstain: Annotated[
        float | None, typer.Option("--abstain", help="Give no label below the confidence that this accuracy needs.")
    ] = None,
    spreadsheet: SpreadsheetOption = False,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="Answer --file, a folder or a pattern, into parts: here, or by Ray (local, ray)."
        ),
    ] = None,
    part_rows: Annotated[int, typer.Option("--part-rows", min=1, help="Rows a part, with --engine.")] = 10_000,
    json_: JsonOption = False,
    config: ConfigOption = None,
    sets: SetOption = None,
) -> None:
    """Answer texts: label, probabilities, polarity, confidence, expert shares."""
    from moe.answer import Request, answer_all
    from moe.opening import Opening, model_folder

    if engine is not None:
        from moe.bulk import answer_in_bulk, bulk_view, named
        from moe.data.schema import Columns
        from moe.parts import Bulk

        source, target = named(engine, file, out, bool(texts), spreadsheet)
        opening = Opening(model_folder(model, config, None, sets), tuple(sets or ()), routing, windows, tokens, abstain)  # type: ignore[arg-type]
        bulk = Bulk(source, target, opening, Columns(text=text_column), data_type, task, part_rows)
        bulk.check()
        _show(answer_in_bulk(bulk, engine, workers, threads), bulk_view, json_)
        return
    place = Path(out) if out else None
    request = Request(
        texts=tuple(texts or ()),
        file=Path(file) if file else None,
        text_column=text_column,
        out=place if place is not None and place.suffix else None,
        domain=data_type,
        task=task,
        plain=json_ or not sys.stdout.isatty(),
        workers=workers,
        threads=threads,
        spreadsheet=spreadsheet,
    )
    request.check()
    folder = model_folder(model, config, None if request.out else place, sets)
    answer_all(request, Opening(folder, tuple(sets or ()), routing, windows, tokens, abstain))  # type: ignore[arg-type]


@app.command("generate")
def generate_(
    model: Annotated[Path, typer.Argument(help="A language model's mixture or expert folder.", show_default=False)],
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts to answer.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="csv, jsonl, parquet or txt, of any size.")] = None,
    text_column: Annotated[str, typer.Option("--text-column", help="The file's text column.")] = "text",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A .csv, .jsonl or .parquet file for the answers.")
    ] = None,
    data_type: Annotated[
        str | None,
        typer.Option("--data-type", help="Pin prompts to this domain's experts; else the router decides."),
    ] = None,
    routing: RoutingOption = "soft",
    new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Most tokens of an answer.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", help="0 is the likeliest token; more varies.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw among the likeliest tokens of this probability.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.")] = 13,
    chat: Annotated[
        bool | None, typer.Option("--chat/--plain", help="The backbone's chat template; by default where it has one.")
    ] = None,
    spreadsheet: SpreadsheetOption = False,
    json_: JsonOption = False,
) -> None:
    """Answer prompts by a language model's mixture, and tell which experts did."""
    from moe.generate import Sampling
    from moe.writing import Wanted, write_all

    sampling = Sampling(new_tokens, temperature, top_p, seed)
    plain = json_ or not sys.stdout.isatty()
    asked = tuple(prompts or ())
    wanted = Wanted(model, asked, file, text_column, out, data_type, routing, plain, chat, sampling, spreadsheet)
    wanted.check()
    write_all(wanted)


@app.command("evaluate")
def evaluate_(
    model: ModelArgument = None,
    data: DataOption = None,
    domain: JudgedDomainOption = None,
    routing: RoutingOption = "soft",
    pin: Annotated[bool, typer.Option("--pin", help="Give each text to the experts of its true domain.")] = False,
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
    from moe.evaluate import evaluate_folder
    from moe.report import evaluation_view
    from moe.result import answering_model, best_model

    work = _workspace(config, out, sets)
    if work.run.language is not None:
        if domain is not None:
            raise Fault("--tasks for a language model's questions", "--domain", "name tasks, or leave it out for all")
        from moe.exam.run import Sitting, exam_of_folder
        from moe.exam.view import exam_view

        sitting = Sitting(by, routing == "hard", pin)  # type: ignore[arg-type]
        names = tuple(name.strip() for name in (tasks or "").split(",") if name.strip())
        found = exam_of_folder(work, model or answering_model(work.out), names, data, sitting, most, bare)
        _show(found, exam_view, json_)
        return
    if tasks or most or bare:
        raise Fault("a run over a language model for --tasks, --most, --bare", "a run of labels", "leave them out")
    report = evaluate_folder(work, model or best_model(work.out), sets or (), data, domain, routing, pin)
    _show(report, evaluation_view, json_)


@app.command()
def compare(
    model_a: Annotated[Path, typer.Argument(help="A mixture or expert folder.", show_default=False)],
    model_b: Annotated[Path, typer.Argument(help="Another one.", show_default=False)],
    data: DataOption = None,
    domain: JudgedDomainOption = None,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Two models on the same rows: both figures, their difference with its interval, and whether it is one."""
    from moe.compare import compare as compare_models
    from moe.compare import comparison_view

    work = _workspace(config, out, sets)
    report = compare_models(work, (model_a, model_b), sets or (), data, domain, quiet=False)
    _show(report, comparison_view, json_)


@app.command("calibrate")
def calibrate_(
    model: ModelArgument = None,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Fit a model's temperatures and thresholds on validation rows → `calibration.json` in its folder."""
    from moe.calibrate import calibrate, calibration_view
    from moe.result import best_model

    work = _workspace(config, out, sets)
    _show(calibrate(work, model or best_model(work.out), sets or (), quiet=False), calibration_view, json_)


@app.command("report")
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
    """Show what training did: weights, losses, validation, routing, seconds, memory → `RUN/report/index.html`."""
    from moe.report import training_view
    from moe.report_page import report_run

    _show(report_run(run, against, out), training_view, json_)


def _show(content: Any, view: Any, plain: bool) -> None:
    import json

    from rich.console import Console

    if plain or not sys.stdout.isatty():
        typer.echo(json.dumps(content, ensure_ascii=False))
    else:
        Console().print(view(content))


@app.command("sweep")
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
    from moe.sweep.run import sweep
    from moe.sweep.summary import sweep_view

    _show(sweep(file, out, sets or (), over or ()), sweep_view, json_)


@app.command("ablate")
def ablate_(
    model: Annotated[
        Path | None, typer.Argument(help="A mixture's folder; the run's best by default.", show_default=False)
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
    from moe.ablate.run import ablate, rows_of
    from moe.ablate.view import ablation_view, listed, rows_view

    work = _workspace(config, out, sets)
    if list_:
        return _show(listed(rows_of(work, model)), rows_view, json_)
    return _show(ablate(work, model, only or (), retrain), ablation_view, json_)


@app.command()
def check(
    config: Annotated[Path, typer.Argument(help="The config to check.")],
    sets: SetOption = None,
) -> None:
    """Tell every fault of a config at once; no weight is loaded."""
    from moe.check import check_config

    typer.echo(check_config(config, sets or ()))


@app.command("plan")
def plan_(
    config: Annotated[Path | None, typer.Argument(help="The config; configs/demo.yaml by default.")] = None,
    out: OutOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Foretell a run's weights, memory and time from a few steps of each stage; trains nothing that is kept."""
    from moe.plan import plan, plan_view

    _show(plan(_workspace(config, out, sets)), plan_view, json_)


@app.command("verify")
def verify_(
    folder: Annotated[Path, typer.Argument(help="An expert, a mixture, or a run folder with several.")],
    json_: JsonOption = False,
) -> None:
    """Hold files against their hashes, tensors against the card; exit code 2 where one does not hold."""
    from moe.report import verify_view
    from moe.verify import verify

    found = verify(folder)
    _show(found, verify_view, json_)
    raise typer.Exit(2 if found["faults"] else 0)


@data_app.command("inspect")
def inspect_(
    file: Annotated[Path, typer.Argument(help="csv, jsonl, parquet or a datasets folder.")],
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="Read it by this domain's settings.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="One of the domain's tasks; its first by default.")] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Count a file's rows, labels, scores, lengths, duplicates and rejects."""
    from moe.data.inspect import inspect_file, inspection_view

    settings = None
    if domain:
        from moe.config import load_run

        settings = load_run(config, sets or ()).task_settings(domain, task)
    _show(inspect_file(file, settings), inspection_view, json_)


@app.command("augment")
@data_app.command("augment")
def augment_(
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="The domain to augment.")] = None,
    all_domains: Annotated[bool, typer.Option("--all", help="Every domain.")] = False,
    base_url: Annotated[str | None, typer.Option("--base-url", help="An OpenAI-compatible address, up to /v1.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The language model's name there.")] = None,
    key_env: Annotated[str, typer.Option("--key-env", help="The variable that holds the key.")] = "OPENAI_API_KEY",
    local: Annotated[Path | None, typer.Option("--local", help="A model's folder, run here; no endpoint.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show counts and three prompts; send nothing.")] = False,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Have a language model write training rows anew, or new questions → `augmented.jsonl`; no other row is sent."""
    from moe.augment import augment, chosen_domains, named_service, preview
    from moe.report import augment_view

    work = _workspace(config, out, sets)
    names = chosen_domains(work, domain, all_domains)
    service = named_service(base_url, model, key_env, dry_run, local)
    found = augment(work, names, service, overwrite, resume, bool(local)) if service else preview(work, names)
    _show(found, augment_view, json_)


@app.command()
def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")],
    rows: Annotated[int, typer.Option("--rows", help="Texts a domain.")] = 2400,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other texts.")] = 13,
) -> None:
    """Write the made-up sample: for seeing the pipeline run, never for quoting accuracy."""
    from moe.sample import DOMAINS, write_sample

    for path in write_sample(out, rows=rows, seed=seed, domains=DOMAINS):
        typer.echo(str(path))


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"finmoe {version('finmoe')}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """FinMoE: a mixture of domain experts for financial text."""
    several = os.environ.get("WORLD_SIZE", "1")
    if several != "1" and ctx.invoked_subcommand not in TOGETHER:
        from moe.errors import Fault

        remedy = f"start it without torchrun or accelerate; {', '.join(TOGETHER)} run in several"
        raise Fault(f"one process for moe {ctx.invoked_subcommand}", several, remedy)


def main() -> None:
    """Run a command; a fault is one line and exit code 2, Ctrl-C is 130, SIGTERM 143."""
    if _silent():
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 — as long as the process lives
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # threads that spin for long crawl where cores are shared
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it misses a kernel from the hub
    try:
        app()
    except Exception as error:
        from moe.errors import Fault, Interrupted

        if isinstance(error, Fault):
            if not _silent():
                typer.echo(f"moe: {error}", err=True)
            sys.exit(2)
        if isinstance(error, Interrupted):
            again = shlex.join(["moe", *[word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]])
            flag = "" if sys.argv[1:2] in (["sweep"], ["ablate"]) else " --resume"  # these always go on
            if not _silent():
                typer.echo(f"moe: stopped; the last checkpoint is whole. Go on with: {again}{flag}", err=True)
            sys.exit(128 + error.number)
        raise


if __name__ == "__main__":
    main()

"""Commands that train: experts, roles, the merge, the router, questions, all in a row.

Imports of ours stand inside the commands, so that help answers at once; what they do lies in `moe.training.steps`,
`moe.training.pretrain`, `moe.training.instruct` and `moe.training.pipeline`.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import (
    ConfigOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    ResumeOption,
    SetOption,
    examples,
    print_view,
    is_secondary_process,
    print_text,
    open_workspace,
)

app = typer.Typer()


@app.command(
    "train-expert",
    epilog=examples(
        "moe train-expert --domain news",
        "moe train-expert --all --config configs/demo.yaml --out runs/mine --set stages.expert.lr=1e-3",
    ),
)
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
    json_: JsonOption = False,
) -> None:
    """Train one LoRA expert (or `--all`) on its domain → `experts/NAME/`, in PEFT's format."""
    from moe.errors import Fault

    if sum((domain is not None, all_domains, shared)) != 1:
        raise Fault("one of --domain NAME, --all, --shared", "none or several", "name one, e.g. --domain news")
    from moe.training.steps import training_summary, train_domain, train_shared

    work = open_workspace(config, out, sets)
    folders = [train_shared(work, overwrite, resume)] if shared or (all_domains and work.run.shared) else []
    for name in [domain] if domain else list(work.run.domains) if all_domains else []:
        folders += train_domain(work, name, overwrite, resume)
    if json_:
        print_text(training_summary(folders), "", json_)


@app.command(
    "pretrain",
    epilog=examples(
        "moe pretrain --role macro --config my_roles.yaml",
        "moe pretrain --all --config my_roles.yaml --out runs/roles --resume",
    ),
)
def pretrain_(
    role: Annotated[str | None, typer.Option("--role", help="The role to pre-train.", show_default=False)] = None,
    all_roles: Annotated[bool, typer.Option("--all", help="Every role, after the shared expert if any.")] = False,
    shared: Annotated[bool, typer.Option("--shared", help="The shared expert, on every role's text.")] = False,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Train one role's experts (or `--all`) of a language model on plain text → `experts/NAME/`, in PEFT's format."""
    from moe.errors import Fault

    if sum((role is not None, all_roles, shared)) != 1:
        raise Fault("one of --role NAME, --all, --shared", "none or several", "name one, e.g. --role macro")
    from moe.training.pretrain import pretrain, pretrain_shared
    from moe.training.steps import training_summary

    work = open_workspace(config, out, sets)
    folders = [pretrain_shared(work, overwrite, resume)] if shared or (all_roles and work.run.shared) else []
    folders += [] if shared else pretrain(work, role, overwrite, resume)
    print_text(training_summary(folders), "\n".join(map(str, folders)), json_)


@app.command(epilog=examples("moe merge", "moe merge runs/demo/experts/news adapters/forum --out runs/mine"))
def merge(
    experts: Annotated[
        list[Path] | None, typer.Argument(help="Expert folders; all of the run by default.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    json_: JsonOption = False,
) -> None:
    """Lay experts beside one backbone with a fresh router → `moe-init/`."""
    from moe.training.steps import merge_experts, training_summary

    folder = merge_experts(open_workspace(config, out, sets), experts or (), overwrite)
    print_text(training_summary([folder]), str(folder), json_)


@app.command("train-router", epilog=examples("moe train-router", "moe train-router --resume"))
def train_router_(
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Warm-start the router with frozen experts → `router-warmup/`, then train jointly → `moe-joint/`."""
    from moe.runs.best import CANDIDATES
    from moe.training.steps import training_summary, train_router

    work = open_workspace(config, out, sets)
    verdict = train_router(work, overwrite, resume)
    print_text(training_summary([work.out / name for name in CANDIDATES]) | {"verdict": verdict}, verdict, json_)


@app.command(
    "instruct",
    epilog=examples(
        "moe instruct --config my_roles.yaml",
        "moe instruct runs/my_roles/router-warmup --config my_roles.yaml --set stages.instruct.epochs=2",
    ),
)
def instruct_(
    model: Annotated[
        Path | None, typer.Argument(help="A mixture's folder; the run's best by default.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Teach a language model's mixture to answer its domains' questions → `moe-instruct/`."""
    from moe.training.instruct import instruct
    from moe.training.steps import training_summary

    folder = instruct(open_workspace(config, out, sets), model, overwrite, resume)
    print_text(training_summary([folder]), str(folder), json_)


@app.command("run", epilog=examples("moe run --config configs/demo.yaml --out runs/mine", "moe run --resume"))
def run_(
    config: ConfigOption = None,
    out: OutOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """All steps: train every expert, merge, train the router, compare on the test rows."""
    from moe.training.pipeline import run_all, summary_view

    summary = run_all(open_workspace(config, out, sets), overwrite, resume)
    if not json_ and not sys.stdout.isatty() and not is_secondary_process():
        from moe.console import console

        console.print(summary_view(summary), width=120)
    print_view(summary, summary_view, json_)

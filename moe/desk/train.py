"""Commands that train: experts, roles, the merge, the router, questions, all in a row.

Imports of ours stand inside the commands, so that help answers at once; what they do lies in `moe.steps`,
`moe.pretrain`, `moe.instruct` and `moe.run`.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from moe.desk.options import (
    ConfigOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    ResumeOption,
    SetOption,
    show,
    silent,
    workspace,
)

app = typer.Typer()


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

    work = workspace(config, out, sets)
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

    for folder in pretrain(workspace(config, out, sets), role, overwrite, resume):
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

    typer.echo(str(merge_experts(workspace(config, out, sets), experts or (), overwrite)))


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

    typer.echo(train_router(workspace(config, out, sets), overwrite, resume))


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

    typer.echo(str(instruct(workspace(config, out, sets), model, overwrite, resume)))


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
    from moe.run import run_all, summary_view

    summary = run_all(workspace(config, out, sets), overwrite, resume)
    if not json_ and not sys.stdout.isatty() and not silent():
        from rich.console import Console

        Console(stderr=True, width=120).print(summary_view(summary))
    show(summary, summary_view, json_)

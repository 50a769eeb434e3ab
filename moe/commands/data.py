"""Commands about data: inspect a file, have rows written anew.

Imports of ours stand inside the commands, so that help answers at once; the rows themselves are read and
written in `moe.data`.
"""

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
    open_workspace,
)

app = typer.Typer()
data_app = typer.Typer(help="Look at data before training on it.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command(
    "inspect", epilog=examples("moe data inspect posts.csv", "moe data inspect posts.csv --domain forum --json")
)
def inspect_(
    file: Annotated[Path, typer.Argument(help="csv, jsonl, parquet or a datasets folder.")],
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="Read it by this domain's settings.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="One of the domain's tasks; its first by default.")] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Count a file's rows, labels, scores, lengths, duplicates and rejects."""
    from moe.data.profile import inspect_file, inspection_view

    settings = None
    if domain:
        from moe.config.run import load_run

        settings = load_run(config, sets or ()).task_settings(domain, task)
    print_view(inspect_file(file, settings), inspection_view, json_)


@app.command(
    "augment",
    epilog=examples(
        "moe augment --all --config my_roles.yaml --base-url http://localhost:11434/v1 --model llama3:70b",
        "moe augment --all --config my_roles.yaml --local models/instruct --dry-run",
        "moe instruct --config my_roles.yaml --set data.augmented=true --set data.augment.max_share=0.5",
    ),
)
@data_app.command(
    "augment",
    epilog=examples(
        "moe data augment --all --dry-run",
        "moe data augment --domain forum --base-url http://localhost:11434/v1 --model deepseek-r1:32b",
        "moe data augment --all --base-url https://api.example.com/v1 --model writer --key-env WRITER_KEY",
    ),
)
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
    from moe.augment.pipeline import augment, selected_domains, endpoint_from_options, preview
    from moe.report.terminal import augment_view

    work = open_workspace(config, out, sets)
    names = selected_domains(work, domain, all_domains)
    service = endpoint_from_options(base_url, model, key_env, dry_run, local)
    found = augment(work, names, service, overwrite, resume, bool(local)) if service else preview(work, names)
    print_view(found, augment_view, json_)

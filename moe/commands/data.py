"""Data commands: inspect a file, augment training data."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import (
    ConfigOption,
    EncodingOption,
    JsonOption,
    OverwriteOption,
    RenamedCommand,
    RenamedOptions,
    ResumeOption,
    RunOption,
    SeparatorOption,
    SetOption,
    examples,
    open_workspace,
    print_view,
)

app = typer.Typer()
data_app = typer.Typer(help="Inspect and augment data before training.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command(
    "inspect",
    epilog=examples("moe data inspect posts.csv", "moe data inspect posts.csv --domain forum --json"),
)
def inspect_(
    file: Annotated[Path, typer.Argument(help="Data file (csv, jsonl, parquet) or `datasets` folder.")],
    domain: Annotated[
        str | None, typer.Option("--domain", "-d", help="Validate the file against this domain's settings.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Task of the domain; default: the first.")] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    encoding: EncodingOption = None,
    separator: SeparatorOption = None,
    json_: JsonOption = False,
) -> None:
    """Profile a data file: rows, labels, scores, lengths, duplicates, rejected rows, and warnings."""
    from moe.data.formats.readers import with_text_format
    from moe.data.profile import inspect_file
    from moe.data.schema import TaskSettings
    from moe.evaluation.data_warnings import file_warnings
    from moe.report.data_file import inspection_view

    if domain:
        from moe.config.run import load_run
        from moe.runs.text_lengths import inspect_for_run

        run = load_run(config, sets or ())
        settings = with_text_format(run.task_settings(domain, task), encoding, separator)
        profile = inspect_for_run(file, run, domain, settings)
    else:
        settings = with_text_format(TaskSettings(), encoding, separator)
        profile = inspect_file(file, settings)
    warnings = dict.fromkeys([*profile.warnings, *file_warnings(file, settings, task or domain)])
    print_view(replace(profile, warnings=list(warnings)), inspection_view, json_)


@app.command("augment", cls=RenamedCommand, hidden=True)
@data_app.command(
    "augment",
    cls=RenamedOptions,
    epilog=examples(
        "moe data augment --all --dry-run",
        "moe data augment --domain forum --base-url http://localhost:11434/v1 --model deepseek-r1:32b",
        "moe data augment --all --config my_roles.yaml --local models/instruct",
    ),
)
def augment_(
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="Domain to augment.")] = None,
    all_domains: Annotated[bool, typer.Option("--all", help="Augment every domain.")] = False,
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="Base URL of an OpenAI-compatible API, up to /v1.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name of the model to request from the API.")
    ] = None,
    key_env: Annotated[
        str, typer.Option("--key-env", help="Environment variable that holds the API key.")
    ] = "OPENAI_API_KEY",
    local: Annotated[
        Path | None, typer.Option("--local", help="Folder of a language model to run locally instead of an API.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the counts and three prompts; send nothing.")
    ] = False,
    config: ConfigOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    json_: JsonOption = False,
) -> None:
    """Have a language model paraphrase training rows or write new questions; writes `augmented.jsonl` per task."""
    from moe.augment.pipeline import augment, endpoint_from_options, preview, selected_domains
    from moe.augment.results import augment_view

    work = open_workspace(config, run, sets)
    names = selected_domains(work, domain, all_domains)
    endpoint = endpoint_from_options(base_url, model, key_env, dry_run, local)
    report = augment(work, names, endpoint, overwrite, resume, bool(local)) if endpoint else preview(work, names)
    print_view(report, augment_view, json_)

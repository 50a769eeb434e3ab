"""Data commands: inspect a file, augment training data, check labels and choose what to label."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import (
    DEFAULT_MODEL_HELP,
    BatchTokensOption,
    ConfigOption,
    EncodingOption,
    JsonOption,
    OverwriteFileOption,
    OverwriteOption,
    RenamedCommand,
    RenamedOptions,
    ResumeOption,
    RunOption,
    SeparatorOption,
    SetOption,
    SpreadsheetOption,
    TextColumnOption,
    examples,
    open_workspace,
    print_view,
)

app = typer.Typer()
data_app = typer.Typer(help="Inspect, augment and label data before training.", no_args_is_help=True)
app.add_typer(data_app, name="data")

ModelOption = Annotated[Path | None, typer.Option("--model", "-m", help=DEFAULT_MODEL_HELP)]
LabelColumnOption = Annotated[str, typer.Option("--label-column", help="Label column of the file.")]
FeaturesOption = Annotated[
    str,
    typer.Option(
        "--features",
        help="mixture reads the model's states and probabilities, backbone only states without experts; auto is "
        "mixture, unless labelled texts of the file trained the model.",
    ),
]
ReviewOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Output file: .csv, .jsonl or .parquet, or .json with tasks for Label Studio."),
]


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


@data_app.command(
    "suspects",
    epilog=examples(
        "moe data suspects posts.csv --model ready",
        "moe data suspects posts.csv --model runs/demo --most 100 --out suspects.csv",
    ),
)
def suspects_(
    file: Annotated[Path, typer.Argument(help="Labelled file (csv, jsonl, parquet) or `datasets` folder.")],
    model: ModelOption = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Task of the labels; default: the model's first one with them.")
    ] = None,
    most: Annotated[
        int | None, typer.Option("--most", min=1, max=10**9, help="Most rows to list; default: all suspects.")
    ] = None,
    folds: Annotated[int, typer.Option("--folds", min=2, max=1000, help="Folds of the out-of-fold probabilities.")] = 5,
    features: FeaturesOption = "auto",
    text_column: TextColumnOption = "text",
    label_column: LabelColumnOption = "label",
    encoding: EncodingOption = None,
    separator: SeparatorOption = None,
    out: ReviewOption = None,
    spreadsheet: SpreadsheetOption = False,
    overwrite: OverwriteFileOption = False,
    tokens: BatchTokensOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """List the rows of a file that are probably mislabelled, with the label that they would have; by cleanlab."""
    from moe.inference.load import LoadOptions
    from moe.inference.text_io import OutputTarget, TextSource
    from moe.labels.features import check_features
    from moe.labels.suspects import find_suspects, suspects_view
    from moe.runs.model_ref import resolve

    report = find_suspects(
        TextSource(file=file, text_column=text_column, encoding=encoding, separator=separator),
        resolve(model),
        OutputTarget(out, spreadsheet=spreadsheet, overwrite=overwrite),
        label_column=label_column,
        task=task,
        features=check_features(features),
        folds=folds,
        most=most,
        options=LoadOptions(sets=tuple(sets or ()), batch_tokens=tokens),
        quiet=False,
    )
    print_view(report, suspects_view, json_)


@data_app.command(
    "next",
    epilog=examples(
        "moe data next posts.csv --model ready --most 200 --out to_label.csv",
        "moe data next posts.csv --model runs/demo --by uncertainty --out tasks.json",
    ),
)
def next_(
    file: Annotated[Path, typer.Argument(help="File with unlabelled rows (csv, jsonl, parquet, txt).")],
    model: ModelOption = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Task to label; default: that of each text's most probable domain.")
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, max=10**5, help="Most rows to choose.")] = 200,
    by: Annotated[
        str,
        typer.Option("--by", help="What chooses the rows: uncertainty, disagreement, diversity, mixed or random."),
    ] = "diversity",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Random seed of --by.")] = 13,
    features: FeaturesOption = "auto",
    text_column: TextColumnOption = "text",
    label_column: LabelColumnOption = "label",
    encoding: EncodingOption = None,
    separator: SeparatorOption = None,
    out: ReviewOption = None,
    spreadsheet: SpreadsheetOption = False,
    overwrite: OverwriteFileOption = False,
    tokens: BatchTokensOption = None,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Choose the unlabelled rows of a file to label next; rows with a label say what the others can still teach."""
    from moe.inference.load import LoadOptions
    from moe.inference.text_io import OutputTarget, TextSource
    from moe.labels.features import check_features
    from moe.labels.proposals import proposals_view, propose_rows
    from moe.labels.selection import check_strategy
    from moe.runs.model_ref import resolve

    report = propose_rows(
        TextSource(file=file, text_column=text_column, encoding=encoding, separator=separator),
        resolve(model),
        OutputTarget(out, spreadsheet=spreadsheet, overwrite=overwrite),
        most=most,
        by=check_strategy(by),
        label_column=label_column,
        task=task,
        features=check_features(features),
        seed=seed,
        options=LoadOptions(sets=tuple(sets or ()), batch_tokens=tokens),
        quiet=False,
    )
    print_view(report, proposals_view, json_)


@data_app.command("from-label-studio", epilog=examples("moe data from-label-studio export.json --out rows.csv"))
def from_label_studio_(
    export: Annotated[Path, typer.Argument(help="Export of Label Studio, JSON or JSON-MIN.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output file (.csv, .jsonl, .parquet) of labelled rows.")],
    choices: Annotated[
        str, typer.Option("--choices", help="Name of the choices in the labelling interface.")
    ] = "label",
    spreadsheet: SpreadsheetOption = False,
    overwrite: OverwriteFileOption = False,
    json_: JsonOption = False,
) -> None:
    """Turn an export of Label Studio into a labelled file, with the ids of the rows that were exported."""
    from moe.inference.text_io import OutputTarget
    from moe.labels.review_file import annotations_view, convert_annotations

    target = OutputTarget(out, spreadsheet=spreadsheet, overwrite=overwrite)
    print_view(convert_annotations(export, target, choices), annotations_view, json_)

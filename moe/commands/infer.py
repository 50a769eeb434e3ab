"""Inference commands: classify texts, explain predictions, generate answers."""

import sys
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import (
    DEFAULT_MODEL_HELP,
    AbstainOption,
    BatchTokensOption,
    ConfigOption,
    DataTypeOption,
    EncodingOption,
    JsonOption,
    LabelSetsOption,
    OverwriteFileOption,
    RenamedOptions,
    RoutingChoiceOption,
    RoutingOption,
    RunOption,
    RuntimeOption,
    SeparatorOption,
    SetOption,
    SpreadsheetOption,
    TargetOption,
    TaskOption,
    TextColumnOption,
    check_number,
    examples,
    note_renamed,
    print_view,
    split_model,
)

app = typer.Typer()


@app.command(
    epilog=examples(
        'moe infer "Profit fell less than feared."',
        'moe infer --target Apple --target Microsoft "Apple gains as Microsoft slips"',
        "moe infer --data-type forum --file posts.csv --text-column body --out answers.csv",
    )
)
def infer(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to classify.", show_default=False)] = None,
    model: Annotated[Path | None, typer.Option("--model", "-m", help=DEFAULT_MODEL_HELP)] = None,
    data_type: DataTypeOption = None,
    task: TaskOption = None,
    targets: TargetOption = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="File of texts (csv, jsonl, parquet or txt), of any size.")
    ] = None,
    text_column: TextColumnOption = "text",
    target_column: Annotated[
        str | None,
        typer.Option(
            "--target-column",
            help="Target column of the file; default: `target`, if the file has it.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Column of the file to keep in the output, e.g. a ticker or a time (repeatable)."),
    ] = None,
    encoding: EncodingOption = None,
    separator: SeparatorOption = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="Output file (.csv, .jsonl, .parquet).")] = None,
    out_dir: Annotated[
        str | None, typer.Option("--out-dir", help="Output folder of the shards, with --engine.")
    ] = None,
    run: RunOption = None,
    routing: RoutingChoiceOption = "auto",
    windows: Annotated[
        bool, typer.Option("--windows", help="Average over windows of long texts instead of truncating them.")
    ] = False,
    tokens: BatchTokensOption = None,
    runtime: RuntimeOption = "auto",
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=1024, help="Number of processes that share the texts.")
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=4096, help="CPU cores per process; default: all, divided equally."),
    ] = None,
    abstain: AbstainOption = None,
    label_sets: LabelSetsOption = False,
    spreadsheet: SpreadsheetOption = False,
    overwrite: OverwriteFileOption = False,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="Bulk inference on a file, folder or glob pattern (--file), into shards: local or ray."
        ),
    ] = None,
    part_rows: Annotated[
        int, typer.Option("--part-rows", min=1, max=10**9, help="Rows per output shard, with --engine.")
    ] = 10_000,
    json_: JsonOption = False,
    config: ConfigOption = None,
    sets: SetOption = None,
) -> None:
    """Classify texts: label, probabilities, polarity, confidence, routing weights."""
    from moe.data.text_checks import decode_argument
    from moe.errors import Fault
    from moe.inference.infer_command import run_infer
    from moe.inference.load import LoadOptions, check_routing, check_runtime, is_large
    from moe.inference.text_io import OutputTarget, TextSource
    from moe.runs.model_ref import resolve

    options = LoadOptions(
        sets=tuple(sets or ()),
        routing=check_routing(routing),
        windows=windows,
        batch_tokens=tokens,
        abstain=abstain,
        label_sets=label_sets,
        threads=threads,
        runtime=check_runtime(runtime),
        large=engine is not None or (file is not None and is_large(Path(file))),
    )
    options.check()
    if engine is not None:
        if keep:
            raise Fault("--keep without --engine", "both", "leave out --engine, which writes its own columns only")
        if out is not None and out_dir is None:
            note_renamed("--out with --engine", "--out-dir")
            out_dir = out
        from moe.data.formats.text_format import parse_text_format
        from moe.inference.bulk.engine import bulk_summary, check_bulk_paths, run_bulk
        from moe.inference.bulk.shards import BulkJob

        dataset, folder = check_bulk_paths(
            engine, file, out_dir, texts=bool(texts), spreadsheet=spreadsheet, targets=bool(targets)
        )
        job = BulkJob(
            source=dataset,
            out=folder,
            model=resolve(model, config=config, run=run),
            options=options,
            text_column=text_column,
            target_column=target_column,
            domain=data_type,
            task=task,
            rows_per_shard=part_rows,
            text_format=parse_text_format(encoding, separator),
        )
        job.check()
        print_view(run_bulk(job, engine, workers, threads), bulk_summary, json_)
        return
    path = Path(out) if out else None
    if path is not None and not path.suffix and run is None:
        note_renamed(f"--out {out}, which is no file,", f"--run {out}")
        path, run = None, path
    source = TextSource(
        texts=tuple(map(decode_argument, texts or ())),
        file=Path(file) if file else None,
        text_column=text_column,
        targets=tuple(targets or ()),
        target_column=target_column,
        encoding=encoding,
        separator=separator,
        keep=tuple(keep or ()),
    )
    target = OutputTarget(path, spreadsheet=spreadsheet, overwrite=overwrite)
    source.check()  # before a model is looked for
    target.check([source.file])
    run_infer(
        source,
        target,
        resolve(model, config=config, run=run),
        options,
        domain=data_type,
        task=task,
        workers=workers,
        as_json=json_,
    )


@app.command(
    "explain",
    cls=RenamedOptions,
    epilog=examples(
        'moe explain "Profit fell less than feared."',
        'moe explain runs/demo "Profit fell less than feared."',
        "moe explain runs/demo --file posts.csv --out words.csv",
    ),
)
def explain_(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [TEXTS]...",
            help="Texts to explain; a folder in front of them (or `ready`) is the model.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Corpus (csv, jsonl, parquet, txt) whose words are scored for each label."),
    ] = None,
    text_column: TextColumnOption = "text",
    encoding: EncodingOption = None,
    separator: SeparatorOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output file (.csv, .jsonl, .parquet) for the corpus's words.")
    ] = None,
    data_type: DataTypeOption = None,
    task: TaskOption = None,
    targets: TargetOption = None,
    routing: RoutingChoiceOption = "auto",
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, max=10**6, help="Integration steps; default: 64 for a text, 32 for a corpus."),
    ] = None,
    min_count: Annotated[
        int, typer.Option("--min-count", min=1, max=10**9, help="Omit words with fewer occurrences in the corpus.")
    ] = 5,
    max_texts: Annotated[
        int | None,
        typer.Option(
            "--max-texts", min=1, max=10**9, help="Use at most this many texts, from the start of the corpus."
        ),
    ] = None,
    tokens: BatchTokensOption = None,
    spreadsheet: SpreadsheetOption = False,
    overwrite: OverwriteFileOption = False,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Explain predictions: words for and against the label, words behind the routing, each expert's prediction."""
    from moe.data.text_checks import decode_argument
    from moe.explain.explain import STEPS, explain
    from moe.explain.lexicon import STEPS as CORPUS_STEPS
    from moe.explain.lexicon import build_lexicon, check_explanation, lexicon_view
    from moe.explain.terminal import explanation_view
    from moe.inference.load import LoadOptions, check_routing, load_torch
    from moe.inference.text_io import OutputTarget, TextSource
    from moe.runs.model_ref import resolve

    model, texts = split_model(arguments or [])
    source = TextSource(
        texts=tuple(map(decode_argument, texts)),
        file=file,
        text_column=text_column,
        targets=tuple(targets or ()),
        encoding=encoding,
        separator=separator,
    )
    target = OutputTarget(out, spreadsheet=spreadsheet, overwrite=overwrite)
    check_explanation(source, target)
    options = LoadOptions(sets=tuple(sets or ()), routing=check_routing(routing), batch_tokens=tokens)
    options.check()
    ref = resolve(model)
    target.check([file, ref.folder])
    predictor = load_torch(ref, options)
    for text, entity in product(source.texts, source.targets or (None,)):
        explanation = explain(predictor, text, data_type, task, steps or STEPS, entity)
        print_view(explanation, explanation_view, json_)
    if file is not None:
        report = build_lexicon(
            predictor,
            source,
            target,
            domain=data_type,
            task=task,
            min_count=min_count,
            max_texts=max_texts,
            steps=steps or CORPUS_STEPS,
            quiet=False,
        )
        print_view(report, lexicon_view, json_)


@app.command(
    "generate",
    epilog=examples(
        'moe generate runs/roles/moe-joint "The central bank has decided to"',
        "moe generate runs/roles/moe-joint --file prompts.txt --out answers.jsonl --max-new-tokens 64",
    ),
)
def generate_(
    model: Annotated[
        Path,
        typer.Argument(help="Mixture, expert or run folder of a language model.", show_default=False),
    ],
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts to answer.", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="File of prompts (csv, jsonl, parquet or txt), of any size.")
    ] = None,
    text_column: TextColumnOption = "text",
    encoding: EncodingOption = None,
    separator: SeparatorOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output file (.csv, .jsonl, .parquet) for the answers.")
    ] = None,
    data_type: DataTypeOption = None,
    routing: RoutingOption = "soft",
    new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, max=10**6, help="Maximum number of tokens per answer.")
    ] = 128,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", min=0, max=100, callback=check_number, help="Sampling temperature; 0 is greedy decoding."
        ),
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p",
            min=0,
            max=1,
            callback=check_number,
            help="Nucleus sampling: draw from the most probable tokens of this total.",
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Random seed of the sampling.")] = 13,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--plain", help="Use the backbone's chat template or not; default: if it has one."),
    ] = None,
    spreadsheet: SpreadsheetOption = False,
    overwrite: OverwriteFileOption = False,
    json_: JsonOption = False,
) -> None:
    """Generate answers to prompts with a language model's mixture, and show the routing weights."""
    from moe.data.text_checks import decode_argument
    from moe.inference.generate_command import run_generate
    from moe.inference.generator import Sampling
    from moe.inference.load import check_routing
    from moe.inference.text_io import OutputTarget, TextSource
    from moe.runs.model_ref import resolve

    run_generate(
        TextSource(
            tuple(map(decode_argument, prompts or ())), file, text_column, encoding=encoding, separator=separator
        ),
        OutputTarget(out, spreadsheet=spreadsheet, overwrite=overwrite),
        resolve(model),
        Sampling(max_new_tokens=new_tokens, temperature=temperature, top_p=top_p, seed=seed),
        domain=data_type,
        routing=check_routing(routing, ("soft", "hard")),
        chat=chat,
        plain=json_ or not sys.stdout.isatty(),
    )

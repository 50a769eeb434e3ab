"""Commands that ask a model: labels of texts and why these, answers to prompts.

Imports of ours stand inside the commands, so that help answers at once; the work lies in `moe.inference.infer_command`,
`moe.inference.bulk.engine`, `moe.explain.explain` and `moe.inference.generate_command`.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import (
    ConfigOption,
    JsonOption,
    ModelArgument,
    RoutingOption,
    SetOption,
    SpreadsheetOption,
    examples,
    resolve_model,
    print_view,
)

app = typer.Typer()


@app.command(
    epilog=examples(
        'moe infer "Profit fell less than feared."',
        "moe infer --data-type forum --file posts.csv --text-column body --out answers.csv",
        "cat headlines.txt | moe infer --model runs/demo/moe-joint > answers.jsonl",
    )
)
def infer(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to answer.", show_default=False)] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            help="A mixture's, an expert's or a run's folder; the run of --config by default.",
            callback=resolve_model,
        ),
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
    from moe.inference.infer_command import InferRequest, run_infer
    from moe.inference.loading import ModelLoader, select_model_folder

    if engine is not None:
        from moe.data.schema import Columns
        from moe.inference.bulk.engine import run_bulk, bulk_summary, check_bulk_paths
        from moe.inference.bulk.shards import BulkJob

        source, target = check_bulk_paths(engine, file, out, bool(texts), spreadsheet)
        opening = ModelLoader(select_model_folder(model, config, None, sets), tuple(sets or ()), routing, windows, tokens, abstain)  # type: ignore[arg-type]
        bulk = BulkJob(source, target, opening, Columns(text=text_column), data_type, task, part_rows)
        bulk.check()
        print_view(run_bulk(bulk, engine, workers, threads), bulk_summary, json_)
        return
    place = Path(out) if out else None
    request = InferRequest(
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
    folder = select_model_folder(model, config, None if request.out else place, sets)
    run_infer(request, ModelLoader(folder, tuple(sets or ()), routing, windows, tokens, abstain))  # type: ignore[arg-type]


@app.command(
    "explain",
    epilog=examples(
        'moe explain runs/demo/moe-joint "Profit fell less than feared."',
        "moe explain runs/demo/moe-joint --file posts.csv --out words.csv",
    ),
)
def explain_(
    model: ModelArgument,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to explain.", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A corpus (csv, jsonl, parquet, txt): its words for each label.")
    ] = None,
    text_column: Annotated[str, typer.Option("--text-column", help="The file's text column.")] = "text",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A .csv, .jsonl or .parquet file for the corpus's words.")
    ] = None,
    data_type: Annotated[
        str | None, typer.Option("--data-type", help="Pin the texts to this domain's experts; else the router decides.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="The task to answer, where there are several.")] = None,
    routing: RoutingOption = "soft",
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Points of the integral, 64 for a text, 32 for a corpus; more is exacter."),
    ] = None,
    least: Annotated[int, typer.Option("--least", min=1, help="A corpus's words in so many places or more.")] = 5,
    most: Annotated[int | None, typer.Option("--most", min=1, help="At most so many texts of the corpus.")] = None,
    tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Tokens in one pass; by default what suits the machine.")
    ] = None,
    spreadsheet: SpreadsheetOption = False,
    sets: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Say why: words for and against a label, words for an expert, each expert alone; or the words of a corpus."""
    from moe.explain.explain import STEPS, explain
    from moe.explain.lexicon import STEPS as FEWER
    from moe.explain.lexicon import LexiconRequest, build_lexicon, lexicon_view
    from moe.explain.terminal import explanation_view
    from moe.inference.loading import ModelLoader, select_model_folder

    asked = LexiconRequest(tuple(texts or ()), file, text_column, out, spreadsheet, data_type, task, least, most)
    asked.check()
    folder = select_model_folder(model, None, None, sets)
    opening = ModelLoader(folder, tuple(sets or ()), routing, batch_tokens=tokens)  # type: ignore[arg-type]
    opening.check()
    predictor = opening.load()
    for text in asked.texts:
        found = explain(predictor, text, data_type, task, steps or STEPS)
        print_view(found.as_json(), lambda _, found=found: explanation_view(found), json_)
    if file is not None:
        print_view(build_lexicon(predictor, asked, steps or FEWER, quiet=False), lexicon_view, json_)


@app.command(
    "generate",
    epilog=examples(
        'moe generate runs/roles/moe-joint "The central bank said that"',
        "moe generate runs/roles/moe-joint --file prompts.txt --out answers.jsonl --max-new-tokens 64",
    ),
)
def generate_(
    model: Annotated[
        Path,
        typer.Argument(
            help="A mixture's, an expert's or a run's folder, of a language model.", show_default=False, callback=resolve_model
        ),
    ],
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
    from moe.inference.generate_command import GenerateRequest, run_generate
    from moe.inference.generator import Sampling

    sampling = Sampling(new_tokens, temperature, top_p, seed)
    plain = json_ or not sys.stdout.isatty()
    asked = tuple(prompts or ())
    wanted = GenerateRequest(model, asked, file, text_column, out, data_type, routing, plain, chat, sampling, spreadsheet)
    wanted.check()
    run_generate(wanted)

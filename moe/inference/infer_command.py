"""The `moe infer` command: texts from arguments, a file, standard input or a prompt; predictions to any output."""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial, reduce
from itertools import islice
from operator import add

from rich.console import Console
from rich.prompt import Prompt

from moe.console import format_json, info, progress_bar
from moe.inference.load import LoadOptions, load
from moe.inference.multiprocess import predict_in_processes, threads_per_worker
from moe.inference.predictor import Predictor
from moe.inference.rows import Row
from moe.inference.stream import predict_rows
from moe.inference.text_io import ADDED, PREDICTED, InputColumns, OutputTarget, TextSource, with_progress
from moe.inference.windows import RoutingCount
from moe.report.terminal import answers_table
from moe.runs.model_ref import ModelRef

TABLE_ROWS = 20


def run_infer(
    source: TextSource,
    target: OutputTarget,
    ref: ModelRef,
    options: LoadOptions = LoadOptions(),
    *,
    domain: str | None = None,
    task: str | None = None,
    workers: int = 1,
    as_json: bool = False,
) -> None:
    """Run `moe infer`: predictions to a file, as JSON lines, as a table, or at a prompt.

    At the end of a run it states how the texts were routed, once: as a line on standard error, unless all experts were
    mixed, or with `as_json` as one JSON object, with `routing` and `experts_skipped`, the mean share
    of the experts that were not computed for a text. Standard output holds this object if predictions go to a file;
    otherwise it holds only predictions, and standard error has the object.

    Args:
        source: without texts and a file, texts are read from standard input or a prompt.
        target: without a file, predictions are printed.
        ref: the model.
        options: how it is loaded.
        domain: restricts the texts to the experts of this domain.
        task: the task to predict, if there are several.
        workers: number of processes; without `threads` in the options, the cores are divided among them.
        as_json: print JSON lines instead of a table, also on a terminal, and state the routing as JSON.

    Raises:
        Fault: if an option is invalid, the domain or task is unknown, the model cannot be loaded, there are more
            workers than cores, or the file is an input, exists or cannot be written.
    """
    options.check()
    source.check()
    source.kept_columns()
    target.check([source.file, ref.folder])
    if workers > 1 or options.threads:
        threads_per_worker(workers, options.threads)

    def load_predictor() -> Predictor:
        predictor = load(ref, options)
        predictor.check(task, domain, source.has_target)
        return predictor

    if not source.texts and not source.file and sys.stdin.isatty():
        _run_prompt(source.targets, load_predictor(), domain, task)
        return
    with target.lock():
        predictor = load_predictor() if workers == 1 else None
        counts: list[RoutingCount] = []
        if predictor is not None:
            predict: Callable[[Iterable[Row]], Iterator[Row]] = partial(
                predict_rows, predictor=predictor, domain=domain, task=task
            )
        else:
            predict = partial(
                predict_in_processes,
                ref=ref,
                options=options,
                domain=domain,
                task=task,
                workers=workers,
                target=source.has_target,
                on_routed=counts.append,
            )
        _predict(source, target, predict, plain=as_json or not sys.stdout.isatty())
    if predictor is not None:
        counts = [predictor.routing_count]
    if counts:
        _print_routing(reduce(add, counts), as_json, to_file=target.path is not None)


def _print_routing(count: RoutingCount, as_json: bool, to_file: bool) -> None:
    skipped = count.skipped_share
    if as_json:
        stream = sys.stdout if to_file else sys.stderr
        summary = {"routing": count.routing, "experts_skipped": round(skipped, 6)}
        print(format_json(summary, getattr(stream, "encoding", None)), file=stream, flush=True)
    elif skipped > 0:
        info(f"routing {count.routing}: {skipped:.1%} of the experts per text were not computed")


def input_columns(source: TextSource) -> InputColumns:
    """Return the columns of a source's file that predictions would otherwise replace."""
    columns, written = source.columns, [*PREDICTED, *ADDED]
    used = {"id": "id", "text": columns.text} | ({"target": columns.target} if columns.target else {})
    written += [] if columns.target else ["target"]
    return InputColumns.of(source.column_names(), written, used, source.kept_columns())


def _predict(
    source: TextSource, target: OutputTarget, predict: Callable[[Iterable[Row]], Iterator[Row]], plain: bool
) -> None:
    columns = input_columns(source)
    quiet = target.path is None and sys.stdout.isatty()  # the table shows the progress
    with progress_bar("infer", source.count(), "text", quiet) as meter:
        rows = with_progress(predict(source.rows(columns)), meter)
        if target.path is not None or plain:
            target.write(columns.restore(rows))
        else:
            _print_tables(rows)


def _print_tables(rows: Iterator[Row]) -> None:
    console = Console()
    while table := list(islice(rows, TABLE_ROWS)):
        console.print(answers_table(table))


def _run_prompt(targets: Iterable[str], predictor: Predictor, domain: str | None, task: str | None) -> None:
    """Predict typed texts one at a time, until an empty line or the end of input."""
    console = Console()
    console.print("Type a text; an empty line ends.", style="dim")
    while True:
        try:
            text = Prompt.ask("text", console=console, default="", show_default=False)
        except EOFError:
            return
        if not text.strip():
            return
        inputs: list[Row] = [{"text": text, "target": target} for target in targets] or [{"text": text}]
        console.print(answers_table(predict_rows(inputs, predictor, domain, task)))

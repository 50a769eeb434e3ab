"""The `moe infer` command: texts from arguments, a file, standard input or a prompt; predictions to any output."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.prompt import Prompt

from experts.errors import Fault
from experts.locks import output_lock
from moe.console import progress_bar
from moe.data.formats.content import TextForm
from moe.data.formats.readers import columns_of_texts, read_column_names, read_texts
from moe.data.formats.text_format import TextFormat
from moe.data.formats.text_lines import stream_lines
from moe.data.schema import Columns
from moe.data.text_checks import check_targets, is_encodable, string_or_none, text_problem
from moe.inference.input_columns import ADDED, PREDICTED, InputColumns
from moe.inference.load import LoadOptions, load
from moe.inference.multiprocess import predict_in_processes, threads_per_worker
from moe.inference.output import check_output, print_json_lines, with_progress, write_rows
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_rows
from moe.report.terminal import answers_table
from moe.runs.model_ref import ModelRef

TABLE_ROWS = 20


@dataclass(frozen=True)
class InferRequest:
    """Options of one call of `moe infer`.

    Args:
        texts: from the command line; without texts and a file they are read from standard input or a prompt.
        file: a file of texts, in any format that `read_texts` reads.
        text_column: the file's text column.
        targets: entities for each of which every text is predicted.
        target_column: the file's target column; by default `target`, if there is one.
        text_format: encoding and separator of the file, if they cannot be detected.
        overwrite: replace an existing output file.
        out: a file for the predictions; None is standard output.
        domain: restricts the texts to the experts of this domain.
        task: the task to predict, if there are several.
        plain: print JSON lines instead of a table.
        workers: number of processes.
        threads: threads of each process; None divides the cores among them.
        spreadsheet: escape texts in CSV that a spreadsheet would run as formulas.
    """

    texts: tuple[str, ...]
    file: Path | None
    text_column: str
    out: Path | None
    domain: str | None
    task: str | None
    plain: bool
    workers: int = 1
    threads: int | None = None
    spreadsheet: bool = False
    targets: tuple[str, ...] = ()
    target_column: str | None = None
    text_format: TextFormat = TextFormat()
    overwrite: bool = False

    def check(self) -> None:
        """Check the options, before anything slow is loaded.

        Raises:
            Fault: for texts together with a file, an empty text or target, too many targets, a file that cannot be
                read, an output file that is the input or exists, an unknown suffix, or more workers than cores.
        """
        threads_per_worker(self.workers, self.threads)
        if self.texts and self.file:
            raise Fault("texts or --file", "both", "give one of them")
        if any(not text.strip() for text in self.texts):
            raise Fault("a text with words in it", "an empty text", "quote the text after moe infer")
        if any(not is_encodable(text) for text in self.texts):
            raise Fault(
                "texts in UTF-8", "bytes in another encoding", "put the texts into a file and convert it with iconv"
            )
        check_targets(self.targets)
        if self.target_column is not None and (self.file is None or self.targets):
            problem = "--target-column with --target" if self.targets else "--target-column without --file"
            raise Fault("targets from --target or from a column of a file", problem, "remove --target-column")
        check_output(self.out, self.spreadsheet, [self.file], self.overwrite)
        if self.file:
            read_texts(self.file, self.columns, self.text_format)

    @cached_property
    def columns(self) -> Columns:
        """Column names of the file."""
        if self.targets or self.file is None:
            return Columns(text=self.text_column)
        return columns_of_texts(self.file, self.text_column, self.target_column, self.text_format)

    @cached_property
    def input_columns(self) -> InputColumns:
        """Columns of the file that the output would otherwise replace."""
        if self.file is None:
            return InputColumns()
        columns, written = self.columns, [*PREDICTED, *ADDED]
        used = {"id": "id", "text": columns.text} | ({"target": columns.target} if columns.target else {})
        written += [] if columns.target else ["target"]
        return InputColumns.of(read_column_names(self.file, columns.required(), self.text_format), written, used)

    @property
    def has_target(self) -> bool | None:
        """Whether all texts have a target (True) or none has (False); None if rows of the file may have one."""
        if self.targets or self.target_column is not None:
            return True
        return None if self.columns.target is not None else False


def run_infer(request: InferRequest, ref: ModelRef, options: LoadOptions = LoadOptions()) -> None:
    """Run `moe infer`: predictions to a file, as JSON lines, as a table, or at a prompt.

    Raises:
        Fault: if the domain or task is unknown, the model cannot be loaded, or the file cannot be written.
    """
    options.check()
    check_output(request.out, request.spreadsheet, [request.file, ref.folder], request.overwrite)
    if not request.texts and not request.file and sys.stdin.isatty():
        _run_prompt(request, _load_predictor(request, ref, options))
        return
    with output_lock(request.out) if request.out else nullcontext():
        _run_stream(request, ref, options)


def _run_stream(request: InferRequest, ref: ModelRef, options: LoadOptions) -> None:
    predict = _build_predict(request, ref, options)
    total = _count_texts(request)
    quiet = request.out is None and sys.stdout.isatty()  # the table shows the progress
    with progress_bar("infer", total, "text", quiet) as meter:
        rows = with_progress(predict(_input_rows(request)), meter)
        if request.out:
            write_rows(request.input_columns.restore(rows), request.out, request.spreadsheet, request.overwrite)
        elif request.plain:
            print_json_lines(request.input_columns.restore(rows))
        else:
            _print_tables(rows)


def _load_predictor(request: InferRequest, ref: ModelRef, options: LoadOptions) -> Predictor:
    predictor = load(ref, options)
    predictor.check(request.task, request.domain, request.has_target)
    return predictor


def _build_predict(
    request: InferRequest, ref: ModelRef, options: LoadOptions
) -> Callable[[Iterable[dict[str, Any]]], Iterator[dict[str, Any]]]:
    domain, task = request.domain, request.task
    if request.workers == 1:
        return partial(predict_rows, predictor=_load_predictor(request, ref, options), domain=domain, task=task)
    return partial(
        predict_in_processes,
        ref=ref,
        options=options,
        domain=domain,
        task=task,
        target=request.has_target,
        workers=request.workers,
        threads=request.threads,
    )


def _count_texts(request: InferRequest) -> int | None:
    """Number of texts for the progress bar; None if unknown. A file is counted only if the bar is visible."""
    if request.file is None or not sys.stderr.isatty():
        return len(request.texts) * max(1, len(request.targets)) or None
    return sum(1 for _ in read_texts(request.file, request.columns, request.text_format)) * max(1, len(request.targets))


def _input_rows(request: InferRequest) -> Iterator[dict[str, Any]]:
    """Rows to predict: each text for each target, or for that of its own row."""
    for row in _text_rows(request):
        if request.targets and "error" not in row:
            yield from (row | {"target": target} for target in request.targets)
        else:
            yield row


def _text_rows(request: InferRequest) -> Iterator[dict[str, Any]]:
    if request.file:
        others = request.input_columns.carried
        for record in read_texts(request.file, request.columns, request.text_format, others):
            row = {
                "id": record.values.get("id"),
                "line": record.line,
                "text": string_or_none(record.values.get("text")),
            }
            if request.columns.target is not None:
                target = record.values.get("target")
                row["target"] = string_or_none(target) if record.error else target
            row = request.input_columns.attach(row, record.values)
            yield row | ({"error": record.error} if record.error else {})
    elif request.texts:
        yield from ({"text": text} for text in request.texts)
    else:
        yield from _standard_input(request.text_format)


def _standard_input(text_format: TextFormat) -> Iterator[dict[str, Any]]:
    """Rows of standard input, as `read_texts` reads them from a file of the same bytes."""
    form = None if text_format.encoding is None else TextForm(text_format.encoding)
    for line in stream_lines(sys.stdin.buffer, form):
        text = line.text.rstrip("\r\n")
        error = line.error or text_problem(text)
        yield {"line": line.number, "text": text} | ({"error": error} if error else {})


def _print_tables(rows: Iterator[dict[str, Any]]) -> None:
    console = Console()
    while table := list(islice(rows, TABLE_ROWS)):
        console.print(answers_table(table))


def _run_prompt(request: InferRequest, predictor: Predictor) -> None:
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
        inputs = [{"text": text} | ({"target": target} if target else {}) for target in request.targets or ("",)]
        rows = predict_rows(inputs, predictor, request.domain, request.task)
        console.print(answers_table(rows))

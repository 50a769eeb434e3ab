"""What `moe infer` is asked: where texts come from, where answers go, on a terminal, in a pipe, in a file.

The answers themselves are `moe.inference.stream`'s.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.prompt import Prompt

from experts.errors import Fault
from moe.console import bar
from moe.data.readers import is_encodable, read_texts
from moe.data.schema import Columns
from moe.inference.loading import ModelLoader
from moe.inference.multiprocess import predict_in_processes, threads_per_worker
from moe.inference.output import print_json_lines, check_output, with_progress, write_rows
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_rows
from moe.report.terminal import answers_table

SCREEN = 20


@dataclass(frozen=True)
class InferRequest:
    """One call of `moe infer`.

    Args:
        texts: from the command line; none and no file means standard input or a prompt.
        out: a file for the answers; none means standard output.
        domain: pins the texts to a domain's experts.
        plain: JSON lines instead of a table.
        workers: processes that answer.
        threads: of each; None shares the cores out.
        spreadsheet: texts in csv that a spreadsheet would run are escaped.
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

    def check(self) -> None:
        """Refuse what cannot work before anything heavy is loaded.

        Raises:
            Fault: for texts beside a file, an empty text, a file that cannot be read, an unknown ending, more workers
                than cores.
        """
        threads_per_worker(self.workers, self.threads)
        if self.texts and self.file:
            raise Fault("texts or --file", "both", "give one of them")
        if any(not text.strip() for text in self.texts):
            raise Fault("a text with words in it", "an empty one", "quote the text after moe infer")
        if any(not is_encodable(text) for text in self.texts):
            raise Fault("texts in UTF-8", "bytes that are none", "put them into a file, and convert it with iconv")
        check_output(self.out, self.spreadsheet)
        if self.file:
            read_texts(self.file, self.columns)

    @property
    def columns(self) -> Columns:
        """How the file's columns are called."""
        return Columns(text=self.text_column)


def run_infer(request: InferRequest, opening: ModelLoader) -> None:
    """Answer what was asked, to a file, as JSON lines, as a table, or at a prompt.

    Raises:
        Fault: when domain or task are unknown, the model cannot be opened so, or the file cannot be written.
    """
    opening.check()
    if not request.texts and not request.file and sys.stdin.isatty():
        return _prompt(request, _predictor(request, opening))
    answer = _answerer(request, opening)
    total = _count(request)
    quiet = request.out is None and sys.stdout.isatty()  # the table is progress enough
    with bar("infer", total, "text", quiet) as meter:
        answers = with_progress(answer(_rows(request)), meter)
        if request.out:
            return write_rows(answers, request.out, request.spreadsheet)
        return print_json_lines(answers) if request.plain else _as_tables(answers)


def _predictor(request: InferRequest, opening: ModelLoader) -> Predictor:
    if request.threads:
        torch.set_num_threads(request.threads)
    predictor = opening.load()
    predictor.check(request.task, request.domain)
    return predictor


def _answerer(request: InferRequest, opening: ModelLoader) -> Callable[[Iterable[dict[str, Any]]], Iterator[dict[str, Any]]]:
    domain, task = request.domain, request.task
    if request.workers == 1:
        return partial(predict_rows, predictor=_predictor(request, opening), domain=domain, task=task)
    return partial(
        predict_in_processes,
        opening=opening,
        domain=domain,
        task=task,
        workers=request.workers,
        threads=request.threads,
    )


def _count(request: InferRequest) -> int | None:
    """Rows to come, counted only where somebody watches the bar."""
    if request.file is None or not sys.stderr.isatty():
        return len(request.texts) or None
    return sum(1 for _ in read_texts(request.file, request.columns))


def _rows(request: InferRequest) -> Iterator[dict[str, Any]]:
    if request.file:
        for record in read_texts(request.file, request.columns):
            row = {"id": record.values.get("id"), "line": record.line, "text": record.values.get("text")}
            yield row | ({"error": record.error} if record.error else {})
    elif request.texts:
        yield from ({"text": text} for text in request.texts)
    else:
        yield from _standard_input()


def _standard_input() -> Iterator[dict[str, Any]]:
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            text = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield {"line": number, "text": None, "error": f"broken encoding: {error.reason}"}
            continue
        yield {"line": number, "text": text} | ({} if text.strip() else {"error": "missing text"})


def _as_tables(answers: Iterator[dict[str, Any]]) -> None:
    console = Console()
    while screen := list(islice(answers, SCREEN)):
        console.print(answers_table(screen))


def _prompt(request: InferRequest, predictor: Predictor) -> None:
    """Texts typed one by one, until an empty line or the end of input."""
    console = Console()
    console.print("Type a text; an empty line ends.", style="dim")
    while True:
        try:
            text = Prompt.ask("text", console=console, default="", show_default=False)
        except EOFError:
            return
        if not text.strip():
            return
        rows = predict_rows([{"text": text}], predictor, request.domain, request.task)
        console.print(answers_table(rows))

"""The `moe generate` command: prompts from arguments or a file; answers to a terminal, a pipe or a file."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TextStreamer

from experts.errors import Fault
from experts.locks import output_lock
from moe.console import progress_bar
from moe.data.formats.readers import read_column_names, read_texts
from moe.data.schema import Columns
from moe.data.text_checks import is_encodable, string_or_none
from moe.inference.finite import NonFiniteScores
from moe.inference.generator import GeneratedText, Generator, Sampling
from moe.inference.input_columns import ADDED, GENERATED, InputColumns
from moe.inference.load import check_routing
from moe.inference.load_mixture import LoadedMixture, load_mixture
from moe.inference.output import check_output, print_json_lines, with_progress, write_rows
from moe.runs.model_ref import ModelRef

CHUNK_SIZE = 64  # prompts sorted by length together


@dataclass(frozen=True)
class GenerateRequest:
    """Options of one call of `moe generate`.

    Args:
        model: a mixture or a single expert.
        prompts: from the command line.
        file: a file of prompts, instead of `prompts`.
        text_column: the file's text column.
        out: a file for the answers; None is standard output.
        domain: restricts the prompts to the experts of this domain.
        routing: `soft` or `hard`.
        plain: print JSON lines instead of streamed text.
        chat: whether to use the backbone's chat template; None uses it if there is one.
        sampling: how tokens are drawn.
        spreadsheet: escape texts in CSV that a spreadsheet would run as formulas.
        overwrite: replace an existing output file.
    """

    model: ModelRef
    prompts: tuple[str, ...]
    file: Path | None
    text_column: str
    out: Path | None
    domain: str | None
    routing: str
    plain: bool
    chat: bool | None
    sampling: Sampling
    spreadsheet: bool = False
    overwrite: bool = False

    @cached_property
    def input_columns(self) -> InputColumns:
        """Columns of the file that the output would otherwise replace."""
        if self.file is None:
            return InputColumns()
        used = {"id": "id"} | ({} if self.text_column != "prompt" else {"prompt": "prompt"})
        return InputColumns.of(read_column_names(self.file), [*GENERATED, *ADDED], used)

    def check(self) -> None:
        """Check the options, before anything slow is loaded.

        Raises:
            Fault: without prompts, for prompts together with a file, an empty prompt, a file that cannot be read, an
                output file that is an input or exists, an unknown suffix or routing, or a sampling option out of range.
        """
        check_routing(self.routing)
        self.sampling.check()
        if bool(self.prompts) == bool(self.file):
            raise Fault("prompts or --file", "both" if self.file else "neither", "give one of them")
        if any(not prompt.strip() for prompt in self.prompts):
            raise Fault("a prompt with words in it", "an empty prompt", "quote the prompt after the model")
        if any(not is_encodable(prompt) for prompt in self.prompts):
            raise Fault(
                "prompts in UTF-8", "bytes in another encoding", "put the prompts into a file and convert it with iconv"
            )
        check_output(self.out, self.spreadsheet, [self.file, self.model.folder], self.overwrite)
        if self.file:
            read_texts(self.file, Columns(text=self.text_column))


def run_generate(request: GenerateRequest) -> None:
    """Run `moe generate`: answers streamed to a terminal, as JSON lines, or to a file.

    Raises:
        Fault: if the model cannot be loaded or is no causal language model, or the file cannot be written.
    """
    with output_lock(request.out) if request.out else nullcontext():
        _run_loaded(request, load_mixture(request.model, language=True))


def _run_loaded(request: GenerateRequest, loaded: LoadedMixture) -> None:
    model = loaded.model
    mode = model.mode.as_hard(request.routing == "hard")
    generator = Generator(model, loaded.template, request.sampling, mode=mode, chat=request.chat)
    if request.out is None and not request.plain and request.file is None:
        _stream_to_terminal(request, generator)
        return
    with progress_bar(
        "generate", len(request.prompts) or None, "prompt", request.out is None and not request.plain
    ) as meter:
        generated = _generate_rows(_input_rows(request), generator, request.domain)
        rows = with_progress(request.input_columns.restore(generated), meter)
        if request.out:
            write_rows(rows, request.out, request.spreadsheet, request.overwrite)
        else:
            print_json_lines(rows)


def _stream_to_terminal(request: GenerateRequest, generator: Generator) -> None:
    console = Console()
    for prompt in request.prompts:
        streamer = TextStreamer(generator.tokenizer, skip_prompt=True, skip_special_tokens=True)
        (generated,) = generator.generate([generator.encode(prompt)], request.domain, streamer)
        if weights := _expert_weights(generated):
            console.print(", ".join(f"{name} {weight:.0%}" for name, weight in weights.items()), style="dim")


def _expert_weights(generated: GeneratedText) -> dict[str, float]:
    return {name: round(weight, 6) for name, weight in (generated.routing_weights or {}).items()}


def _input_rows(request: GenerateRequest) -> Iterator[dict[str, Any]]:
    if request.file is None:
        yield from ({"prompt": prompt} for prompt in request.prompts)
        return
    columns = Columns(text=request.text_column)
    for record in read_texts(request.file, columns, carried=request.input_columns.carried):
        row = {"id": record.values.get("id"), "line": record.line, "prompt": string_or_none(record.values.get("text"))}
        yield request.input_columns.attach(row | ({"error": record.error} if record.error else {}), record.values)


def _generate_rows(rows: Iterable[dict[str, Any]], generator: Generator, pin: str | None) -> Iterator[dict[str, Any]]:
    """The rows in order, each with `answer` and `experts`, or with the `error` that prevented an answer."""
    stream = (_encode_row(row, generator) for row in rows)
    while chunk := list(islice(stream, CHUNK_SIZE)):
        generated = iter(_generate_or_fail(generator, [ids for _, ids in chunk if ids is not None], pin))
        for row, ids in chunk:
            if ids is None:
                yield row
            else:
                answer = next(generated)
                if isinstance(answer, NonFiniteScores):
                    yield row | {"error": f"no finite answer: {answer.found}"}
                else:
                    yield row | {"answer": answer.text, "experts": _expert_weights(answer)}


def _generate_or_fail(
    generator: Generator, prompts: Sequence[Sequence[int]], pin: str | None
) -> list[GeneratedText | NonFiniteScores]:
    """Answers to prompts; if the output for one is not finite, each is generated by itself, and that one is a fault."""
    try:
        return list(generator.generate(prompts, pin))
    except NonFiniteScores as fault:
        if len(prompts) == 1:
            return [fault]
        return [answer for ids in prompts for answer in _generate_or_fail(generator, [ids], pin)]


def _encode_row(row: dict[str, Any], generator: Generator) -> tuple[dict[str, Any], list[int] | None]:
    if "error" in row:
        return row, None
    try:
        return row, generator.encode(row["prompt"])
    except Fault as fault:
        if "line" not in row:  # a prompt of the command line, not of a file
            raise
        return row | {"error": str(fault)}, None

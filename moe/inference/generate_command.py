"""What `moe generate` is asked: where prompts come from, where answers go, on a terminal, in a pipe, in a file.

The answers themselves are `moe.inference.generator`'s.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TextStreamer

from experts.errors import Fault
from moe.console import bar
from moe.data.readers import is_encodable, read_texts
from moe.data.schema import Columns
from moe.inference.generator import Generator, Sampling, GeneratedText
from moe.inference.loading import check_routing, load_language_model
from moe.inference.output import print_json_lines, check_output, with_progress, write_rows

WINDOW = 64  # prompts that are sorted by length together


@dataclass(frozen=True)
class GenerateRequest:
    """One call of `moe generate`.

    Args:
        model: a mixture's or an expert's folder.
        prompts: from the command line.
        out: a file for the answers; none means standard output.
        domain: pins the prompts to a domain's experts.
        plain: JSON lines instead of text that runs on.
        chat: in the backbone's chat template; None where it has one.
        spreadsheet: texts in csv that a spreadsheet would run are escaped.
    """

    model: Path
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

    def check(self) -> None:
        """Refuse what cannot work before anything heavy is loaded.

        Raises:
            Fault: for no prompt, prompts beside a file, an empty one, a file that cannot be read, an unknown ending,
                routing or number.
        """
        check_routing(self.routing)
        self.sampling.check()
        if bool(self.prompts) == bool(self.file):
            raise Fault("prompts or --file", "both" if self.file else "neither", "give one of them")
        if any(not prompt.strip() for prompt in self.prompts):
            raise Fault("a prompt with words in it", "an empty one", "quote the prompt after the model")
        if any(not is_encodable(prompt) for prompt in self.prompts):
            raise Fault("prompts in UTF-8", "bytes that are none", "put them into a file, and convert it with iconv")
        check_output(self.out, self.spreadsheet)
        if self.file:
            read_texts(self.file, Columns(text=self.text_column))


def run_generate(wanted: GenerateRequest) -> None:
    """Answer what was asked: word by word on a terminal, as JSON lines in a pipe, or to a file.

    Raises:
        Fault: when the model cannot be opened or cannot write, or the file cannot be written.
    """
    generator = _generator(wanted)
    if wanted.out is None and not wanted.plain and wanted.file is None:
        return _aloud(wanted, generator)
    with bar("generate", len(wanted.prompts) or None, "prompt", wanted.out is None and not wanted.plain) as meter:
        answers = with_progress(_answered(_rows(wanted), generator, wanted.domain), meter)
        return write_rows(answers, wanted.out, wanted.spreadsheet) if wanted.out else print_json_lines(answers)


def _generator(wanted: GenerateRequest) -> Generator:
    model, template = load_language_model(wanted.model)
    return Generator(model, template, wanted.sampling, wanted.routing == "hard", wanted.chat)


def _aloud(wanted: GenerateRequest, generator: Generator) -> None:
    console = Console()
    for prompt in wanted.prompts:
        streamer = TextStreamer(generator.tokenizer, skip_prompt=True, skip_special_tokens=True)
        (written,) = generator.generate([generator.encode(prompt)], wanted.domain, streamer)
        if told := _experts(written):
            console.print(", ".join(f"{name} {share:.0%}" for name, share in told.items()), style="dim")


def _experts(written: GeneratedText) -> dict[str, float]:
    return {name: round(share, 6) for name, share in (written.routing_weights or {}).items()}


def _rows(wanted: GenerateRequest) -> Iterator[dict[str, Any]]:
    if wanted.file is None:
        yield from ({"prompt": prompt} for prompt in wanted.prompts)
        return
    for record in read_texts(wanted.file, Columns(text=wanted.text_column)):
        row = {"id": record.values.get("id"), "line": record.line, "prompt": record.values.get("text")}
        yield row | ({"error": record.error} if record.error else {})


def _answered(rows: Iterable[dict[str, Any]], generator: Generator, pin: str | None) -> Iterator[dict[str, Any]]:
    """Every row in its place, with `answer` and `experts`, or the `error` that kept it from one."""
    stream = (_prepared(row, generator) for row in rows)
    while window := list(islice(stream, WINDOW)):
        answers = iter(generator.generate([ids for _, ids in window if ids is not None], pin))
        for row, ids in window:
            yield row if ids is None else _with(row, next(answers))


def _prepared(row: dict[str, Any], generator: Generator) -> tuple[dict[str, Any], list[int] | None]:
    if "error" in row:
        return row, None
    try:
        return row, generator.encode(row["prompt"])
    except Fault as fault:
        if "line" not in row:  # typed, not read from a file
            raise
        return row | {"error": str(fault)}, None


def _with(row: dict[str, Any], written: GeneratedText) -> dict[str, Any]:
    return row | {"answer": written.text, "experts": _experts(written)}

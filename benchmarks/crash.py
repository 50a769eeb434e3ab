"""Crash test: every command of a run is killed at random moments and called again; its files must be those of a run
that was never disturbed.

Run: `python benchmarks/crash.py [--kills N] [--seeds N] [--short] [--only STEP] [--write PAGE] [--keep FOLDER]`. The
model is a tiny random BERT and the texts are the made-up sample, so that a command takes few seconds. Kills are
SIGKILL. Of five, two come at a random time, two at a random file operation of the command, and one at a random time of
a fresh interpreter, its start included. Half of the training commands continue with `--resume`, the others are called
unchanged. Every third command is killed twice. `--write` replaces the table of a page between its marks.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from kills import Process, files_of, run_forked, run_fresh, start_server
from rich.console import Console

from moe.console import Table

JOINT_BEGINS = "logs/moe-joint"
MARKS = "<!-- crash: begin -->", "<!-- crash: end -->"
RUN = ("--config", "run.yaml", "--run", "run")
KINDS = ("operation", "time", "operation", "time", "fresh")
"""Kinds of kills, in turn."""
ATTEMPTS = 8
"""Draws of a moment until a command is killed: on a busy machine, its time varies."""


@dataclass(frozen=True)
class Step:
    """A command that is killed.

    Args:
        name: in the table, with the part of the command that matters.
        command: arguments of `moe`.
        again: options of every second call after a kill.
        until: part of a path; the undisturbed run of this row ends where it is first written.
    """

    name: str
    command: tuple[str, ...]
    again: tuple[str, ...] = ()
    until: str = ""


def infer(ending: str) -> tuple[str, ...]:
    return ("infer", "--model", "run", "--file", "texts.csv", "--run", f"answers/answers.{ending}")


STEPS = (
    Step("shared expert: `moe train-expert --shared`", ("train-expert", "--shared", *RUN), ("--resume",)),
    Step("experts: `moe train-expert --all`", ("train-expert", "--all", *RUN), ("--resume",)),
    Step("`moe merge`", ("merge", *RUN)),
    Step("router alone: `moe train-router`", ("train-router", *RUN), ("--resume",), until=JOINT_BEGINS),
    Step("joint stage: `moe train-router`", ("train-router", *RUN), ("--resume",)),
    Step("pooled LoRA and comparison: `moe run`", ("run", *RUN), ("--resume",)),
    Step("`moe evaluate`", ("evaluate", *RUN)),
    Step("`moe calibrate`", ("calibrate", *RUN)),
    Step("`moe infer --out answers.csv`", infer("csv"), ("--overwrite",)),
    Step("`moe infer --out answers.jsonl`", infer("jsonl"), ("--overwrite",)),
    Step("`moe infer --out answers.parquet`", infer("parquet"), ("--overwrite",)),
    Step("`moe export --to peft`", ("export", "run", "--to", "peft"), ("--overwrite",)),
)


@dataclass
class Outcome:
    """Result of the kills of one step.

    Args:
        commands: number of commands that were killed, called again and compared.
        kills: number of kills, of which `writing` came at a file operation.
        faults: what differed, one entry for each command that did not survive.
    """

    commands: int = 0
    kills: int = 0
    writing: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Add the counts of another command."""
        self.commands += other.commands
        self.kills += other.kills
        self.writing += other.writing
        self.faults += other.faults


def write_inputs(folder: Path, seed: int, texts: int) -> None:
    """Write a tiny backbone with a tokenizer of the sample's words, a config, and a file of texts."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from moe.synthetic import generate

    rows = [row["text"] for domain in ("news", "forum") for row in generate(domain, texts, seed)]
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    words = sorted({word for text in rows for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text)})
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *words])}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words) + len(special),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder / "backbone")
    names = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder / "backbone")
    stage = {"steps": 12, "batch_size": 8, "evals": 3}
    run = {
        "seed": seed,
        "sample": {"rows": 60, "seed": seed},
        "backbone": {"name": "./backbone", "trunk_depth": 1, "max_length": 32},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
        "shared": {"r": 4, "alpha": 8},
        "domains": {name: {"labels": ["negative", "neutral", "positive"]} for name in ("news", "forum")},
        "stages": {"cache_trunk": True} | dict.fromkeys(("shared", "expert", "warmup", "joint"), stage),
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    lines = ["id,text", *(f'{i},"{text.replace(chr(34), chr(39))}"' for i, text in enumerate(rows))]
    (folder / "texts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


class Crashes:
    """The undisturbed run of one seed, and the kills that are compared with it.

    Args:
        folder: for the run, and for its state before and after every step.
        seed: of the run and of the moments.
        start_up: seconds that a fresh interpreter takes until the command begins.
    """

    def __init__(self, folder: Path, seed: int, start_up: float, texts: int) -> None:
        self.folder, self.states, self.start_up = folder / "work", folder / "states", start_up
        self.random = random.Random(seed)
        self.folder.mkdir(parents=True)
        write_inputs(self.folder, seed, texts)
        self._save("start")

    def _save(self, name: str) -> None:
        for part in ("run", "answers"):
            (self.folder / part).mkdir(exist_ok=True)
            shutil.copytree(self.folder / part, self.states / name / part, symlinks=True)

    def _restore(self, name: str) -> None:
        for part in ("run", "answers"):
            shutil.rmtree(self.folder / part, ignore_errors=True)
            shutil.copytree(self.states / name / part, self.folder / part, symlinks=True)

    def undisturbed(self, step: Step, before: str) -> tuple[Process, dict[str, str]]:
        """Run a step without a kill from a saved state, save the state after it, and return how it ended and its files.

        A step that ends where another one begins goes on in a second call, so that its files are those of its end.
        """
        self._restore(before)
        process = self._checked(step, die_before=step.until)
        self._save(step.name)
        if step.until:
            self._checked(step)
        return process, files_of(self.folder)

    def _checked(self, step: Step, die_before: str = "") -> Process:
        process = run_forked(self.folder, step.command, die_before=die_before)
        if process.code != (-signal.SIGKILL if die_before else 0):
            raise SystemExit(f"{step.name}: exit code {process.code} without a kill\n{self.log()}")
        return process

    def log(self, lines: int = 3) -> str:
        """Last lines that the command printed."""
        text = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.strip().splitlines()[-lines:])

    def kill(self, step: Step, number: int, before: str, normal: Process, expected: dict[str, str]) -> Outcome:
        """Kill a step, call it again, and compare its files.

        Args:
            number: of the command; decides the kind of kill, whether there are two, and how it is called again.
            before: saved state before the step.
            normal: how the step ends undisturbed.
            expected: its files then.
        """
        outcome, kind = Outcome(), KINDS[number % len(KINDS)]
        again = step.command + (step.again if number % 2 or step.again == ("--overwrite",) else ())
        for _ in range(ATTEMPTS):
            self._restore(before)
            moment, process = self._killed(step.command, kind, normal)
            if process.code != 0:
                break
        moments, codes = [moment], [process.code]
        if number % 3 == 2 and process.code == -signal.SIGKILL:
            second, process = self._killed(again, "operation", normal)
            moments += [second] if process.code else []
            codes += [process.code] if process.code else []
        if codes == [0]:
            return outcome  # it always ended before the kill
        outcome.commands, outcome.kills = 1, codes.count(-signal.SIGKILL)
        outcome.writing = sum("operation" in moment for moment in moments)
        process = run_forked(self.folder, again)
        files = files_of(self.folder)
        differing = sorted(name for name in files.keys() | expected.keys() if files.get(name) != expected.get(name))
        if process.code != 0 or differing:
            listed = ", ".join(f"{name} ({_difference(name, files, expected)})" for name in differing[:6])
            outcome.faults.append(
                f"{step.name}: killed {' and '.join(moments)}, exit codes {codes}; then moe {' '.join(again)}: exit "
                f"code {process.code}, {len(differing)} files differ: {listed}\n{self.log() if process.code else ''}"
            )
        return outcome

    def _killed(self, command: tuple[str, ...], kind: str, normal: Process) -> tuple[str, Process]:
        """Run a command to a kill, if it does not end before; return the moment in words, and how the command ended."""
        if kind == "operation":
            number = self.random.randint(1, max(1, normal.operations))
            return f"at file operation {number}", run_forked(self.folder, command, die_at=number)
        extra = self.start_up if kind == "fresh" else 0.0
        after = self.random.uniform(0.0, extra + normal.seconds)
        run = run_fresh if kind == "fresh" else run_forked
        return f"after {after:.2f} s{' with the start' if extra else ''}", run(self.folder, command, after)


def _difference(name: str, files: dict[str, str], expected: dict[str, str]) -> str:
    return "missing" if name not in files else "left over" if name not in expected else "other bytes"


def measure(
    folder: Path, steps: Sequence[Step], kills: int, seeds: int, texts: int, budget: float
) -> dict[str, Outcome]:
    """Kill every step `kills` times, distributed over runs with different seeds, until the seconds are used up."""
    outcomes, console, end = (
        {step.name: Outcome() for step in steps},
        Console(stderr=True),
        time.perf_counter() + budget,
    )
    start_up = 0.0
    for seed in range(seeds):
        crashes, before = Crashes(folder / str(seed), seed, start_up, texts), "start"
        normals: dict[str, tuple[str, Process, dict[str, str]]] = {}
        for step in STEPS:
            normal, expected = crashes.undisturbed(step, before)
            normals[step.name], before = (before, normal, expected), step.name
            console.print(f"seed {seed}, undisturbed: {step.name}, {normal.seconds:.1f} s", style="dim", markup=False)
        if not start_up:
            crashes.start_up = start_up = _start_up(crashes.folder)
        for number in range(seed, kills, seeds):
            for i, step in enumerate(steps):
                if time.perf_counter() > end:
                    return outcomes
                its = crashes.kill(step, number + i, *normals[step.name])
                outcomes[step.name].add(its)
                result = "not killed" if not its.commands else "differs" if its.faults else "same files"
                console.print(f"seed {seed}, kill {number + 1} of {kills}: {step.name}: {result}", markup=False)
                for fault in its.faults:
                    console.print(fault, style="red", markup=False, highlight=False)
    return outcomes


def _start_up(folder: Path) -> float:
    """Seconds that a fresh interpreter needs more than a forked one."""
    command = ("evaluate", *RUN)
    return max(0.0, run_fresh(folder, command).seconds - run_forked(folder, command).seconds)


def rows_of(outcomes: dict[str, Outcome]) -> Iterator[tuple[str, ...]]:
    """Cells of the table: one row for each step, and the sum."""
    total = Outcome()
    for name, outcome in outcomes.items():
        yield name, *_cells(outcome)
        total.add(outcome)
    yield "all", *_cells(total)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    survived = f"{outcome.commands - len(outcome.faults)} of {outcome.commands}"
    return str(outcome.commands), str(outcome.kills), str(outcome.writing), survived


HEADERS = ("step", "commands tried", "kills", "of these at a file operation", "survived")


def write_page(page: Path, rows: Sequence[tuple[str, ...]], call: str) -> None:
    """Replace the table of a page between its marks."""
    header, *lines = [f"| {' | '.join(cells)} |" for cells in (HEADERS, *rows)]
    table = [f"`{call}` wrote this table:", "", header, "|---" * len(HEADERS) + "|", *lines]
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page.write_text("\n".join([before + MARKS[0], *table, MARKS[1] + after]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill every command of a run and compare what it writes afterwards.")
    parser.add_argument("--kills", type=int, default=20, help="commands of every step that are killed")
    parser.add_argument("--seeds", type=int, default=4, help="runs with different seeds")
    parser.add_argument("--texts", type=int, default=60, help="texts of each domain in the file for infer")
    parser.add_argument("--minutes", type=float, default=60, help="no command begins after this time")
    parser.add_argument("--short", action="store_true", help="one command of every step and one seed, for CI")
    parser.add_argument("--only", action="append", choices=[step.name for step in STEPS], help="only this step")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this page")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this folder, and do not delete it")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    start_server()
    kills, seeds = (1, 1) if options.short else (options.kills, options.seeds)
    steps = [step for step in STEPS if not options.only or step.name in options.only]
    with tempfile.TemporaryDirectory(prefix="crash-") as temporary:
        folder = options.keep or Path(temporary)
        outcomes = measure(folder.resolve(), steps, kills, seeds, options.texts, options.minutes * 60)
    rows, table = list(rows_of(outcomes)), Table(*HEADERS)
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)
    if options.write:
        write_page(
            options.write,
            rows,
            f"python benchmarks/crash.py --kills {kills} --seeds {seeds} --minutes {options.minutes:g}",
        )
    sys.exit(any(outcome.faults for outcome in outcomes.values()))


if __name__ == "__main__":
    main()

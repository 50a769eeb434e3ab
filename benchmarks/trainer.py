"""Steps of training an expert: `moe train-expert` beside PEFT with transformers' Trainer, on the same batches.

Run: `python benchmarks/trainer.py [--steps 40] [--rounds 3] [--profile]`. Both train a LoRA of rank 16 on all linear
layers of the shipped backbone and a linear head, in fp32 with AdamW, on texts of the sample's news domain. The rows of
every batch are those that `moe train-expert` draws, in the same order; the Trainer pads each batch to its longest text,
as ours does. Every round trains both, each in a process of its own. A step lasts from the end of the one before to its
end, so data, hooks, losses and logs count; the first five steps do not. Ratios are ours : Trainer, medians of the
rounds. CPU seconds are less sensitive to other load on the machine than wall time. `--profile` prints where our steps
spend their time.
"""

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

BATCH, RANK, WARM = 32, 16, 5
"""Rows of a step, rank of the LoRA, and steps at the beginning that are not counted."""
OURS, THEIRS = "moe", "trainer"


def main() -> None:
    """Measure both in alternation, and print steps per second, CPU seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=960, help="training rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print a profile of our steps, and measure nothing")
    parser.add_argument("--only", choices=(OURS, THEIRS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(train_ours(args) if args.only == OURS else train_with_trainer(args)))
        return
    with TemporaryDirectory() as name:
        args.out = Path(name)
        if args.profile:
            print_profile(args)
            return
        rounds = [{part: measure_in_process(args, part) for part in (OURS, THEIRS)} for _ in range(args.rounds)]
    print_rounds(rounds)


def measure_in_process(args: argparse.Namespace, part: str) -> dict[str, float]:
    """Train one of the two in a process of its own, and return its seconds per step and its peak memory."""
    numbers = ["--steps", str(args.steps), "--rows", str(args.rows)]
    command = [sys.executable, sys.argv[0], "--only", part, "--out", str(args.out), *numbers]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


class StepClock:
    """Wall and CPU time at the end of every step; a callback of both trainers calls it."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def __call__(self) -> None:
        """Record the end of a step."""
        self.times.append((time.perf_counter(), time.process_time()))

    def summary(self) -> dict[str, float]:
        """Median wall and CPU seconds of the counted steps, and the process's peak memory in MiB."""
        from moe.profiling import peak_mib_since_start

        wall, cpu = np.diff(np.array(self.times[WARM - 1 :]), axis=0).T  # (steps - WARM,) each
        return {"wall": float(np.median(wall)), "cpu": float(np.median(cpu)), "mib": peak_mib_since_start() or 0.0}


def clock_callback(clock: StepClock) -> Any:
    """Return a callback of transformers that records the end of every step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock()

    return Clock()


def overrides(args: argparse.Namespace, folder: Path) -> list[str]:
    """Overrides of the demo's config: one expert of the sample's news domain, without evaluations on the way."""
    stage = {"steps": args.steps, "min_steps": 1, "epochs": "null", "batch_size": BATCH, "accumulate": 1, "evals": 1}
    return [
        f"data.folder={folder}",
        "shared=null",
        "track=[]",
        "backbone.dtype=float32",
        "backbone.trunk_depth=0",
        *(f"lora.{key}={value}" for key, value in {"r": RANK, "alpha": RANK, "dropout": 0.0}.items()),
        *(f"stages.expert.{key}={value}" for key, value in stage.items() if value != "null"),
    ]


def train_ours(args: argparse.Namespace) -> dict[str, float]:
    """Run `moe train-expert` with a clock, and write the texts and labels of its batches, in order."""
    from transformers import TrainerCallback

    from moe.config.run import load_run
    from moe.runs.workspace import Workspace
    from moe.synthetic import write_sample
    from moe.training.expert_steps import train_domain

    count, out = args.steps, args.out

    class Batches(TrainerCallback):
        """Writes which rows each step reads, before the first step."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **values: Any) -> None:
            loader = values["train_dataloader"]
            rows, sampler = loader.dataset, loader.batch_sampler
            steps: list[list[int]] = []
            for epoch in range(-(-count // len(sampler))):
                sampler.set_epoch(epoch)
                steps += list(sampler)
            chosen = rows.select([row for step in steps[:count] for row in step])
            content = {"text": list(chosen["text"]), "label": list(chosen["label"])}
            (out / "batches.json").write_text(json.dumps(content), encoding="utf-8")

    sample = args.out / "sample"
    if not sample.is_dir():
        write_sample(sample, args.rows * 2)
    clock = StepClock()
    with TemporaryDirectory() as name:
        run = load_run(None, [*overrides(args, sample), f"domains.news.max_train_rows={args.rows}"])
        train_domain(Workspace(run, Path(name), callbacks=(Batches(), clock_callback(clock))), "news")
    return clock.summary()


def train_with_trainer(args: argparse.Namespace) -> dict[str, float]:
    """Train PEFT's LoRA with transformers' Trainer on the batches that ours wrote."""
    from datasets import Dataset
    from paired_timing import peft_config
    from peft import TaskType, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from moe.model.backbone_files import shipped_folder

    content = json.loads((args.out / "batches.json").read_text(encoding="utf-8"))
    names = sorted(set(content["label"]))
    tokenizer = AutoTokenizer.from_pretrained(shipped_folder())
    rows = Dataset.from_dict({"text": content["text"], "labels": [names.index(label) for label in content["label"]]})
    rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=128), batched=True)
    config = peft_config(RANK)
    config.task_type = TaskType.SEQ_CLS
    base = AutoModelForSequenceClassification.from_pretrained(shipped_folder(), num_labels=len(names))
    clock = StepClock()

    class InOrder(Trainer):
        """Reads the rows in the order in which they are."""

        def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(rows)

    with TemporaryDirectory() as name:
        arguments = TrainingArguments(
            output_dir=name,
            max_steps=args.steps,
            per_device_train_batch_size=BATCH,
            learning_rate=5e-4,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        model = get_peft_model(base, config)
        collator = DataCollatorWithPadding(tokenizer)
        callbacks = [clock_callback(clock)]
        InOrder(model, arguments, train_dataset=rows, data_collator=collator, callbacks=callbacks).train()
    return clock.summary()


def print_profile(args: argparse.Namespace) -> None:
    """Print the functions in which our steps spend most time, by their own time."""
    profile = cProfile.Profile()
    profile.enable()
    train_ours(args)
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def print_rounds(rounds: Sequence[dict[str, dict[str, float]]]) -> None:
    """Print the medians of both, and the median of the rounds' ratios."""
    table = Table(title=f"one expert, r = {RANK}, {BATCH} rows a step; ours : Trainer", title_justify="left")
    for column in ("", OURS, "PEFT + Trainer", "ratio", "of rounds"):
        table.add_column(column)
    for key, label in (("wall", "seconds a step"), ("cpu", "CPU seconds a step"), ("mib", "peak MiB")):
        ours, theirs = (np.array([row[part][key] for row in rounds]) for part in (OURS, THEIRS))
        ratios = ours / theirs
        spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
        digits = 0 if key == "mib" else 3
        cells = (f"{np.median(values):,.{digits}f}" for values in (ours, theirs))
        table.add_row(label, *cells, f"{np.median(ratios):.3f}", spread)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

"""Many domains in one process: one mixture beside as many models with merged weights, and beside PEFT's adapters.

Run: `python benchmarks/domains.py [--experts 5 20 50] [--texts 600] [--rounds 3]`. A mixture of untrained experts of
rank 16 on the shipped backbone is written, and each of its experts merged into a copy of the backbone. Each row is a
process of its own that loads what it needs and reads the same mixed stream of texts, whose domains are known. Texts
of one domain share batches of similar length within the window of `moe infer`, in every row. Rows: the mixture with the
domain given (pinned), routed hard and routed soft; one merged model a domain; and PEFT with all adapters loaded, which
switches between them. Reported: start (from the process's start until the first text is read), resident memory, and
texts per second, the median of the rounds, which alternate. The pooled states of the rows that know the domain are
compared, so that all compute the same.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from paired_timing import build_untrained_with_card, load_texts
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experts.cards import EXPERTS
from moe.checkpoints.mixture import write_mixture
from moe.inference.batches import batch_by_tokens
from moe.inference.load import LoadOptions, load_torch
from moe.inference.torch_predictor import token_budget
from moe.model.backbone import BackboneSettings
from moe.model.backbone_files import shipped_folder
from moe.model.heads import pool
from moe.profiling import resident_mib, seconds_since_start
from moe.runs.model_ref import resolve

RANK, MAX_LENGTH = 16, 96
MIXTURE, MERGED = "mixture", "merged"
COMPARED = 32
"""Texts whose pooled states are compared."""
TOLERANCE = 1e-3
Encode = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""Pooled states (B, D) of texts (B) in domains (B)."""


def main() -> None:
    """Measure every row for every number of experts, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, nargs="*", default=[5, 20, 50])
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--only", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args, args.only, args.experts[0])))
        return
    for experts in args.experts:
        with TemporaryDirectory() as name:
            write_models(Path(name), experts, merged="merged models" in args.rows)
            rounds = [
                {row: measure_in_process(args, row, experts, Path(name)) for row in args.rows}
                for _ in range(args.rounds)
            ]
        print_rounds(rounds, experts)


def write_models(folder: Path, experts: int, merged: bool) -> None:
    """Write a mixture of untrained experts, and the backbone merged with each of them."""
    from peft import PeftModel
    from transformers import AutoModel

    model, card = build_untrained_with_card(experts, RANK, BackboneSettings(trunk_depth=0, max_length=MAX_LENGTH))
    write_mixture(folder / MIXTURE, model, card, "", {})
    for name in model.bank.routed_experts if merged else ():
        base = AutoModel.from_pretrained(shipped_folder())
        adapted: Any = PeftModel.from_pretrained(base, str(folder / MIXTURE / EXPERTS / name))
        adapted.merge_and_unload().save_pretrained(folder / MERGED / name)


def domain_names(experts: int) -> list[str]:
    """Names of the domains, which are those of their experts."""
    return [f"expert{i}" for i in range(experts)]


def measure_in_process(args: argparse.Namespace, row: str, experts: int, folder: Path) -> dict[str, Any]:
    """Measure a row in a process of its own."""
    sizes = ["--experts", str(experts), "--texts", str(args.texts), "--folder", str(folder)]
    done = subprocess.run(
        [sys.executable, sys.argv[0], "--only", row, *sizes], check=True, capture_output=True, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(args: argparse.Namespace, row: str, experts: int) -> dict[str, Any]:
    """Load a row's models, read the stream once, and return start, memory, speed and some pooled states."""
    encode = ROWS[row](args.folder, domain_names(experts))
    texts = load_texts(args.texts)
    domains = [f"expert{i * 7919 % experts}" for i in range(len(texts))]  # neighbours differ
    states = encode(texts[:COMPARED], domains[:COMPARED])
    started = seconds_since_start()
    begin = time.perf_counter()
    encode(texts, domains)
    seconds = time.perf_counter() - begin
    return {"start": started, "mib": resident_mib(), "speed": len(texts) / seconds, "states": states.tolist()}


def mixture_row(routing: str, pinned: bool) -> Callable[[Path, Sequence[str]], Encode]:
    """Return what loads the mixture with a routing."""

    def load(folder: Path, _: Sequence[str]) -> Encode:
        options = LoadOptions(sets=("backbone.dtype=float32",), routing="hard" if routing == "hard" else "soft")
        predictor = load_torch(resolve(folder / MIXTURE), options).with_states()

        def encode(texts: Sequence[str], domains: Sequence[str]) -> np.ndarray:
            parts = []
            for first in range(0, len(texts), predictor.chunk_size):
                chunk = slice(first, first + predictor.chunk_size)
                scores = predictor.score(texts[chunk], pin=domains[chunk] if pinned else None)
                assert scores.states is not None
                parts.append(scores.states)
            return np.concatenate(parts)

        return encode

    return load


def load_merged(folder: Path, names: Sequence[str]) -> Encode:
    """Load one model with merged weights for each domain."""
    from transformers import AutoModel

    models = {name: AutoModel.from_pretrained(folder / MERGED / name).eval() for name in names}
    return by_domain(lambda name: models[name])


def load_peft(folder: Path, names: Sequence[str]) -> Encode:
    """Load the backbone with every expert as an adapter of PEFT."""
    from peft import PeftModel
    from transformers import AutoModel

    experts = folder / MIXTURE / EXPERTS
    base = AutoModel.from_pretrained(shipped_folder())
    model: Any = PeftModel.from_pretrained(base, str(experts / names[0]), adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(str(experts / name), adapter_name=name)
    model.eval()

    def switch(name: str) -> Any:
        model.set_adapter(name)
        return model

    return by_domain(switch)


def by_domain(choose: Callable[[str], Any]) -> Encode:
    """Return what reads the texts of each domain by its own model, in batches of similar length in each window."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(shipped_folder())
    budget = token_budget(torch.device("cpu"), torch.float32)

    @torch.inference_mode()
    def encode(texts: Sequence[str], domains: Sequence[str]) -> np.ndarray:
        ids = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)["input_ids"]
        lengths, names = np.array([len(tokens) for tokens in ids]), np.array(domains)
        states: list[Tensor | None] = [None] * len(texts)
        window = max(1, budget // 2)
        for first in range(0, len(texts), window):
            inside = np.arange(first, min(first + window, len(texts)))
            for name in np.unique(names[inside]):
                model, own = choose(str(name)), inside[names[inside] == name]
                for part in batch_by_tokens(lengths[own], budget):
                    rows = own[part]
                    batch = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
                    hidden = model(**batch).last_hidden_state  # (B, T, D)
                    for i, state in zip(rows, pool(hidden, batch["attention_mask"], "mean"), strict=True):
                        states[i] = state
        return torch.stack([state for state in states if state is not None]).numpy()

    return encode


ROWS: dict[str, Callable[[Path, Sequence[str]], Encode]] = {
    "mixture, domain given": mixture_row("soft", pinned=True),
    "mixture, hard": mixture_row("hard", pinned=False),
    "mixture, soft": mixture_row("soft", pinned=False),
    "merged models": load_merged,
    "PEFT, switched": load_peft,
}
"""By name: what loads the models of a row."""
KNOWN = ("mixture, domain given", "merged models", "PEFT, switched")
"""Rows that are given each text's domain, and compute the same."""


def print_rounds(rounds: Sequence[dict[str, dict[str, Any]]], experts: int) -> None:
    """Print the medians of all rows, and the greatest difference of pooled states."""
    table = Table(title=f"{experts} domains", title_justify="left")
    for column in ("", "start, s", "MiB", "texts/s", "texts/s : merged models"):
        table.add_column(column)
    base = rounds[0].get("merged models") and [each["merged models"]["speed"] for each in rounds]
    for row in rounds[0]:
        results = [each[row] for each in rounds]
        speeds = [result["speed"] for result in results]
        ratio = f"{statistics.median(a / b for a, b in zip(speeds, base, strict=True)):.2f}" if base else ""
        start, mib = (statistics.median(result[key] for result in results) for key in ("start", "mib"))
        table.add_row(row, f"{start:.1f}", f"{mib:,.0f}", f"{statistics.median(speeds):,.0f}", ratio)
    console = Console(width=100)
    console.print(table)
    states = [np.array(rounds[0][row]["states"]) for row in KNOWN if row in rounds[0]]
    if len(states) > 1:
        difference = max(float(np.abs(other - states[0]).max()) for other in states[1:])
        assert difference < TOLERANCE, f"pooled states differ by {difference:g}"
        console.print(f"pooled states of the rows that know the domain differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()

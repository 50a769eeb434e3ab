"""Cost of each routing against the bare backbone on the same batches, for 5 and 20 experts.

Run: `python benchmarks/routing_cost.py [--texts FILE …] [--experts 5 20] [--rounds N] [--threads N]`. The weights are
random. The router's gates are set: nearly one-hot (a weight of .97 or more for one expert), as on texts of distinct
domains, or spread over two experts. The backbone runs on the batches that the routing made, before and after it; a
ratio is the median of the rounds' ratios, `best` that of the fastest rounds, and A/A that of the two backbone runs.

`--equality` compares the answers of pruned routing with those of soft routing instead, with the ready mixture or with
that of `--model`. `--profile` prints where the time of each routing goes, in milliseconds of the process's CPUs.

`--graph` compares each routing in the mixture's graph with soft routing in the same graph, and with the same routing by
PyTorch, both with `--threads` threads. The router is random, with weights that are nearly one-hot, or with `top_k: 2`.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from unittest.mock import patch

import numpy as np
import torch
from paired_timing import (
    Batch,
    Ratio,
    build_untrained,
    build_untrained_with_card,
    compare,
    forward_all,
    load_texts,
    print_ratios,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor

from moe.checkpoints.mixture import write_mixture
from moe.export.graph import write_graph
from moe.inference.graph.onnx_predictor import OnnxPredictor
from moe.inference.graph.session import GraphSession
from moe.inference.load import LoadOptions, load_torch
from moe.inference.stream import predict_texts
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import BackboneSettings, load_backbone
from moe.model.mixture import Mixture
from moe.model.mode import Routing
from moe.runs.model_ref import resolve

THRESHOLDS = (0.02, 0.03, 0.05, 0.1)
"""Values of `gate.prune` whose answers are compared."""


def set_gates(model: Mixture, shares: Sequence[float]) -> None:
    """Let the router give these weights to the experts of each text, in an order that depends on the text's tokens."""
    gate = model.gate
    assert gate is not None
    logits = torch.tensor([*shares, *[1e-3] * (gate.num_experts - len(shares))]).log()  # (E,)

    def by_text(summary: Tensor) -> Tensor:
        shifts = (summary[:, :8].abs().sum(1) * 1000).long() % gate.num_experts  # (B,)
        rows = torch.stack([logits.roll(int(shift)) for shift in shifts]) * gate.temperature  # (B, E)
        return torch.cat([rows, torch.zeros_like(rows)], 1)  # (B, G + E)

    gate.logits = by_text  # type: ignore[method-assign]


def record_batches(predictor: TorchPredictor, texts: Sequence[str], pin: Sequence[str] | None) -> list[Batch]:
    """Return the batches that the layers with experts compute for these texts."""
    batches: list[Batch] = []
    forward = predictor.model.forward

    def recorded(ids: Tensor, mask: Tensor, **options: object) -> object:
        batches.append((ids, mask))
        return forward(ids, mask, **options)  # type: ignore[arg-type]

    predictor.model.forward = recorded  # type: ignore[assignment, method-assign]
    predictor.score(texts, pin)
    predictor.model.forward = forward  # type: ignore[method-assign]
    return batches


def measure(
    model: Mixture, bare: Callable[..., object], texts: Sequence[str], routing: Routing, pinned: bool, rounds: int
) -> Ratio:
    """Compare a routing, tokenization and router included, with the bare backbone and tokenization."""
    predictor = TorchPredictor(model, "{text}", 128, routing)
    pin = [model.domains[0].name] * len(texts) if pinned else None
    for _ in range(2):  # the second time, the weights are folded
        batches = record_batches(predictor, texts, pin)

    def backbone() -> None:
        predictor.encode(texts)
        forward_all(bare, batches)()

    name = "pinned" if pinned else routing
    tokens = sum(ids.numel() for ids, _ in batches)
    title = f"{name}, E = {len(model.domains)}, {len(batches)} batches, {tokens:,} tokens with padding"
    return compare(title, lambda: predictor.score(texts, pin), backbone, "–", rounds)


PARTS: dict[str, tuple[type, str]] = {
    "tokens": (TorchPredictor, "_tokenize"),
    "padding": (TorchPredictor, "pad"),
    "router": (Mixture, "encode_trunk"),
    "layers, heads": (TorchPredictor, "forward"),
}
"""Methods that a call of `score` consists of, beside the making of batches; none calls another."""


def print_profile(
    model: Mixture, bare: Callable[..., object], texts: Sequence[str], rounds: int, console: Console
) -> None:
    """Print the CPU time of the parts of a call, by routing, and that of the bare backbone on the same batches."""
    table = Table(
        "routing", *PARTS, "the rest", "all", "bare, same batches", title="milliseconds, medians of the rounds"
    )
    ways: tuple[tuple[Routing, bool], ...] = (("soft", False), ("pruned", False), ("hard", False), ("soft", True))
    for routing, pinned in ways:
        predictor = TorchPredictor(model, "{text}", 128, routing)
        pin = [model.domains[0].name] * len(texts) if pinned else None
        for _ in range(2):
            batches = record_batches(predictor, texts, pin)
        lines = []
        for _ in range(rounds):
            with timed_parts() as spent:
                start = process_time()
                predictor.score(texts, pin)
                total = process_time() - start
            start = process_time()
            forward_all(bare, batches)()
            lines.append([*spent.values(), total - sum(spent.values()), total, process_time() - start])
        medians = 1000 * np.median(lines, 0)
        table.add_row("pinned" if pinned else routing, *(f"{value:.0f}" for value in medians))
    console.print(table)


@contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """Yield the CPU seconds spent in each part inside the context."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, method: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            start = process_time()
            try:
                return method(*args, **options)
            finally:
                spent[part] += process_time() - start

        return call

    with ExitStack() as stack:
        for part, (owner, name) in PARTS.items():
            stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        yield spent


def print_equality(model: str, texts: Sequence[str], console: Console) -> None:
    """Print how pruning changes a mixture's answers, by threshold."""
    predictor = load_torch(resolve(model), LoadOptions(sets=("backbone.dtype=float32",), routing="soft"))
    pruned, gate = predictor.with_options("pruned"), predictor.model.gate
    assert gate is not None
    soft, table = (
        predict_texts(texts, predictor),
        Table("gate.prune", "equal labels", "largest change", "dropped", "one expert"),
    )
    weights = np.array([answer.routing_weights for answer in soft])  # (B, E)
    for threshold in THRESHOLDS:
        gate.settings = gate.settings.model_copy(update={"prune": threshold})
        answers = predict_texts(texts, pruned)
        equal = np.mean([a.label == b.label for a, b in zip(soft, answers, strict=True)])
        change = max(np.abs(a.probabilities - b.probabilities).max() for a, b in zip(soft, answers, strict=True))
        dropped = weights < threshold  # (B, E)
        alone = (~dropped).sum(1) == 1  # (B,)
        table.add_row(f"{threshold:g}", f"{equal:.2%}", f"{change:.4f}", f"{dropped.mean():.0%}", f"{alone.mean():.0%}")
    console.print(table)


def measure_graph(experts: int, top_k: int | None, texts: Sequence[str], rounds: int, threads: int) -> Iterator[Ratio]:
    """Compare routings in the graph of a mixture of random experts and a random router."""
    torch.manual_seed(0)
    model, card = build_untrained_with_card(experts, 16, BackboneSettings(dtype="float32"))
    assert model.gate is not None
    card = card.model_copy(update={"gate": card.gate.model_copy(update={"top_k": top_k})})
    model.gate.settings = card.gate
    if top_k is None:
        with torch.no_grad():
            model.gate.log_temperature.fill_(math.log(card.gate.min_temperature))
    with TemporaryDirectory() as folder:
        write_mixture(Path(folder) / "moe", model, card, "", {})
        write_graph(Path(folder) / "moe")
        session = GraphSession(Path(folder) / "moe", threads or None)
        soft, pin = OnnxPredictor(session), [model.domains[0].name] * len(texts)
        ways: tuple[tuple[Routing, bool], ...] = (("pruned", False), ("hard", False), ("soft", True))
        for routing, pinned in ways:
            ours, theirs = OnnxPredictor(session, routing), TorchPredictor(model, "{text}", 96, routing)
            given = pin if pinned else None
            for _ in range(3):  # until the weights are folded
                ours.score(texts, given), theirs.score(texts, given)
            name = "pinned" if pinned else f"{routing}, {1 - ours.routing_count.skipped_share:.0%} computed"
            mine = partial(ours.score, texts, given)
            # the time of the process's CPUs is steadier than the wall time where other programs run
            works = {"soft": partial(soft.score, texts), "by PyTorch": partial(theirs.score, texts, given)}
            for other, work in works.items():
                yield compare(f"{name} : {other}", mine, work, "–", rounds, clock=process_time)


def main() -> None:
    """Measure every routing and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--texts", type=Path, nargs="*", default=(), help="files with a text column; default: the sample"
    )
    parser.add_argument("--experts", type=int, nargs="*", default=(5, 20))
    parser.add_argument("--count", type=int, default=500, help="texts")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; default: torch's choice")
    parser.add_argument("--fold-memory", type=int, default=1024, help="MiB, as backbone.fold_memory")
    parser.add_argument("--equality", action="store_true", help="compare answers, and measure no time")
    parser.add_argument("--model", default="ready", help="of --equality")
    parser.add_argument("--profile", action="store_true", help="time the parts of a call")
    parser.add_argument("--graph", action="store_true", help="compare the routings in a graph")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    console, texts = Console(width=160), load_texts(args.count, args.texts)
    if args.equality:
        print_equality(args.model, texts, console)
        return
    if args.graph:
        for experts, top_k in product(args.experts, (None, 2)):
            console.print(f"{experts} experts, {'nearly one-hot' if top_k is None else 'two of them for each text'}:")
            print_ratios(measure_graph(experts, top_k, texts, args.rounds, args.threads), console)
        return
    bare = load_backbone(BackboneSettings(dtype="float32")).model
    for experts in args.experts:
        model = build_untrained(experts, 16, 0)
        model.bank.folded.limit = args.fold_memory * 2**20
        for gates, shares in {"one-hot": (0.97,), "two experts": (0.6, 0.4)}.items():
            set_gates(model, shares)
            console.print(f"{experts} experts, {gates}:", highlight=False)
            if args.profile:
                print_profile(model, bare, texts, args.rounds, console)
                continue
            routings: tuple[Routing, ...] = ("soft", "pruned", "hard") if gates == "one-hot" else ("soft", "pruned")
            print_ratios((measure(model, bare, texts, each, False, args.rounds) for each in routings), console)
        if not args.profile:
            print_ratios([measure(model, bare, texts, "soft", True, args.rounds)], console)


if __name__ == "__main__":
    main()

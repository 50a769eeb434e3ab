"""The mixture beside its bare backbone, beside other ways to do the same, and a training step beside PEFT's.

Run: `python benchmarks/engine.py [--only inference training growth] [--threads N] [--json FILE]`. Every pair is timed
in turns in one process (A B A B …), a ratio is of medians, and each comes with an A/A control.
"""

import argparse
import json
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, pipeline

from experts.adapter import fresh_adapter
from experts.lora import LayerMap, LoraSettings
from moe.backbone import Backbone, BackboneSettings, load_backbone, shipped_folder, token_budget
from moe.config import load_run
from moe.data.batches import by_budget
from moe.folder import DomainCard, MixtureCard, build_mixture
from moe.heads import HeadSettings
from moe.infer import answer_rows
from moe.layers import compile_layers
from moe.model import Mixture
from moe.objective import Objective
from moe.predict import Predictor
from moe.sample import DOMAINS, generate
from moe.stages import JOINT, WARMUP, Stage
from moe.train import choose_learners
from moe.workspace import versions
from router.gate import GateSettings

LABELS = ("negative", "neutral", "positive")
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Ratio:
    """Ours against something else: medians in seconds, their ratio, the control, and what is asked of it."""

    name: str
    ours: float
    other: float
    control: float
    target: str
    floor: float | None = None

    @property
    def ratio(self) -> float:
        """Ours by the other's; below 1 ours is faster."""
        return self.ours / self.other


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    name: str,
    ours: Callable[[], object],
    other: Callable[[], object],
    target: str,
    rounds: int,
    floor: float | None = None,
) -> Ratio:
    """Time two things in turns, after one call of each."""
    ours(), other()
    pairs = [(timed(other), timed(ours), timed(other)) for _ in range(rounds)]
    first, mine, second = ([row[i] for row in pairs] for i in range(3))
    control = statistics.median(first) / statistics.median(second)
    return Ratio(name, statistics.median(mine), statistics.median([*first, *second]), control, target, floor)


def texts(count: int) -> list[str]:
    """Texts of the shipped sample, all domains in turn."""
    rows = [generate(domain, max(30, -(-count // len(DOMAINS)))) for domain in DOMAINS]
    return [row["text"] for some in zip(*rows, strict=True) for row in some][:count]


def mixture(experts: int, rank: int, trunk: int, dtype: str = "float32") -> Mixture:
    """A mixture of experts that were never trained, B drawn at random, on the shipped backbone."""
    return described(experts, rank, trunk, dtype)[0]


def described(experts: int, rank: int, trunk: int, dtype: str = "float32") -> tuple[Mixture, MixtureCard]:
    """The same with its card."""
    settings = BackboneSettings(trunk_depth=trunk, dtype=dtype)
    backbone: Backbone = load_backbone(settings)
    names = [f"expert{i}" for i in range(experts)]
    adapter = fresh_adapter(LayerMap.of(backbone.model), LoraSettings(r=rank, alpha=rank, dropout=0.0), trunk)
    card = MixtureCard(
        stage="benchmark",
        backbone=backbone.id,
        backbone_settings=settings,
        template="{text}",
        domains=tuple(DomainCard(name=one, role=one, experts=(one,), tasks={one: LABELS}) for one in names),
        shared=(),
        layers=dict.fromkeys(names, adapter.layers),
        gate=GateSettings(),
        heads=HeadSettings(),
        polarity=True,
        seed=0,
        versions=versions(),
    )
    model = build_mixture(card, backbone, dict.fromkeys(names, adapter.content))
    with torch.no_grad():
        for parameter in model.expert_parameters().values():
            parameter.normal_(std=0.02)
        model.gate.net[-1].weight.normal_(std=1.0)  # type: ignore[union-attr]
    return model.eval(), card


def batches(backbone: Backbone, some: Sequence[str]) -> list[Batch]:
    """Token ids and masks by budget."""
    ids = backbone.tokenizer(list(some), truncation=True, max_length=128)["input_ids"]
    budget = token_budget(backbone.model.device, backbone.model.dtype)
    found = [
        backbone.tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
        for batch in by_budget([len(one) for one in ids], budget)
    ]
    return [(one["input_ids"], one["attention_mask"]) for one in found]


def through(model: Callable[..., object], some: Sequence[Batch]) -> Callable[[], None]:
    """All batches through a model, without gradients."""

    @torch.inference_mode()
    def run() -> None:
        for ids, mask in some:
            model(input_ids=ids, attention_mask=mask)

    return run


def floor(experts: int, rank: int, trunk: int) -> float:
    """Multiplications of the mixture by those of the bare backbone's linear layers: six layers, 384 wide."""
    return 1 + 0.0625 * experts * rank / 16 * (6 - trunk) / 6


def inference(dtype: str, rounds: int) -> Iterator[Ratio]:
    """Soft and hard answers beside the bare backbone, PEFT, a pipeline, and three passes a text."""
    bare = load_backbone(BackboneSettings(dtype=dtype))
    some = batches(bare, texts(500))
    plain = through(bare.model, some)
    soft = {(5, 16, 0): "1.25 / 1.20", (5, 16, 1): "1.17 / 1.14", (5, 16, 3): "1.11 / 1.06", (5, 8, 3): "1.07"}
    soft |= {(e, 16, 1): f"{0.97 * floor(e, 16, 1):.2f}" for e in (2, 8)}
    for (experts, rank, trunk), target in soft.items():
        ours = through(mixture(experts, rank, trunk, dtype), some)
        name = f"soft, E = {experts}, r = {rank}, m = {trunk}, {dtype}: bare backbone"
        yield compare(name, ours, plain, f"≤ {target}", rounds, floor(experts, rank, trunk))
    yield compiled(some, dtype, rounds)
    yield hard(bare, dtype, rounds)
    yield three_passes(bare, dtype, rounds)
    yield peft_rows(some, dtype, rounds)
    yield from pipelines(rounds)


def compiled(some: Sequence[Batch], dtype: str, rounds: int) -> Ratio:
    """The same mixture with its layers compiled, once that is done, beside itself uncompiled."""
    model, eager = mixture(5, 16, 1, dtype), mixture(5, 16, 1, dtype)
    compile_layers(model.backbone)
    return compare(
        f"soft, E = 5, m = 1, {dtype}, compiled: not compiled", through(model, some), through(eager, some), "–", rounds
    )


def hard(bare: Backbone, dtype: str, rounds: int) -> Ratio:
    """Hard answers, tokens included, beside the bare backbone, tokens included."""
    some = texts(1000)
    predictor = Predictor(
        mixture(5, 16, 3, dtype), "{text}", 128, "hard", tokens=token_budget(bare.model.device, bare.model.dtype)
    )
    return compare(
        f"hard, E = 5, m = 3, {dtype}: bare backbone",
        lambda: predictor.score(some),
        lambda: through(bare.model, batches(bare, some))(),
        "≤ 1.05",
        rounds,
    )


def three_passes(bare: Backbone, dtype: str, rounds: int) -> Ratio:
    """FinSA-MoE's way: two experts' passes and the router's, every text padded to 512, one at a time."""
    some = texts(200)
    predictor = Predictor(mixture(2, 16, 1, dtype), "{text}", 128)
    few = [bare.tokenizer(text, padding="max_length", max_length=512, return_tensors="pt") for text in some[::50]]
    slow = through(bare.model, [(one["input_ids"], one["attention_mask"]) for one in few for _ in range(3)])
    once = compare(f"soft, E = 2, {dtype}: three passes padded to 512", lambda: predictor.score(some), slow, "", 2)
    scaled = once.other * len(some) / len(few)
    return Ratio(once.name, once.ours, scaled, once.control, "≤ 1/75 fp32, 1/150 bf16")


def peft_config(rank: int = 16) -> LoraConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=["query", "key", "value", "dense"],
        layers_pattern="layer",
        layers_to_transform=list(range(6)),
    )


def peft_rows(some: Sequence[Batch], dtype: str, rounds: int) -> Ratio:
    """PEFT's row-wise adapters, hard by nature, beside our soft mixture on the same batches."""
    model = get_peft_model(load_backbone(BackboneSettings(dtype=dtype)).model, peft_config(), adapter_name="0")
    for i in range(1, 5):
        model.add_adapter(str(i), peft_config())
    model.eval()

    @torch.no_grad()
    def rows() -> None:
        for ids, mask in some:
            model(input_ids=ids, attention_mask=mask, adapter_names=[str(i % 5) for i in range(len(ids))])

    ours = through(mixture(5, 16, 0, dtype), some)
    return compare(f"soft, E = 5, m = 0, {dtype}: PEFT adapter_names", ours, rows, "≤ 1/1.4", rounds)


def pipelines(rounds: int) -> Iterator[Ratio]:
    """transformers' own pipeline on one folded expert, with its defaults and in batches of 32."""
    base = AutoModelForSequenceClassification.from_pretrained(shipped_folder(), num_labels=3)
    folded: Any = get_peft_model(base, peft_config()).merge_and_unload()
    tokenizer = load_backbone(BackboneSettings()).tokenizer
    classify = pipeline("text-classification", model=folded, tokenizer=tokenizer)
    predictor, some = Predictor(mixture(5, 16, 1), "{text}", 128), texts(300)
    for size, target in ((1, "≤ 1/5"), (32, "≤ 1/3")):
        name = f"soft, E = 5, m = 1: transformers' pipeline, batch_size = {size}"
        yield compare(
            name, lambda: predictor.score(some), lambda size=size: classify(some, batch_size=size), target, rounds
        )


def training(rounds: int) -> Iterator[Ratio]:
    """A joint step beside PEFT's single LoRA, one pass an expert, constant weights; a warm-start step beside it."""
    some = batches(load_backbone(BackboneSettings()), texts(200))
    single = PeftStep(some)
    for trunk, target in ((1, "≤ 0.9"), (3, "≤ 0.6 bf16, 0.5 fp32")):
        ours = Step(mixture(5, 16, trunk), JOINT, some)
        yield compare(f"joint step, E = 5, m = {trunk}: PEFT single LoRA, fp32", ours, single, target, rounds)
        known = Step(mixture(5, 16, trunk), JOINT, some, cached=True)
        yield compare(
            f"joint step, cached trunk, E = 5, m = {trunk}: PEFT single LoRA, fp32", known, single, target, rounds
        )
    joint = Step(mixture(5, 16, 1), JOINT, some)
    yield compare(
        "joint step, E = 5, m = 1: one pass an expert", joint, lambda: [single() for _ in range(5)], "≤ 0.2", rounds
    )
    constant = Step(mixture(5, 16, 1), JOINT, some, inner="constant", outer="constant")
    yield compare("joint step, DAO in two levels: constants", joint, constant, "≤ 1.02", rounds)
    everywhere = Step(mixture(5, 16, 1), JOINT, some, measured="parameters")
    yield compare("joint step, DAO measured at all experts' weights: constants", everywhere, constant, "–", rounds)
    warm = Step(mixture(5, 16, 1), WARMUP, some)
    yield compare("warm-start step: joint step", warm, joint, "≤ 0.6", rounds)


class Step:
    """One pass and backward of a stage over all batches."""

    def __init__(
        self, model: Mixture, stage: Stage, some: Sequence[Batch], cached: bool = False, **losses: Any
    ) -> None:
        run = load_run()
        settings = run.losses.model_copy(update=losses)
        self.model, self.objective = (
            model,
            Objective(
                stage, settings, run.dao, model.labels, model.owners, 0, experts=model.expert_parameters().values
            ),
        )
        choose_learners(model.train(), stage, None)
        self.some = [self.batch(ids, mask, cached) for ids, mask in some]

    def batch(self, ids: Tensor, mask: Tensor, cached: bool) -> dict[str, Tensor]:
        """Token ids and mask (B, T) with labels at random, and the trunk's states if they are to be known."""
        random = torch.Generator().manual_seed(0)
        task = torch.randint(len(self.model.domains), (len(ids),), generator=random)  # (B,)
        label = torch.randint(3, (len(ids),), generator=random)  # (B,)
        found = {
            "input_ids": ids,
            "attention_mask": mask,
            "task": task,
            "domain": task,
            "label": label,
            "score": label - 1.0,
        }
        return found | ({"trunk": self.model.look(ids, mask)[0]} if cached else {})

    def __call__(self) -> None:
        """All batches, forward and backward."""
        for batch in self.some:
            out = self.model(batch["input_ids"], batch["attention_mask"], trunk=batch.get("trunk"))
            self.objective(out, batch).backward()
            self.model.zero_grad()


class PeftStep:
    """The same of PEFT's single LoRA with a linear head."""

    def __init__(self, some: Sequence[Batch]) -> None:
        self.model: PeftModel = get_peft_model(load_backbone(BackboneSettings()).model, peft_config())
        self.model.train()
        self.head, self.some = nn.Linear(384, 3), some

    def __call__(self) -> None:
        """All batches, forward and backward."""
        for ids, mask in self.some:
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
            shown = mask[..., None].float()  # (B, T, 1)
            logits = self.head((states * shown).sum(1) / shown.sum(1))  # (B, K)
            nn.functional.cross_entropy(logits, torch.arange(len(ids)) % 3).backward()
            self.model.zero_grad()
            self.head.zero_grad()


def growth() -> Iterator[Ratio]:
    """Ten times the texts: time, and the peak of what Python allocates."""
    predictor, some = Predictor(mixture(2, 8, 3), "{text}", 16), [text[:24] for text in texts(1000)]

    def stream(count: int) -> Iterable[dict[str, Any]]:
        return ({"text": some[i % len(some)]} for i in range(count))

    def once(count: int) -> tuple[float, float]:
        tracemalloc.start()
        seconds = timed(lambda: sum(1 for _ in answer_rows(stream(count), predictor)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return seconds, peak

    once(1000)
    (short, small), (long, large) = once(10_000), once(100_000)
    yield Ratio("time, 100 k texts: 10 k texts", long, short, 1.0, "≤ 10.3")
    yield Ratio("peak memory of Python, 100 k texts: 10 k texts", large, small, 1.0, "≤ 1.1")


def machine() -> dict[str, Any]:
    """What the figures were seen on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    } | versions()


def show(ratios: Iterable[Ratio], console: Console) -> list[Ratio]:
    """Print ratios as they come."""
    found = []
    for one in ratios:
        found.append(one)
        told = f"floor {one.floor:.3f}" if one.floor else ""
        console.print(
            f"{one.name}: {one.ratio:.3f} (wanted {one.target}) {told} A/A {one.control:.3f}", highlight=False
        )
    return found


def main() -> None:
    """Measure what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=["inference", "training", "growth"])
    parser.add_argument("--dtypes", nargs="*", default=["float32"], help="float32 bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; by default its own choice")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console(width=160)
    found: list[Ratio] = []
    for dtype in args.dtypes if "inference" in args.only else ():
        found += show(inference(dtype, args.rounds), console)
    if "training" in args.only:
        found += show(training(args.rounds), console)
    if "growth" in args.only:
        found += show(growth(), console)
    table = Table("ours: other", "ratio", "wanted", "floor", "ours s", "other s", "A/A")
    for one in found:
        told = f"{one.floor:.3f}" if one.floor else "–"
        table.add_row(
            one.name, f"{one.ratio:.3f}", one.target, told, f"{one.ours:.3f}", f"{one.other:.3f}", f"{one.control:.3f}"
        )
    console.print(table)
    if args.json:
        told = {"machine": machine(), "ratios": [asdict(one) | {"ratio": one.ratio} for one in found]}
        args.json.write_text(json.dumps(told, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

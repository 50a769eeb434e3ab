"""Alternating timing of two implementations, with the texts, batches and untrained mixtures that benchmarks share."""

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from rich.console import Console
from torch import Tensor

from experts.adapter import build_adapter
from experts.lora import LayerMap, LoraSettings
from moe.checkpoints.mixture import build_mixture
from moe.checkpoints.mixture_card import DomainCard, MixtureCard
from moe.data.formats.readers import read_texts
from moe.data.schema import Columns
from moe.inference.batches import batch_by_tokens
from moe.inference.torch_predictor import token_budget
from moe.model.backbone import Backbone, BackboneSettings, load_backbone
from moe.model.heads import HeadSettings
from moe.model.mixture import Mixture
from moe.runs.versions import package_versions
from moe.synthetic import DOMAINS, generate
from router.gate_settings import GateSettings

LABELS = ("negative", "neutral", "positive")
Batch = tuple[Tensor, Tensor]
"""Token ids and attention mask, (B, T) each."""


@dataclass(frozen=True)
class Ratio:
    """Our time divided by another implementation's.

    Args:
        name: `ours: other`.
        ours: median of our times, in seconds.
        other: median of the other's times, in seconds.
        control: A/A control, the ratio of the other's times before and after ours; 1 without noise.
        target: upper limit of the ratio, as text; `–` for none.
        floor: smallest ratio that the number of multiplications allows.
        paired: median of the rounds' ratios; less sensitive to a machine whose speed changes.
        best: our fastest round divided by the other's; least sensitive to other load on the machine.
    """

    name: str
    ours: float
    other: float
    control: float
    target: str
    floor: float | None = None
    paired: float | None = None
    best: float | None = None

    @property
    def ratio(self) -> float:
        """Our time divided by the other's; below 1 ours is faster."""
        return self.paired or self.ours / self.other


def time_call(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one call, including the GPU's queued work."""
    start = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def compare(
    name: str,
    ours: Callable[[], object],
    other: Callable[[], object],
    target: str,
    rounds: int,
    floor: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Time two implementations in alternation, after one warm-up call of each.

    Many short rounds give steadier ratios than few long ones.
    """
    ours(), other()
    times = np.array([[time_call(work, clock) for work in (other, ours, other)] for _ in range(rounds)])  # (rounds, 3)
    before, mine, after = times.T  # (rounds,) each
    return Ratio(
        name,
        ours=float(np.median(mine)),
        other=float(np.median([before, after])),
        control=float(np.median(before / after)),
        target=target,
        floor=floor,
        paired=float(np.median(2 * mine / (before + after))),
        best=float(mine.min() / min(before.min(), after.min())),
    )


def load_texts(count: int, files: Sequence[Path] = ()) -> list[str]:
    """Return texts of the synthetic sample, alternating between its domains; or of files, equally many of each."""
    per_source = -(-count // len(files or DOMAINS))
    if files:
        columns = [_read_column(path, per_source) for path in files]
    else:
        columns = [[row["text"] for row in generate(domain, max(30, per_source))] for domain in DOMAINS]
    return [text for row in zip_longest(*columns) for text in row if text is not None][:count]


def _read_column(path: Path, count: int) -> list[str]:
    valid = (record.values["text"] for record in read_texts(path, Columns()) if not record.error)
    return [str(text) for text in islice(valid, count)]


def build_untrained(experts: int, rank: int, trunk: int, dtype: str = "float32") -> Mixture:
    """Build a mixture of untrained experts with random B matrices on the shipped backbone."""
    return build_untrained_with_card(experts, rank, BackboneSettings(trunk_depth=trunk, dtype=dtype))[0]


def build_untrained_with_card(experts: int, rank: int, settings: BackboneSettings) -> tuple[Mixture, MixtureCard]:
    """Build a mixture of untrained experts on any backbone, and its card."""
    backbone: Backbone = load_backbone(settings)
    names = [f"expert{i}" for i in range(experts)]
    adapter = build_adapter(
        LayerMap.from_model(backbone.model), LoraSettings(r=rank, alpha=rank, dropout=0.0), settings.trunk_depth
    )
    card = MixtureCard(
        stage="benchmark",
        backbone=backbone.id,
        backbone_settings=settings,
        template="{text}",
        domains=tuple(DomainCard(name=name, role=name, experts=(name,), tasks={name: LABELS}) for name in names),
        shared=(),
        layers=dict.fromkeys(names, adapter.layers),
        gate=GateSettings(),
        heads=HeadSettings(),
        polarity=True,
        seed=0,
        versions=package_versions(),
    )
    model = build_mixture(card, backbone, dict.fromkeys(names, adapter.peft_config))
    assert model.gate is not None
    output_layer = model.gate.net[-1]
    assert isinstance(output_layer, torch.nn.Linear)
    with torch.no_grad():
        for parameter in model.expert_parameters().values():
            parameter.normal_(std=0.02)
        output_layer.weight.normal_(std=1.0)
    return model.eval(), card


def tokenize_batches(backbone: Backbone, texts: Sequence[str]) -> list[Batch]:
    """Return token ids and masks of texts, in batches of the token budget."""
    ids = backbone.tokenizer(list(texts), truncation=True, max_length=128)["input_ids"]
    device = backbone.model.device
    padded = [
        backbone.tokenizer.pad({"input_ids": [ids[i] for i in indices]}, return_tensors="pt")
        for indices in batch_by_tokens([len(tokens) for tokens in ids], token_budget(device, backbone.model.dtype))
    ]
    return [(batch["input_ids"].to(device), batch["attention_mask"].to(device)) for batch in padded]


def forward_all(model: Callable[..., object], batches: Sequence[Batch]) -> Callable[[], None]:
    """Return a function that runs a model on all batches, without gradients."""

    @torch.inference_mode()
    def run() -> None:
        for ids, mask in batches:
            model(input_ids=ids, attention_mask=mask)

    return run


def flops_floor(experts: int, rank: int, trunk: int) -> float:
    """Multiplications of the mixture divided by those of the bare backbone's linear layers (6 layers of width 384)."""
    return 1 + 0.0625 * experts * rank / 16 * (6 - trunk) / 6


def step_floor(experts: int, rank: int, trunk: int, *, cached: bool) -> float:
    """Multiplications of a joint step divided by those of a step of one LoRA, in the same linear layers.

    A frozen layer is computed forward and for the gradient of its input, an update also for that of its weights.
    """
    update, layers = 0.0625 * rank / 16, (6 - trunk) / 6
    ours = layers * (2 + 3 * experts * update) + (0 if cached else 1 - layers)
    return ours / (2 + 3 * update)


def machine_info() -> dict[str, Any]:
    """Return the hardware and package versions of a measurement."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    } | package_versions()


def print_ratios(ratios: Iterable[Ratio], console: Console) -> list[Ratio]:
    """Print ratios as they are measured, and return them."""
    measured = []
    for ratio in ratios:
        measured.append(ratio)
        extras = f"best {ratio.best:.3f} " if ratio.best else ""
        extras += f"floor {ratio.floor:.3f} " if ratio.floor else ""
        console.print(
            f"{ratio.name}: {ratio.ratio:.3f} (target {ratio.target}) {extras}A/A {ratio.control:.3f}", highlight=False
        )
    return measured


def peft_config(rank: int = 16) -> LoraConfig:
    """PEFT config of a LoRA on all linear layers of the shipped backbone."""
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=["query", "key", "value", "dense"],
        layers_pattern="layer",
        layers_to_transform=list(range(6)),
    )

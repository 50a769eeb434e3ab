"""What the engine's benchmarks share: pairs timed in turns, texts, batches, and mixtures that were never trained.

What is compared with what is told by `inference.py` and `training.py`.
"""

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
from moe.data.readers import read_texts as read_texts
from moe.data.sampler import batch_by_tokens
from moe.data.schema import Columns
from moe.model.backbone import Backbone, BackboneSettings, load_backbone, token_budget
from moe.model.heads import HeadSettings
from moe.model.mixture import Mixture
from moe.runs.workspace import package_versions
from moe.synthetic import DOMAINS, generate
from router.gate import GateSettings

LABELS = ("negative", "neutral", "positive")
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Ratio:
    """Ours against something else: medians in seconds, the ratio, the control, and what is asked of it.

    Args:
        paired: the median of the rounds' own ratios, which a machine that changes its pace disturbs less.
        best: the fastest round of ours by the other's, which other work on the machine disturbs least.
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
        """Ours by the other's; below 1 ours is faster."""
        return self.paired or self.ours / self.other


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call, a GPU's queue included."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(
    name: str,
    ours: Callable[[], object],
    other: Callable[[], object],
    target: str,
    rounds: int,
    floor: float | None = None,
) -> Ratio:
    """Time two things in turns, after one call of each; many short rounds are steadier than few long ones."""
    ours(), other()
    seen = np.array([(timed(other), timed(ours), timed(other)) for _ in range(rounds)])  # (rounds, 3)
    first, mine, second = seen.T  # (rounds,) each
    paired = float(np.median(2 * mine / (first + second)))
    control = float(np.median(first / second))
    best = float(mine.min() / min(first.min(), second.min()))
    return Ratio(name, float(np.median(mine)), float(np.median([first, second])), control, target, floor, paired, best)


def texts(count: int, files: Sequence[Path] = ()) -> list[str]:
    """Texts of the shipped sample, all domains in turn; or of files, as many of each, in turn."""
    each = -(-count // len(files or DOMAINS))
    if files:
        columns = [_read(path, each) for path in files]
    else:
        columns = [[row["text"] for row in generate(domain, max(30, each))] for domain in DOMAINS]
    return [text for some in zip_longest(*columns) for text in some if text is not None][:count]


def _read(path: Path, count: int) -> list[str]:
    good = (one.values["text"] for one in read_texts(path, Columns()) if not one.error)
    return [str(text) for text in islice(good, count)]


def mixture(experts: int, rank: int, trunk: int, dtype: str = "float32") -> Mixture:
    """A mixture of experts that were never trained, B drawn at random, on the shipped backbone."""
    return described(experts, rank, BackboneSettings(trunk_depth=trunk, dtype=dtype))[0]


def described(experts: int, rank: int, settings: BackboneSettings) -> tuple[Mixture, MixtureCard]:
    """The same on any backbone, with its card."""
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
        domains=tuple(DomainCard(name=one, role=one, experts=(one,), tasks={one: LABELS}) for one in names),
        shared=(),
        layers=dict.fromkeys(names, adapter.layers),
        gate=GateSettings(),
        heads=HeadSettings(),
        polarity=True,
        seed=0,
        versions=package_versions(),
    )
    model = build_mixture(card, backbone, dict.fromkeys(names, adapter.peft_config))
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
        for batch in batch_by_tokens([len(one) for one in ids], budget)
    ]
    device = backbone.model.device
    return [(one["input_ids"].to(device), one["attention_mask"].to(device)) for one in found]


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


def machine() -> dict[str, Any]:
    """What the figures were seen on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    } | package_versions()


def show(ratios: Iterable[Ratio], console: Console) -> list[Ratio]:
    """Print ratios as they come."""
    found = []
    for one in ratios:
        found.append(one)
        told = f"best {one.best:.3f} " if one.best else ""
        told += f"floor {one.floor:.3f} " if one.floor else ""
        console.print(f"{one.name}: {one.ratio:.3f} (wanted {one.target}) {told}A/A {one.control:.3f}", highlight=False)
    return found


def peft_config(rank: int = 16) -> LoraConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=["query", "key", "value", "dense"],
        layers_pattern="layer",
        layers_to_transform=list(range(6)),
    )

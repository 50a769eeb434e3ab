"""Larger backbones with random weights: tokens a second and share of the measured matmul peak, soft, hard and bare.

Run: `python benchmarks/scale.py [--shapes encoder decoder] [--quantization none nf4] [--dtype bfloat16] [--json FILE]`.
The encoder is BERT-base's shape (110 M weights), the decoder a Llama of 1.1 B; `--shapes tiny` tries the script out.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from paired_timing import Batch, described, machine, through, timed
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel

from experts.gated_linear import in_out_features
from experts.lora import LayerMap
from moe.inference.predictor import Predictor
from moe.model.backbone import BackboneSettings, default_device, load_backbone, shipped_folder

VOCABULARY = 30522  # the shipped tokenizer's
SHAPES = {
    "encoder": ("bert", {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}),
    "decoder": (
        "llama",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 22,
            "intermediate_size": 5632,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
        },
    ),
    "tiny": ("bert", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}),
}


@dataclass(frozen=True)
class Speed:
    """Tokens a second of one way through a backbone, and its multiplications by the peak that was measured."""

    shape: str
    precision: str
    way: str
    tokens: float
    share: float


def random_backbone(shape: str, folder: Path) -> Path:
    """A backbone of this shape with random weights, on disk with the shipped tokenizer."""
    kind, sizes = SHAPES[shape]
    config: PretrainedConfig = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(shipped_folder()).save_pretrained(folder)
    return folder


def peak(dtype: torch.dtype, device: torch.device) -> float:
    """Multiplications and additions a second of one large matrix product, the best of five."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / min(timed(lambda: a @ b) for _ in range(5))


def operations(model: PreTrainedModel) -> int:
    """Multiplications and additions a token in the bare model's linear layers; attention is left out."""
    sizes = [in_out_features(layer) for layer in LayerMap.from_model(model).linear_layers.values()]
    return sum(2 * inputs * outputs for inputs, outputs in sizes)


def speeds(shape: str, folder: Path, args: argparse.Namespace, quantization: str, best: float) -> list[Speed]:
    """Bare, soft and hard on the same token ids."""
    settings = BackboneSettings(name=str(folder), dtype=args.dtype, quantization=quantization, pooling="mean")
    bare = load_backbone(settings.model_copy(update={"quantization": "none", "trunk_depth": 0}))
    each, device = operations(bare.model), bare.model.device
    ids = torch.randint(1000, VOCABULARY, (args.texts, args.length), device=device)  # (B, T)
    some: list[Batch] = [(ids, torch.ones_like(ids))] * args.batches
    count = args.texts * args.length * args.batches
    trunk = bare.model.config.num_hidden_layers // 2
    del bare
    plain = load_backbone(settings.model_copy(update={"trunk_depth": trunk}))
    ways: dict[str, Callable[[], object]] = {"bare": through(plain.model, some)}
    for depth in (0, trunk):
        model = described(5, 16, settings.model_copy(update={"trunk_depth": depth}))[0]
        ways[f"soft, E = 5, m = {depth}"] = through(model, some)
    hard = Predictor(model, "{text}", args.length, "hard", batch_tokens=args.texts * args.length)
    read = hard.tokenizer.batch_decode(ids) * args.batches
    ways[f"hard, E = 5, m = {trunk}, from text"] = lambda: hard.score(read)
    found = []
    for way, work in ways.items():
        work()
        seconds = min(timed(work) for _ in range(args.rounds))
        precision = args.dtype if quantization == "none" else quantization
        found.append(Speed(shape, precision, way, count / seconds, count * each / seconds / best))
    return found


def main() -> None:
    """Measure each shape in each precision and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=["encoder", "decoder"])
    parser.add_argument("--quantization", nargs="*", choices=["none", "nf4", "int8"], default=["none", "nf4"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--texts", type=int, default=128, help="texts a batch")
    parser.add_argument("--length", type=int, default=128, help="tokens a text")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    best = peak(torch.float32 if args.dtype == "float32" else torch.bfloat16, default_device())
    found: list[Speed] = []
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            random_backbone(shape, Path(folder))
            for quantization in args.quantization:
                found += speeds(shape, Path(folder), args, quantization, best)
    table = Table(
        "backbone", "precision", "way", "tokens/s", "of the matmul peak", title=f"peak {best / 1e12:.2f} TFLOP/s"
    )
    for one in found:
        table.add_row(one.shape, one.precision, one.way, f"{one.tokens:,.0f}", f"{one.share:.2f}")
    Console(width=110).print(table)
    if args.json:
        whole = {"machine": machine(), "peak": best, "speeds": [asdict(one) for one in found]}
        args.json.write_text(json.dumps(whole, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

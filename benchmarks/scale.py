"""Throughput on larger backbones with random weights: tokens per second and share of the measured matmul peak.

Run: `python benchmarks/scale.py [--shapes encoder decoder] [--quantization none nf4] [--dtype bfloat16] [--json FILE]`.
The encoder has BERT-base's shape (110 M weights), the decoder is a Llama of 1.1 B; `--shapes tiny` is a quick test.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from paired_timing import Batch, build_untrained_with_card, forward_all, machine_info, time_call
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel

from experts.gated_linear import in_out_features
from experts.lora import LayerMap
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import BackboneSettings, load_backbone
from moe.model.backbone_files import shipped_folder
from moe.model.device import default_device

VOCABULARY = 30522  # size of the shipped tokenizer's vocabulary
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
class Throughput:
    """Throughput of one mode of inference.

    Args:
        way: the mode, such as `bare` or `soft, E = 5, m = 0`.
        tokens: per second.
        share: operations per second of the backbone's linear layers, divided by the measured matmul peak.
    """

    shape: str
    precision: str
    way: str
    tokens: float
    share: float


def write_random_backbone(shape: str, folder: Path) -> Path:
    """Write a backbone of this shape with random weights and the shipped tokenizer."""
    kind, sizes = SHAPES[shape]
    config: PretrainedConfig = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(shipped_folder()).save_pretrained(folder)
    return folder


def measure_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the operations per second of one large matrix product, the best of five."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / min(time_call(lambda: a @ b) for _ in range(5))


def operations_per_token(model: PreTrainedModel) -> int:
    """Multiplications and additions per token in the bare model's linear layers, without attention."""
    sizes = [in_out_features(layer) for layer in LayerMap.from_model(model).linear_layers.values()]
    return sum(2 * inputs * outputs for inputs, outputs in sizes)


def measure(shape: str, folder: Path, args: argparse.Namespace, quantization: str, peak: float) -> list[Throughput]:
    """Measure the bare backbone, soft and hard routing on the same token ids."""
    settings = BackboneSettings(name=str(folder), dtype=args.dtype, quantization=quantization, pooling="mean")
    bare = load_backbone(settings.model_copy(update={"quantization": "none", "trunk_depth": 0}))
    operations, device = operations_per_token(bare.model), bare.model.device
    ids = torch.randint(1000, VOCABULARY, (args.texts, args.length), device=device)  # (B, T)
    batches: list[Batch] = [(ids, torch.ones_like(ids))] * args.batches
    tokens = args.texts * args.length * args.batches
    trunk = bare.model.config.num_hidden_layers // 2
    del bare
    backbone = load_backbone(settings.model_copy(update={"trunk_depth": trunk}))
    modes: dict[str, Callable[[], object]] = {"bare": forward_all(backbone.model, batches)}
    for depth in (0, trunk):
        model = build_untrained_with_card(5, 16, settings.model_copy(update={"trunk_depth": depth}))[0]
        modes[f"soft, E = 5, m = {depth}"] = forward_all(model, batches)
    predictor = TorchPredictor(model, "{text}", args.length, "hard", batch_tokens=args.texts * args.length)
    texts = predictor.tokenizer.batch_decode(ids) * args.batches
    modes[f"hard, E = 5, m = {trunk}, from text"] = lambda: predictor.score(texts)
    results = []
    for mode, work in modes.items():
        work()
        seconds = min(time_call(work) for _ in range(args.rounds))
        precision = args.dtype if quantization == "none" else quantization
        share = tokens * operations / seconds / peak
        results.append(Throughput(shape, precision, way=mode, tokens=tokens / seconds, share=share))
    return results


def main() -> None:
    """Measure each shape in each precision and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=["encoder", "decoder"])
    parser.add_argument("--quantization", nargs="*", choices=["none", "nf4", "int8"], default=["none", "nf4"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--texts", type=int, default=128, help="texts per batch")
    parser.add_argument("--length", type=int, default=128, help="tokens per text")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    peak = measure_peak(torch.float32 if args.dtype == "float32" else torch.bfloat16, default_device())
    results: list[Throughput] = []
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            write_random_backbone(shape, Path(folder))
            for quantization in args.quantization:
                results += measure(shape, Path(folder), args, quantization, peak)
    table = Table(
        "backbone", "precision", "mode", "tokens/s", "share of matmul peak", title=f"peak {peak / 1e12:.2f} TFLOP/s"
    )
    for result in results:
        table.add_row(result.shape, result.precision, result.way, f"{result.tokens:,.0f}", f"{result.share:.2f}")
    Console(width=110).print(table)
    if args.json:
        report = {"machine": machine_info(), "peak": peak, "speeds": [asdict(result) for result in results]}
        args.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Speed of an exported mixture: PyTorch, onnxruntime and OpenVINO on the same batches and number of threads.

Run: `python benchmarks/export.py [MODEL] [--texts 300] [--threads 2] [--rounds 5] [--file FILE …]`. Without a model,
five untrained experts on the shipped backbone are measured. Runtimes are timed in alternation, without tokenization;
a ratio below 1 means that the first one is faster.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from paired_timing import Batch, build_untrained_with_card, compare, load_texts

from moe.export.inference_spec import build_export_spec
from moe.export.onnx import (
    ONNX_FILE,
    OPENVINO_FILE,
    MixtureGraph,
    convert_to_openvino,
    load_onnx_session,
    load_openvino_model,
    write_onnx,
)
from moe.export.selection import ExportSource, load_export_source
from moe.inference.batches import batch_by_tokens
from moe.model.backbone import BackboneSettings

Run = Callable[[], None]


def tokenize_batches(source: ExportSource, texts: Sequence[str], tokens: int) -> list[Batch]:
    """Return token ids and masks of texts of similar length, at most `tokens` tokens per batch."""
    tokenizer = source.model.loaded_backbone.tokenizer
    ids = tokenizer(list(texts), truncation=True, max_length=source.max_length)["input_ids"]
    batches = []
    for indices in batch_by_tokens([len(text) for text in ids], tokens):
        padded = tokenizer.pad({"input_ids": [ids[i] for i in indices]}, return_tensors="pt")
        batches.append((padded["input_ids"], padded["attention_mask"]))
    return batches


def run_torch(source: ExportSource, batches: Sequence[Batch]) -> Run:
    """Return a function that runs the mixture in PyTorch, with the outputs of the graph."""
    module = MixtureGraph(source.model, build_export_spec(source)).eval()

    @torch.inference_mode()
    def run() -> None:
        for ids, mask in batches:
            module(ids, mask, torch.full((len(ids),), -1))

    return run


def run_graph(call: Callable[[list[np.ndarray]], Any], batches: Sequence[Batch]) -> Run:
    """Return a function that runs an exported graph on the inputs that PyTorch gets."""
    inputs = [[ids.numpy(), mask.numpy(), np.full(len(ids), -1)] for ids, mask in batches]

    def run() -> None:
        for arrays in inputs:
            call(arrays)

    return run


def load_source(folder: Path | None) -> ExportSource:
    """Load the model in fp32, or build an untrained one."""
    if folder is not None:
        return load_export_source(folder, ("backbone.dtype=float32",))
    model, card = build_untrained_with_card(5, 16, BackboneSettings(trunk_depth=1, dtype="float32"))
    return ExportSource(Path("untrained"), model, template=card.template, max_length=128, calibration=None)


def main() -> None:
    """Export the model, time the runtimes, and print texts per second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="folder of a mixture or expert")
    parser.add_argument("--texts", type=int, default=300, help="number of texts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--file", type=Path, nargs="*", default=(), help="files with a text column; default: the synthetic sample"
    )
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source, texts = load_source(args.model), load_texts(args.texts, args.file)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_onnx(folder / "onnx", source, overwrite=False)
        graph = folder / "onnx" / ONNX_FILE
        convert_to_openvino(graph, folder / OPENVINO_FILE)
        session = load_onnx_session(graph, args.threads)
        openvino = load_openvino_model(folder / OPENVINO_FILE, args.threads)
        inputs = [entry.name for entry in session.get_inputs()]

        def run_session(arrays: list[np.ndarray]) -> Any:
            return session.run(None, dict(zip(inputs, arrays, strict=True)))

        ratios = []
        for title, tokens in (("batches of 1024 tokens", 1024), ("one text at a time", 1)):
            batches = tokenize_batches(source, texts, tokens)
            runtimes = {
                "torch": run_torch(source, batches),
                "onnxruntime": run_graph(run_session, batches),
                "openvino": run_graph(openvino, batches),
            }
            ratios += compare_runtimes(title, runtimes, len(texts), args.rounds)
    if args.json:
        args.json.write_text(json.dumps({"threads": args.threads, "texts": len(texts), "pairs": ratios}, indent=2))


def compare_runtimes(title: str, runtimes: dict[str, Run], texts: int, rounds: int) -> list[dict[str, Any]]:
    """Time each pair of runtimes, printing results as they are measured."""
    results = []
    for ours, other in (("onnxruntime", "torch"), ("openvino", "torch"), ("openvino", "onnxruntime")):
        ratio = compare(f"{title}, {ours}: {other}", runtimes[ours], runtimes[other], "–", rounds)
        rates = f"{texts / ratio.ours:.0f} and {texts / ratio.other:.0f} texts/s"
        print(f"{ratio.name}: {ratio.ratio:.2f} (A/A {ratio.control:.2f}); {rates}", flush=True)
        results.append(
            {
                "name": ratio.name,
                "ratio": ratio.ratio,
                "control": ratio.control,
                "seconds": [ratio.ours, ratio.other],
            }
        )
    return results


if __name__ == "__main__":
    main()

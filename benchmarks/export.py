"""A mixture's answers by torch, onnxruntime and OpenVINO, in turns, on the same batches and as many threads.

Run: `python benchmarks/export.py [MODEL] [--texts 300] [--threads 2] [--rounds 5] [--file FILE …]`; without a model,
five untrained experts on the shipped backbone. Ratios are of seconds: below 1 the first is faster. Tokens are made
beforehand.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from paired_timing import Batch, compare, described, texts

from moe.data.sampler import batch_by_tokens
from moe.export.inference_spec import build_inference_spec
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
from moe.model.backbone import BackboneSettings

Run = Callable[[], None]


def batches(source: ExportSource, some: Sequence[str], tokens: int) -> list[Batch]:
    """Token ids and masks of texts of like length, at most so many tokens a batch."""
    tokenizer = source.model.loaded_backbone.tokenizer
    ids = tokenizer(list(some), truncation=True, max_length=source.max_length)["input_ids"]
    found = []
    for batch in batch_by_tokens([len(one) for one in ids], tokens):
        padded = tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
        found.append((padded["input_ids"], padded["attention_mask"]))
    return found


def by_torch(source: ExportSource, some: Sequence[Batch]) -> Run:
    """The mixture itself, with the same outputs."""
    module = MixtureGraph(source.model, build_inference_spec(source)).eval()

    @torch.inference_mode()
    def run() -> None:
        for ids, mask in some:
            module(ids, mask, torch.full((len(ids),), -1))

    return run


def by_graph(call: Callable[[list[np.ndarray]], Any], some: Sequence[Batch]) -> Run:
    """A graph, handed what torch was."""
    given = [[ids.numpy(), mask.numpy(), np.full(len(ids), -1)] for ids, mask in some]

    def run() -> None:
        for one in given:
            call(one)

    return run


def opened(folder: Path | None) -> ExportSource:
    """The model in fp32."""
    if folder is not None:
        return load_export_source(folder, ("backbone.dtype=float32",))
    model, card = described(5, 16, BackboneSettings(trunk_depth=1, dtype="float32"))
    return ExportSource(Path("untrained"), model, card.template, 128, None)


def main() -> None:
    """Export, time in turns, print texts/s and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--file", type=Path, nargs="*", default=())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    source, some = opened(given.model), texts(given.texts, given.file)
    with TemporaryDirectory() as place:
        write_onnx(Path(place) / "onnx", source, overwrite=False)
        graph = Path(place) / "onnx" / ONNX_FILE
        convert_to_openvino(graph, Path(place) / OPENVINO_FILE)
        session, vino = load_onnx_session(graph, given.threads), load_openvino_model(Path(place) / OPENVINO_FILE, given.threads)
        names = [one.name for one in session.get_inputs()]
        found = []
        for title, tokens in (("batches of 1024 tokens", 1024), ("one text at a time", 1)):
            few = batches(source, some, tokens)
            ways = {
                "torch": by_torch(source, few),
                "onnxruntime": by_graph(lambda one: session.run(None, dict(zip(names, one, strict=True))), few),
                "openvino": by_graph(vino, few),
            }
            found += pairs(title, ways, len(some), given.rounds)
    if given.json:
        given.json.write_text(json.dumps({"threads": given.threads, "texts": len(some), "pairs": found}, indent=2))


def pairs(title: str, ways: dict[str, Run], count: int, rounds: int) -> list[dict[str, Any]]:
    """Every graph beside torch, and one beside the other, printed as they are measured."""
    found = []
    for ours, other in (("onnxruntime", "torch"), ("openvino", "torch"), ("openvino", "onnxruntime")):
        one = compare(f"{title}, {ours}: {other}", ways[ours], ways[other], "–", rounds)
        rates = f"{count / one.ours:.0f} and {count / one.other:.0f} texts/s"
        print(f"{one.name}: {one.ratio:.2f} (control {one.control:.2f}); {rates}", flush=True)
        found.append({"name": one.name, "ratio": one.ratio, "control": one.control, "seconds": [one.ours, one.other]})
    return found


if __name__ == "__main__":
    main()

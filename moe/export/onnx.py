"""`--to onnx`: the whole mixture of labels as one ONNX graph, router, gates and heads in it, run by onnxruntime alone.

Token ids go in; of every task its probabilities come out, the polarity, and the experts' shares. How those are read
stands in `reading.json`, which is `moe.export.inference_spec`'s.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedTokenizerFast

from experts.atomic_io import atomic_folder, write_json, write_text
from experts.errors import Fault
from moe.export.inference_spec import SPEC_FILE, InferenceSpec, build_inference_spec
from moe.export.selection import ExportSource
from moe.inference.predictor import Predictor
from moe.model.mixture import Mixture, allowed_experts

ONNX_FILE, TOKENIZER_FILE = "model.onnx", "tokenizer.json"
REQUIRED_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""How far the graph's numbers may be from torch's."""
CHECK_TEXTS = ("Profit rose.", "The bank said that sales fell in the third quarter, and that it cut its outlook.", "up")


class MixtureGraph(nn.Module):
    """A mixture as a graph sees it: token ids (B, T), mask (B, T) and domains (B,) to named outputs.

    A domain is a number of `reading.json`'s list, whose experts alone then answer; −1 leaves that text to the router.
    """

    def __init__(self, model: Mixture, reading: InferenceSpec) -> None:
        super().__init__()
        self.model, self.reading = model, reading

    def forward(self, input_ids: Tensor, attention_mask: Tensor, domain: Tensor | None = None) -> dict[str, Tensor]:
        """Probabilities (B, K) of each task, polarity (B,), and shares (B, E) where there is a router."""
        allowed = None if domain is None else allowed_experts(self.model.domain_expert_mask, domain)  # (B, E)
        out = self.model(input_ids, attention_mask, allowed=allowed)
        found = {}
        for task, one in self.reading.tasks.items():
            logits = out.logits[one.head][:, list(one.columns)].float()  # (B, K)
            found[f"probabilities/{task}"] = (logits / one.temperature).softmax(-1)  # (B, K)
        found |= _polarities(out.polarity, found, self.reading)
        if out.routing is not None:
            found["shares"] = out.routing.probs  # (B, E)
        return found


def _polarities(head: Tensor | None, probabilities: dict[str, Tensor], reading: InferenceSpec) -> dict[str, Tensor]:
    """The head's polarity (B,), else each task's p(positive) − p(negative)."""
    if head is not None:
        return {"polarity": head.float().clamp(-1.0, 1.0)}
    found = {}
    for task, one in reading.tasks.items():
        if one.sign is not None:
            low, high = (one.labels.index(label) for label in one.sign)
            whole = probabilities[f"probabilities/{task}"]  # (B, K)
            found[f"polarity/{task}"] = whole[:, high] - whole[:, low]  # (B,)
    return found


def write_onnx(out: Path, source: ExportSource, overwrite: bool) -> dict[str, Any]:
    """Write graph, tokenizer and reading, whole or not at all, held against torch before it is kept.

    Returns:
        `inputs`, `outputs`, and `difference`, the largest of any number from torch's on texts of several lengths.

    Raises:
        Fault: when a package is missing, the model cannot become a graph, or the folder cannot be written.
    """
    check_graph_support(source)
    with atomic_folder(out, overwrite) as temporary:
        return write_graph_files(temporary, source)


def write_graph_files(folder: Path, source: ExportSource) -> dict[str, Any]:
    """What `write_onnx` writes, into a folder that another makes whole."""
    reading = build_inference_spec(source)
    module = MixtureGraph(source.model, reading).eval()
    inputs = ("input_ids", "attention_mask") + (("domain",) if source.model.active_expert is None else ())
    outputs = _export(module, inputs, folder / ONNX_FILE)
    _write_tokenizer(folder / TOKENIZER_FILE, source)
    write_json(folder / SPEC_FILE, reading.model_dump(mode="json") | {"inputs": inputs, "outputs": outputs})
    write_text(folder / "README.md", _readme(source, inputs, outputs))
    difference = _held_against_torch(module, source, inputs, outputs, folder / ONNX_FILE)
    return {"inputs": list(inputs), "outputs": list(outputs), "difference": difference}


def check_graph_support(source: ExportSource) -> None:
    """Refuse what cannot become a graph, before anything heavy is done.

    Raises:
        Fault: naming what stands in the way.
    """
    for name in REQUIRED_PACKAGES:
        import_package(name, "pip install 'finmoe[export]'")
    if source.language:
        raise Fault(
            "a mixture that gives labels, to make a graph of",
            f"a language model's at {source.folder}",
            "name --to dense or --to peft, which other programs serve",
        )
    if any(hasattr(one, "disentangled_attention_bias") for one in source.model.backbone.modules()):
        raise Fault(
            "a backbone whose attention is alike for any number of texts",
            f"{type(source.model.backbone).__name__}, whose position biases are made text by text",
            "fold one expert instead: --to dense",
        )
    if not isinstance(source.model.loaded_backbone.tokenizer, PreTrainedTokenizerFast):
        raise Fault("a tokenizer that the package tokenizers can save", "a slow one", "name a backbone with a fast one")


def import_package(module: str, remedy: str) -> Any:
    """A package that is not always there.

    Raises:
        Fault: with the remedy, when it is missing.
    """
    try:
        return import_module(module)  # an extra, and slow to import
    except ImportError as error:
        raise Fault(f"the package {module}, which this export needs", "none installed", f"run: {remedy}") from error


def _export(module: MixtureGraph, inputs: Sequence[str], path: Path) -> tuple[str, ...]:
    """Write the graph with free batch and length; the names of its outputs."""
    ids = torch.arange(5 * 7).reshape(5, 7) % 5 + 5  # (B, T), sizes that nothing else in the model has
    given = (ids, torch.ones_like(ids), torch.full((5,), -1))[: len(inputs)]
    rows, both = {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    free = (both, both, rows)[: len(inputs)]
    with torch.no_grad(), _quiet():
        names = tuple(module(*given))
        try:
            program = torch.onnx.export(
                module,
                given,
                dynamo=True,
                dynamic_shapes=free,
                input_names=list(inputs),
                output_names=list(names),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise Fault(
                "a backbone that torch can make a graph of",
                f"{type(module.model.backbone).__name__}: {_first(error)}",
                "fold one expert instead: --to dense",
            ) from error
        assert program is not None
        program.save(path)
    return names


def _first(error: BaseException) -> str:
    """The reason at the bottom of an exporter's error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:160]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's own remarks are for its makers."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _write_tokenizer(path: Path, source: ExportSource) -> None:
    """The tokenizer with its own cut and padding in it, so that it gives what the graph reads."""
    tokenizer = source.model.loaded_backbone.tokenizer
    core = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    core.enable_truncation(source.max_length)
    core.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    write_text(path, core.to_str())


def _held_against_torch(
    module: MixtureGraph, source: ExportSource, inputs: Sequence[str], outputs: Sequence[str], path: Path
) -> float:
    """The largest difference of the graph's numbers from torch's, in batches of several sizes and lengths.

    Raises:
        Fault: when it is larger than `TOLERANCE`.
    """
    session = load_onnx_session(path)
    predictor = Predictor(source.model, source.template, source.max_length)
    ids = [predictor._tokenize([text])[0][0] for text in CHECK_TEXTS]
    largest = 0.0
    for batch in (np.array([0]), np.array([2, 1]), np.array([1, 0, 2, 0])):
        padded, mask = predictor.pad(ids, batch)  # (B, T) each
        domain = torch.arange(len(batch)) % (len(module.reading.domains) + 1) - 1  # (B,)
        given = (padded, mask, domain)[: len(inputs)]
        with torch.no_grad():
            ours = module(*given)
        theirs = session.run(list(outputs), dict(zip(inputs, (one.numpy() for one in given), strict=True)))
        pairs = zip(ours.values(), theirs, strict=True)
        largest = max(largest, *(float(np.abs(a.numpy() - b).max()) for a, b in pairs))
    if not largest <= TOLERANCE:
        raise Fault(f"a graph that computes what torch does, to {TOLERANCE:g}", f"{largest:.1g}", "tell us, with the model")
    return largest


def load_onnx_session(path: Path, threads: int | None = None) -> Any:
    """An onnxruntime session of a graph, on the CPU."""
    onnxruntime = import_package("onnxruntime", "pip install 'finmoe[export]'")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _readme(source: ExportSource, inputs: Sequence[str], outputs: Sequence[str]) -> str:
    domains = ", ".join(f"{i} {one.name}" for i, one in enumerate(build_inference_spec(source).domains))
    pin = f"\n`domain` pins a text to a domain's experts ({domains}); −1 leaves it to the router.\n"
    return f"""# {source.folder.name} as a graph

`{ONNX_FILE}` is the whole mixture: backbone, experts, router and heads. Inputs: {", ".join(inputs)} (int64, any number of
texts and tokens). Outputs: {", ".join(outputs)}.
{pin if "domain" in inputs else ""}
`{TOKENIZER_FILE}` cuts and pads as the graph wants it; `{SPEC_FILE}` names template, labels, experts and temperatures.
"""


OPENVINO_FILE = "openvino_model.xml"
INSTALL_OPENVINO = "pip install openvino"


def write_openvino(out: Path, source: ExportSource, overwrite: bool) -> dict[str, Any]:
    """Write `openvino_model.xml` and `.bin` in whole precision, tokenizer and reading, whole or not at all.

    Returns:
        what `moe.export.onnx.write_graph` returns.

    Raises:
        Fault: as `moe.export.onnx.write_graph`.
    """
    import_package("openvino", INSTALL_OPENVINO)
    check_graph_support(source)
    with atomic_folder(out, overwrite) as temporary:
        found = write_graph_files(temporary, source)
        convert_to_openvino(temporary / ONNX_FILE, temporary / OPENVINO_FILE)
        for path in temporary.glob(f"{ONNX_FILE}*"):
            path.unlink()
        readme = (temporary / "README.md").read_text(encoding="utf-8")
        write_text(temporary / "README.md", readme.replace(ONNX_FILE, OPENVINO_FILE))
    return found


def convert_to_openvino(graph: Path, target: Path) -> None:
    """Make OpenVINO's form of an ONNX graph, in the same precision."""
    openvino = import_package("openvino", INSTALL_OPENVINO)
    openvino.save_model(openvino.convert_model(str(graph)), str(target), compress_to_fp16=False)


def load_openvino_model(path: Path, threads: int | None = None) -> Any:
    """A model of OpenVINO's, ready to run on the CPU in whole precision."""
    core = import_package("openvino", INSTALL_OPENVINO).Core()
    how: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(str(path), "CPU", how | ({"INFERENCE_NUM_THREADS": threads} if threads else {}))

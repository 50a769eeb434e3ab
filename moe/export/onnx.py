"""`--to onnx` and `--to openvino`: a classification mixture as one graph with router, gates and heads.

The graph maps token ids to the probabilities of every task, the polarity and the routing weights; `reading.json`
(`moe.export.inference_spec`) specifies how to interpret them.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
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
from moe.export.inference_spec import SPEC_FILE, build_export_spec
from moe.export.selection import ExportSource
from moe.inference.spec import InferenceSpec
from moe.inference.torch_predictor import TorchPredictor
from moe.kinds.registry import task_kind
from moe.model.mixture import Mixture
from moe.model.routing import allowed_experts

ONNX_FILE, TOKENIZER_FILE = "model.onnx", "tokenizer.json"
REQUIRED_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INSTALL_EXPORT = "pip install 'finmoe[export]'"
TOLERANCE = 1e-4
"""Largest allowed absolute difference of the graph's outputs from PyTorch's."""
CHECK_TEXTS = ("Profit rose.", "The bank said that sales fell in the third quarter, and that it cut its outlook.", "up")


class MixtureGraph(nn.Module):
    """The mixture as it is exported: token ids (B, T), mask (B, T) and domains (B,) to named outputs.

    A domain is an index into `domains` of `reading.json` and restricts the text to that domain's experts; −1 lets the
    router decide.
    """

    def __init__(self, model: Mixture, spec: InferenceSpec) -> None:
        super().__init__()
        self.model, self.spec = model, spec

    def forward(self, input_ids: Tensor, attention_mask: Tensor, domain: Tensor | None = None) -> dict[str, Tensor]:
        """Return probabilities (B, K) of each task, polarity (B,) and, with a router, routing weights (B, E)."""
        allowed = None if domain is None else allowed_experts(self.model.domain_expert_mask, domain)  # (B, E)
        out = self.model(input_ids, attention_mask, allowed=allowed)
        outputs = {}
        for task, task_spec in self.spec.tasks.items():
            if task_spec.head is None:  # the polarity is its score
                continue
            logits = out.logits[task_spec.head][:, list(task_spec.columns)].float()  # (B, K)
            kind = task_kind(task_spec.kind)
            outputs[f"probabilities/{task}"] = kind.probabilities_of_tensor(logits / task_spec.temperature)  # (B, K)
        outputs |= _polarities(out.polarity, outputs, self.spec)
        if out.routing is not None:
            outputs["shares"] = out.routing.probs  # (B, E)
        return outputs


def _polarities(head: Tensor | None, probabilities: dict[str, Tensor], spec: InferenceSpec) -> dict[str, Tensor]:
    """Return the polarity head's output (B,), or without a head each task's p(positive) − p(negative)."""
    if head is not None:
        return {"polarity": head.float().clamp(-1.0, 1.0)}
    polarities = {}
    for task, task_spec in spec.tasks.items():
        if task_spec.sign is not None:
            negative, positive = (task_spec.labels.index(label) for label in task_spec.sign)
            p = probabilities[f"probabilities/{task}"]  # (B, K)
            polarities[f"polarity/{task}"] = p[:, positive] - p[:, negative]  # (B,)
    return polarities


@dataclass(frozen=True)
class ExportedGraph:
    """A graph that was written.

    Args:
        inputs: names of its inputs, in order.
        outputs: names of its outputs, in order.
        difference: largest absolute difference of any output from PyTorch's.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    difference: float


def write_onnx(out: Path, source: ExportSource, overwrite: bool) -> ExportedGraph:
    """Write graph, tokenizer and inference specification atomically, after comparing the graph with PyTorch.

    Raises:
        Fault: if a package is missing, the model cannot be exported, or the folder cannot be written.
    """
    check_graph_support(source)
    with atomic_folder(out, overwrite) as temporary:
        return write_graph_files(temporary, source)


def write_graph_files(folder: Path, source: ExportSource) -> ExportedGraph:
    """Write the files of `write_onnx` into an existing folder."""
    spec = build_export_spec(source)
    module = MixtureGraph(source.model, spec).eval()
    inputs = ("input_ids", "attention_mask") + (("domain",) if source.model.active_expert is None else ())
    outputs = _export_graph(module, inputs, folder / ONNX_FILE)
    _write_tokenizer(folder / TOKENIZER_FILE, source)
    write_json(folder / SPEC_FILE, spec.model_dump(mode="json") | {"inputs": inputs, "outputs": outputs})
    write_text(folder / "README.md", _readme(source, inputs, outputs))
    difference = _compare_with_torch(module, source, inputs, outputs, folder / ONNX_FILE)
    return ExportedGraph(inputs=inputs, outputs=outputs, difference=difference)


def check_graph_support(source: ExportSource) -> None:
    """Check that the model can be exported as a graph, before the slow steps.

    Raises:
        Fault: with the reason, if it cannot.
    """
    for name in REQUIRED_PACKAGES:
        import_package(name, INSTALL_EXPORT)
    if source.language:
        raise Fault(
            "a classification mixture to export as a graph",
            f"a language model at {source.folder}",
            "use --to dense or --to peft, which other programs can serve",
        )
    if any(hasattr(module, "disentangled_attention_bias") for module in source.model.backbone.modules()):
        raise Fault(
            "a backbone whose attention does not depend on the batch size",
            f"{type(source.model.backbone).__name__}, which computes position biases text by text",
            "merge one expert into the backbone instead: --to dense",
        )
    if not isinstance(source.model.loaded_backbone.tokenizer, PreTrainedTokenizerFast):
        raise Fault(
            "a fast tokenizer, which can be saved as JSON", "a slow one", "use a backbone with a fast tokenizer"
        )


def import_package(module: str, remedy: str) -> Any:
    """Import an optional package.

    Raises:
        Fault: with the remedy, if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise Fault(f"the package {module}, which this export needs", "not installed", f"run: {remedy}") from error


def _export_graph(module: MixtureGraph, inputs: Sequence[str], path: Path) -> tuple[str, ...]:
    """Write the graph with dynamic batch size and length; return the names of its outputs."""
    ids = torch.arange(5 * 7).reshape(5, 7) % 5 + 5  # (B, T), sizes that no other dimension of the model has
    example = (ids, torch.ones_like(ids), torch.full((5,), -1))[: len(inputs)]
    batch, batch_and_length = {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    dynamic_shapes = (batch_and_length, batch_and_length, batch)[: len(inputs)]
    with torch.no_grad(), _silence_exporter():
        names = tuple(module(*example))
        try:
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                dynamic_shapes=dynamic_shapes,
                input_names=list(inputs),
                output_names=list(names),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise Fault(
                "a backbone that PyTorch can export to ONNX",
                f"{type(module.model.backbone).__name__}: {_root_cause(error)}",
                "merge one expert into the backbone instead: --to dense",
            ) from error
        assert program is not None
        program.save(path)
    return names


def _root_cause(error: BaseException) -> str:
    """Return the message of the innermost cause on one line, at most 160 characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:160]


@contextmanager
def _silence_exporter() -> Iterator[None]:
    """Suppress the exporter's progress output and warnings, which are meant for PyTorch's developers."""
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
    """Write the tokenizer with truncation and padding enabled, so that its output fits the graph's inputs."""
    tokenizer = source.model.loaded_backbone.tokenizer
    copy = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    has_targets = bool(source.model.labels.target_tasks)
    copy.enable_truncation(source.max_length, strategy="only_first" if has_targets else "longest_first")
    copy.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    write_text(path, copy.to_str())


def _compare_with_torch(
    module: MixtureGraph, source: ExportSource, inputs: Sequence[str], outputs: Sequence[str], path: Path
) -> float:
    """Return the largest absolute difference of the graph's outputs from PyTorch's, in batches of several shapes.

    Raises:
        Fault: if it is larger than `TOLERANCE`.
    """
    session = load_onnx_session(path)
    predictor = TorchPredictor(source.model, source.template, source.max_length)
    ids = [predictor._tokenize([text])[0][0] for text in CHECK_TEXTS]
    largest = 0.0
    for batch in (np.array([0]), np.array([2, 1]), np.array([1, 0, 2, 0])):
        padded, mask = predictor.pad(ids, batch)  # (B, T) each
        domain = torch.arange(len(batch)) % (len(module.spec.domains) + 1) - 1  # (B,)
        arguments = (padded, mask, domain)[: len(inputs)]
        with torch.no_grad():
            expected = module(*arguments)
        feed = dict(zip(inputs, (tensor.numpy() for tensor in arguments), strict=True))
        pairs = zip(expected.values(), session.run(list(outputs), feed), strict=True)
        largest = max(largest, *(float(np.abs(a.numpy() - b).max()) for a, b in pairs))
    if not largest <= TOLERANCE:
        expected_text = f"a graph whose outputs differ from PyTorch's by at most {TOLERANCE:g}"
        raise Fault(expected_text, f"a difference of {largest:.1g}", "report this as a bug, with the model")
    return largest


def load_onnx_session(path: Path, threads: int | None = None) -> Any:
    """Load a graph into an onnxruntime session on the CPU."""
    onnxruntime = import_package("onnxruntime", INSTALL_EXPORT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _readme(source: ExportSource, inputs: Sequence[str], outputs: Sequence[str]) -> str:
    domains = ", ".join(f"{i} {domain.name}" for i, domain in enumerate(build_export_spec(source).domains))
    pin = f"\n`domain` restricts a text to a domain's experts ({domains}); −1 lets the router decide.\n"
    tasks = ", ".join(sorted(source.model.labels.target_tasks))
    target = f" Tasks with a target ({tasks}) read it as the second segment of a pair, after the text." if tasks else ""
    return f"""# {source.folder.name} as a graph

`{ONNX_FILE}` is the complete mixture: backbone, experts, router and heads. Inputs: {", ".join(inputs)} (int64, any
number of texts and tokens). Outputs: {", ".join(outputs)}.
{pin if "domain" in inputs else ""}
`{TOKENIZER_FILE}` truncates and pads as the graph requires; `{SPEC_FILE}` contains prompt template, labels, experts
and temperatures.{target}
"""


OPENVINO_FILE = "openvino_model.xml"
INSTALL_OPENVINO = "pip install openvino"


def write_openvino(out: Path, source: ExportSource, overwrite: bool) -> ExportedGraph:
    """Write `openvino_model.xml` and `.bin` in fp32, tokenizer and inference specification atomically.

    Returns:
        the graph; its difference is that of the ONNX graph.

    Raises:
        Fault: as `write_onnx`.
    """
    import_package("openvino", INSTALL_OPENVINO)
    check_graph_support(source)
    with atomic_folder(out, overwrite) as temporary:
        exported = write_graph_files(temporary, source)
        convert_to_openvino(temporary / ONNX_FILE, temporary / OPENVINO_FILE)
        for path in temporary.glob(f"{ONNX_FILE}*"):
            path.unlink()
        readme = (temporary / "README.md").read_text(encoding="utf-8")
        write_text(temporary / "README.md", readme.replace(ONNX_FILE, OPENVINO_FILE))
    return exported


def convert_to_openvino(graph: Path, target: Path) -> None:
    """Convert an ONNX graph to OpenVINO's format in the same precision."""
    openvino = import_package("openvino", INSTALL_OPENVINO)
    openvino.save_model(openvino.convert_model(str(graph)), str(target), compress_to_fp16=False)


def load_openvino_model(path: Path, threads: int | None = None) -> Any:
    """Compile an OpenVINO model for the CPU in fp32."""
    core = import_package("openvino", INSTALL_OPENVINO).Core()
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(str(path), "CPU", options | ({"INFERENCE_NUM_THREADS": threads} if threads else {}))

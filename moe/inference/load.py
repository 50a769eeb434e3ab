"""How a model is loaded for prediction: with which runtime, routing, calibration and overrides.

Importing this module does not import torch.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from experts.errors import Fault, check_choice
from experts.reading import each_file_once
from moe.console import info
from moe.inference.abstention import check_target_accuracy
from moe.inference.batches import CPU_TOKEN_BUDGET, chunk_size_for
from moe.inference.calibration import Calibration, read_calibration
from moe.inference.graph.spec import GRAPH_FOLDER
from moe.inference.predictor import Predictor
from moe.model.cpu_features import is_cpu_fast_in_bfloat16
from moe.model.mode import RoutingChoice
from moe.runs.model_ref import ModelRef

if TYPE_CHECKING:
    from moe.inference.graph.onnx_predictor import OnnxPredictor
    from moe.inference.torch_predictor import TorchPredictor
    from moe.model.backbone_pool import BackbonePool

Runtime = Literal["auto", "onnx", "int8", "torch"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
ROUTINGS: tuple[RoutingChoice, ...] = get_args(RoutingChoice)
LARGE_FILE = 1_000_000
"""Bytes of a file of texts from which PyTorch makes up for its slower start, on a CPU that is fast in bfloat16."""
FIXED = ("trunk_depth", "pooling", "dropout")
"""Backbone settings that a trained model does not change: the first two are those of its weights, the third is only for
training."""


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model; small enough to be sent to worker processes.

    Args:
        sets: overrides of its backbone settings, see `moe.inference.load_mixture.load_mixture`.
        routing: see `Predictor`.
        windows: see `Predictor`.
        batch_tokens: see `Predictor`.
        abstain: see `Predictor`.
        label_sets: see `Predictor`.
        threads: CPU threads of a forward pass; None leaves the choice to the runtime.
        runtime: `onnx` predicts with the model's graph, `int8` with its INT8 graph, `torch` with PyTorch; `auto` uses
            the graph where it is current and fits the options.
        large: whether so many texts follow that the runtime's speed matters more than its start.
    """

    sets: tuple[str, ...] = ()
    routing: RoutingChoice = "soft"
    windows: bool = False
    batch_tokens: int | None = None
    abstain: float | None = None
    label_sets: bool = False
    threads: int | None = None
    runtime: Runtime = "auto"
    large: bool = False

    @property
    def chunk_size(self) -> int:
        """Number of texts sent to a worker at a time; the model is not loaded yet, so for the smallest token budget."""
        return chunk_size_for(self.batch_tokens or CPU_TOKEN_BUDGET)

    def check(self) -> None:
        """Check the options, before anything slow is loaded.

        Raises:
            Fault: for an unknown routing or runtime, a target accuracy outside 0 to 1, or an override that does not
                apply to a trained model.
        """
        check_routing(self.routing)
        check_runtime(self.runtime)
        check_overrides(self.sets)
        if self.abstain is not None:
            check_target_accuracy(self.abstain)


def load(ref: ModelRef, options: LoadOptions = LoadOptions(), backbones: "BackbonePool | None" = None) -> Predictor:
    """Load a classifier with the runtime that was chosen, or that fits this model, machine and options.

    A graph that does not fit the model's files is not used, which is stated on stderr. Each file is read and hashed
    once.

    Args:
        backbones: shares the backbone's weights with other models of this process, if PyTorch predicts.

    Raises:
        Fault: if the model, its graph or its calibration is broken or was changed, it is a language model, an option is
            invalid or does not fit it, or `abstain` or `label_sets` is set and it has no calibration.
    """
    options.check()
    try:
        with each_file_once(ref.records):
            return _load(ref, options, backbones)
    finally:
        ref.records.clear()  # another call reads files that may have changed


def _load(ref: ModelRef, options: LoadOptions, backbones: "BackbonePool | None") -> Predictor:
    if options.runtime in ("onnx", "int8"):
        if options.sets:
            remedy = "use --runtime torch, or remove --set"
            raise Fault("no --set for a graph, whose settings are fixed", options.sets[0], remedy)
        return _load_onnx(ref, options, _read_calibration(ref, options))
    if options.runtime == "torch" or options.sets or has_gpu() or (options.large and is_cpu_fast_in_bfloat16()):
        return load_torch(ref, options, backbones)
    if not (ref.folder / GRAPH_FOLDER).is_dir():
        return load_torch(ref, options, backbones)
    calibration = _read_calibration(ref, options)
    try:
        return _load_onnx(ref, options, calibration)
    except Fault as fault:
        info(f"the graph of {ref.folder} is not used, PyTorch predicts instead: {fault}")
        return load_torch(ref, options, backbones)


def _load_onnx(ref: ModelRef, options: LoadOptions, calibration: Calibration | None) -> "OnnxPredictor":
    from moe.inference.graph.onnx_predictor import OnnxPredictor
    from moe.inference.graph.session import GraphSession

    predictor = OnnxPredictor(
        GraphSession(ref.folder, options.threads, int8=options.runtime == "int8"),
        routing=options.routing,
        windows=options.windows,
        batch_tokens=options.batch_tokens,
        calibration=calibration,
        abstain=options.abstain,
        label_sets=options.label_sets,
    )
    if options.routing == "pruned" and predictor.routing != "pruned":
        remedy = f"write the graph again, moe export {ref.folder} --to graph, or use --runtime torch"
        raise Fault("a graph with pruned routing", "a graph of format 1, which computes every expert", remedy)
    return predictor


def load_torch(
    ref: ModelRef, options: LoadOptions = LoadOptions(), backbones: "BackbonePool | None" = None
) -> "TorchPredictor":
    """Load a classifier with PyTorch, for what needs its gradients or its parts.

    Args:
        backbones: see `load`.

    Raises:
        Fault: as `load`.
    """
    options.check()
    with each_file_once(ref.records):
        calibration = _read_calibration(ref, options)
    import torch

    from moe.inference.load_mixture import load_mixture
    from moe.inference.torch_predictor import TorchPredictor

    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load_mixture(ref, options.sets, backbones=backbones)
    return TorchPredictor(
        loaded.model,
        loaded.template,
        loaded.max_length,
        routing=options.routing,
        windows=options.windows,
        batch_tokens=options.batch_tokens,
        calibration=calibration,
        abstain=options.abstain,
        label_sets=options.label_sets,
    )


def _read_calibration(ref: ModelRef, options: LoadOptions) -> Calibration | None:
    calibration = read_calibration(ref.folder)
    if options.abstain is not None and calibration is None and ref.folder.is_dir():
        raise Fault(
            f"a calibrated model at {ref.folder} to abstain with",
            "no calibration",
            f"run moe calibrate {ref.folder}",
        )
    if options.label_sets and (calibration is None or calibration.sets_level is None) and ref.folder.is_dir():
        raise Fault(
            f"a model at {ref.folder} with label sets in its calibration",
            "no calibration" if calibration is None else "a calibration without them",
            f"run moe calibrate {ref.folder} --conformal 0.9",
        )
    if options.abstain is not None and calibration is not None and calibration.unbounded:
        tasks = ", ".join(calibration.unbounded)
        info(f"{tasks}: these thresholds have no bound on other texts; run moe calibrate {ref.folder} again")
    return calibration


def check_overrides(sets: Sequence[str]) -> None:
    """Check that overrides are of settings that may differ from those in training.

    A name or revision of the backbone is accepted, since its files may have moved; loading checks that its weights are
    the same.

    Raises:
        Fault: for a setting outside `backbone`, or one that the trained weights are for.
    """
    for override in sets:
        room, _, name = override.partition("=")[0].strip().partition(".")
        if room != "backbone" or not name:
            raise Fault("--set backbone.KEY=VALUE for a trained model", override, "remove this --set")
        if name in FIXED:
            fixed = ", ".join(f"backbone.{fixed}" for fixed in FIXED)
            raise Fault(
                f"--set of a setting that may change after training, unlike {fixed}", override, "remove this --set"
            )


def check_routing(routing: str, known: Sequence[RoutingChoice] = ROUTINGS) -> RoutingChoice:
    """Check a routing mode and return it.

    Raises:
        Fault: if it is none of those known.
    """
    return check_choice(routing, known, "--routing")


def check_runtime(name: str) -> Runtime:
    """Check the name of a runtime and return it.

    Raises:
        Fault: if there is no such runtime.
    """
    return check_choice(name, RUNTIMES, "--runtime")


def is_large(file: Path) -> bool:
    """Whether predicting a file takes so long that a slower start pays; false if there is no file."""
    return file.is_file() and file.stat().st_size >= LARGE_FILE


def has_gpu() -> bool:
    """Whether PyTorch would find a GPU: its build supports one, and a driver's device is there and not hidden."""
    try:
        build = version("torch")
    except PackageNotFoundError:
        return False
    hidden = any(os.environ.get(name) in ("", "-1") for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"))
    return "+cpu" not in build and not hidden and bool(_gpu_devices())


def _gpu_devices() -> list[Path]:
    """Return the device files of NVIDIA's and AMD's drivers, and of a GPU in WSL."""
    return [
        *Path("/dev").glob("nvidia[0-9]*"),
        *(path for path in map(Path, ("/dev/kfd", "/dev/dxg")) if path.exists()),
    ]

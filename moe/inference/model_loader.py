"""A model's folder, and how it is loaded for prediction: with which runtime, routing and calibration.

Importing this module does not import torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from experts.atomic_io import restore_folder
from experts.cards import EXPERT_CARD
from experts.durable import read_errors_as_faults
from experts.errors import Fault
from moe.checkpoints.file_names import CARD as MIXTURE_CARD
from moe.checkpoints.file_names import README
from moe.checkpoints.ready import is_ready, ready_folder
from moe.config.files import default_run_folder
from moe.console import info
from moe.inference.abstention import check_target_accuracy
from moe.inference.calibration import Calibration, read_calibration
from moe.inference.graph.spec import GRAPH_FOLDER
from moe.inference.predictor import CPU_TOKEN_BUDGET, Predictor, Routing, chunk_size_for
from moe.inference.runtime import Runtime, check_runtime, has_amx, has_gpu
from moe.runs.best import best_model, default_model, has_mixture

if TYPE_CHECKING:
    from moe.inference.onnx_predictor import OnnxPredictor
    from moe.inference.torch_predictor import TorchPredictor


@dataclass(frozen=True)
class ModelLoader:
    """A model folder with the options to load it; small enough to be sent to worker processes.

    Args:
        folder: of a mixture or a single expert.
        sets: overrides of its backbone settings, see `load_model`.
        routing: see `Predictor`.
        windows: see `Predictor`.
        batch_tokens: see `Predictor`.
        abstain: see `Predictor`.
        threads: CPU threads of a forward pass; None leaves the choice to the runtime.
        runtime: `onnx` predicts with the model's graph, `torch` with PyTorch; `auto` uses the graph where it is current
            and fits the options.
        large: whether so many texts follow that the runtime's speed matters more than its start.
    """

    folder: Path
    sets: tuple[str, ...] = ()
    routing: Routing = "soft"
    windows: bool = False
    batch_tokens: int | None = None
    abstain: float | None = None
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
            Fault: for an unknown routing or runtime, or a target accuracy outside 0 to 1.
        """
        check_routing(self.routing)
        check_runtime(self.runtime)
        if self.abstain is not None:
            check_target_accuracy(self.abstain)

    def load(self) -> Predictor:
        """Load the model with the runtime that was chosen, or that fits this model, machine and options.

        A graph that does not fit the model's files is not used, which is stated on stderr.

        Raises:
            Fault: as `load_onnx` or `load_torch`.
        """
        if self.runtime == "onnx":
            return self.load_onnx()
        if self.runtime == "torch" or self.sets or has_gpu() or (self.large and has_amx()):
            return self.load_torch()
        if not (self.folder / GRAPH_FOLDER).is_dir():
            return self.load_torch()
        calibration = self._read_calibration()
        try:
            return self._load_onnx(calibration)
        except Fault as fault:
            info(f"the graph of {self.folder} is not used, PyTorch predicts instead: {fault}")
            return self.load_torch()

    def load_onnx(self) -> "OnnxPredictor":
        """Load the model's graph with onnxruntime, without importing torch.

        Raises:
            Fault: if there is no graph, it or a file that it was made from was changed, or settings are overridden; if
                the calibration is broken, or there is none and `abstain` is set.
        """
        if self.sets:
            remedy = "use --runtime torch, or remove --set"
            raise Fault("no --set for a graph, whose settings are fixed", self.sets[0], remedy)
        return self._load_onnx(self._read_calibration())

    def _load_onnx(self, calibration: Calibration | None) -> "OnnxPredictor":
        from moe.inference.graph.session import GraphSession
        from moe.inference.onnx_predictor import OnnxPredictor

        return OnnxPredictor(
            GraphSession(self.folder, self.threads),
            routing=self.routing,
            windows=self.windows,
            batch_tokens=self.batch_tokens,
            calibration=calibration,
            abstain=self.abstain,
        )

    def load_torch(self) -> "TorchPredictor":
        """Load the model with PyTorch, for what needs its gradients or its parts.

        Raises:
            Fault: as `load_model`; if its calibration is broken, or it has none and `abstain` is set.
        """
        calibration = self._read_calibration()
        import torch

        from moe.inference.loading import load_model
        from moe.inference.torch_predictor import TorchPredictor

        if self.threads:
            torch.set_num_threads(self.threads)
        model, template, max_length = load_model(self.folder, self.sets)
        return TorchPredictor(
            model,
            template,
            max_length,
            routing=self.routing,
            windows=self.windows,
            batch_tokens=self.batch_tokens,
            calibration=calibration,
            abstain=self.abstain,
        )

    def _read_calibration(self) -> Calibration | None:
        calibration = read_calibration(self.folder)
        if self.abstain is not None and calibration is None and self.folder.is_dir():
            raise Fault(
                f"a calibrated model at {self.folder} to abstain with",
                "no calibration",
                f"run moe calibrate {self.folder}",
            )
        if self.abstain is not None and calibration is not None and calibration.unbounded:
            tasks = ", ".join(calibration.unbounded)
            info(f"{tasks}: these thresholds have no bound on other texts; run moe calibrate {self.folder} again")
        return calibration


def select_model_folder(model: Path | None, config: Path | None, out: Path | None, sets: Sequence[str] | None) -> Path:
    """The given model folder; without one, the best mixture of the run, or the ready mixture if no run is named.

    Which model was chosen is stated on stderr.

    Args:
        model: folder of a mixture or an expert.
        config: config of the run; by default that of the demo.
        out: folder of the run; by default `runs/NAME` for a config NAME.yaml.
        sets: overrides of the model's settings.

    Raises:
        Fault: if a named run has no mixture yet, or `sets` overrides a setting outside `backbone`.
    """
    if others := [override for override in sets or () if not override.startswith("backbone.")]:
        raise Fault("--set backbone.KEY=VALUE for a trained model", others[0], "remove this --set")
    if model is not None:
        return model
    run = out or default_run_folder(config)
    if config is None and out is None and not has_mixture(run):
        info(f"no mixture in {run}, so the ready mixture answers; its model card is {ready_folder() / README}")
        return ready_folder()
    folder = best_model(run)
    info(f"model: {folder}")
    return folder


def find_model_folder(path: Path, sets: Sequence[str] = ()) -> Path:
    """The model folder at a path: the folder itself, the default mixture of a run, or the shipped one for `ready`.

    Raises:
        Fault: if there is no such folder or no model in it, or `sets` overrides a setting outside `backbone`.
    """
    if is_ready(path):
        return ready_folder()
    restore_folder(path)
    with read_errors_as_faults(path):
        if not path.is_dir():
            raise Fault(f"the folder of a model or a run at {path}", "no folder", "use a folder that moe has trained")
        is_model = any((path / card).is_file() for card in (EXPERT_CARD, MIXTURE_CARD))
    return select_model_folder(path if is_model else default_model(path), None, None, sets)


def check_routing(routing: str) -> Routing:
    """Check a routing mode and return it.

    Raises:
        Fault: if it is neither `soft` nor `hard`.
    """
    if routing not in ("soft", "hard"):
        raise Fault("--routing soft or hard", repr(routing), "use one of them")
    return cast(Routing, routing)

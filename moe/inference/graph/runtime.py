"""Loading of a graph into onnxruntime with weights from memory, and its runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experts.errors import Fault

DISABLED = ["ConstantFolding", "SkipLayerNormFusion"]
"""The first would copy every weight to transpose it; those of the INT8 graph are in the file, mostly transposed. The
second replaces an addition and a normalization by an operator that takes twice their time on a CPU."""
REBUILD = "write the graph again: moe export FOLDER --to graph"


def open_session(path: Path, arrays: Mapping[str, np.ndarray], threads: int | None, complete: bool = False) -> Any:
    """Load a graph into an onnxruntime session on the CPU.

    Args:
        path: the graph's file.
        arrays: its weights by name; the session shares their memory.
        threads: CPU threads of a run; None leaves the choice to onnxruntime.
        complete: whether the file holds all weights.

    Raises:
        Fault: if onnxruntime cannot load it.
    """
    import onnxruntime  # slow to import

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised
    # threads that spin while they wait are slow where cores are shared
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads:
        options.intra_op_num_threads = threads
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    try:
        return onnxruntime.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[] if complete else DISABLED,
        )
    except Exception as error:  # onnxruntime's own types have no common base below this
        reason = " ".join(str(error).split())[:160]
        raise Fault(f"a graph that onnxruntime {onnxruntime.__version__} can load", reason, REBUILD) from error


def run_session(session: Any, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Compute outputs.

    Raises:
        Fault: if memory runs out.
    """
    try:
        results: list[np.ndarray] = session.run(list(outputs), dict(inputs))
    except Exception as error:  # as above
        if "alloc" not in str(error):
            raise
        remedy = "lower --batch-tokens or backbone.max_length"
        raise Fault("enough memory for a batch", "memory ran out", remedy) from error
    return results

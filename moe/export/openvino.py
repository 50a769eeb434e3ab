"""`--to openvino`: the same graph in OpenVINO's own form, made of the ONNX one by its own converter.

The graph itself is `moe.export.onnx`'s.
"""

from pathlib import Path
from typing import Any

from experts.atomic_io import whole_folder, write_text
from moe.export.onnx import GRAPH, check_graph, fill, need
from moe.export.selection import Source

MODEL = "openvino_model.xml"
REMEDY = "pip install openvino"


def write_openvino(out: Path, source: Source, overwrite: bool) -> dict[str, Any]:
    """Write `openvino_model.xml` and `.bin` in whole precision, tokenizer and reading, whole or not at all.

    Returns:
        what `moe.export.onnx.write_graph` returns.

    Raises:
        Fault: as `moe.export.onnx.write_graph`.
    """
    need("openvino", REMEDY)
    check_graph(source)
    with whole_folder(out, overwrite) as temporary:
        found = fill(temporary, source)
        convert(temporary / GRAPH, temporary / MODEL)
        for path in temporary.glob(f"{GRAPH}*"):
            path.unlink()
        readme = (temporary / "README.md").read_text(encoding="utf-8")
        write_text(temporary / "README.md", readme.replace(GRAPH, MODEL))
    return found


def convert(graph: Path, target: Path) -> None:
    """Make OpenVINO's form of an ONNX graph, in the same precision."""
    openvino = need("openvino", REMEDY)
    openvino.save_model(openvino.convert_model(str(graph)), str(target), compress_to_fp16=False)


def compiled(path: Path, threads: int | None = None) -> Any:
    """A model of OpenVINO's, ready to run on the CPU in whole precision."""
    core = need("openvino", REMEDY).Core()
    how: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(str(path), "CPU", how | ({"INFERENCE_NUM_THREADS": threads} if threads else {}))

"""A model's graph in onnxruntime: checked against the files that it was made from, and given their weights.

The weights are arrays that share the memory-mapped bytes of safetensors files; nothing here needs torch.
"""

import mmap
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experts.atomic_io import MANIFEST, check_manifest, sha256_of
from experts.cards import EXPERT_CARD, EXPERT_FILES, adapter_files, read_record
from experts.errors import Fault
from experts.json_io import parse_json
from experts.reading import access_fault
from moe.checkpoints.file_names import MIXTURE_FILES
from moe.inference.graph.parts import PartSessions
from moe.inference.graph.runtime import REBUILD, open_session, run_session
from moe.inference.graph.spec import (
    BACKBONE,
    FORMAT,
    GRAPH_FILE,
    GRAPH_FOLDER,
    INT8_FILE,
    OLDEST_FORMAT,
    PART_FILES,
    SPEC_FILE,
    TOKENIZER_FILE,
    GraphSpec,
    WeightSource,
)
from moe.model.backbone_files import SHIPPED, local_weight_files, weights_digest

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_HEADER_SIZE = 8  # bytes of the header's length


def read_graph_spec(graph: Path) -> GraphSpec:
    """Read `graph.json` of a graph's folder.

    Raises:
        Fault: if there is none, or it is of another version.
    """
    if not (graph / SPEC_FILE).is_file():
        raise Fault(f"a graph at {graph}", "none", "write it: moe export FOLDER --to graph")
    return read_record(graph / SPEC_FILE, GraphSpec, FORMAT, "graph", REBUILD, OLDEST_FORMAT)


def check_graph(folder: Path) -> GraphSpec:
    """Check the graph of a model's folder against the files that it was made from, and return its specification.

    Raises:
        Fault: if there is no graph, it is of another version, or it or one of the files has changed or is missing.
    """
    spec = read_graph_spec(folder / GRAPH_FOLDER)
    _check_files(folder, folder / GRAPH_FOLDER, spec, _find_backbone(spec), int8=True)
    return spec


def _find_backbone(spec: GraphSpec) -> list[Path]:
    files = local_weight_files(spec.backbone, spec.revision)
    if not files:
        remedy = "predict with --runtime torch, which downloads it"
        raise Fault(f"the backbone {spec.backbone!r} on this machine", "none", remedy)
    return files


def _check_files(folder: Path, graph: Path, spec: GraphSpec, backbone: list[Path], int8: bool) -> None:
    """Check that every file is the one that the graph was made from."""
    if (folder / EXPERT_CARD).is_file():
        check_manifest(folder, "an expert", EXPERT_FILES)
    else:
        names = {Path(name).parent.name for name in spec.files if name.startswith("experts/")}
        check_manifest(folder, "a mixture", [*MIXTURE_FILES, *adapter_files(sorted(names | {*spec.spec.experts}))])
    if graph == folder / GRAPH_FOLDER:  # a new graph is checked before it is complete
        check_manifest(graph, "a graph", (GRAPH_FILE, SPEC_FILE, TOKENIZER_FILE))
    quantized = {graph / INT8_FILE: spec.int8_sha256} if int8 and spec.int8_sha256 else {}
    parts = {} if spec.parts is None else {graph / PART_FILES[p]: spec.parts.part(p).sha256 for p in PART_FILES}
    expected = (
        quantized
        | parts
        | {
            folder / MANIFEST: spec.manifest_sha256,
            graph / GRAPH_FILE: spec.graph_sha256,
            graph / TOKENIZER_FILE: spec.tokenizer_sha256,
        }
        | {folder / name: sha256 for name, sha256 in spec.files.items()}
    )
    for path, sha256 in expected.items():
        if not path.is_file():
            raise Fault(f"{path}, which the graph needs", "no such file", REBUILD)
        if (actual := sha256_of(path)) != sha256:
            raise Fault(f"{path} with sha256 {sha256[:12]}… for the graph", f"{actual[:12]}…", REBUILD)
    if (actual := weights_digest(tuple(backbone))) != spec.backbone_sha256:
        raise Fault(
            f"the backbone {spec.backbone!r} with weights {spec.backbone_sha256[:12]}…",
            f"weights {actual[:12]}…",
            "use the backbone it was trained on, or train it again on this one",
        )


class GraphSession:
    """A graph that is ready to run on the CPU.

    Args:
        folder: of a mixture or a single expert.
        threads: CPU threads of a run; None leaves the choice to onnxruntime.
        graph: folder of the graph, by default `graph` in the model's folder.
        int8: run the INT8 graph, whose labels may differ.

    Raises:
        Fault: if there is no graph, or no INT8 graph for `int8`, it is of another version, or it or a file that it was
            made from has changed.
    """

    def __init__(self, folder: Path, threads: int | None = None, graph: Path | None = None, int8: bool = False) -> None:
        self.folder, self.graph, self.threads, self.int8 = folder, graph or folder / GRAPH_FOLDER, threads, int8
        self.spec = read_graph_spec(self.graph)
        if int8 and self.spec.int8_sha256 is None:
            remedy = f"write it: moe export {folder} --to graph --int8 --file TEXTS"
            raise Fault(f"an INT8 graph at {self.graph}", "none", remedy)
        files = _find_backbone(self.spec)
        with ThreadPoolExecutor(1) as pool:  # hashing runs beside the imports and the loading below
            checked = pool.submit(copy_context().run, _check_files, folder, self.graph, self.spec, files, int8)
            try:
                self._session = self._load(files)
            finally:
                checked.result()  # a changed file explains any other error

    def run(self, outputs: list[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Compute outputs.

        Raises:
            Fault: if memory runs out.
        """
        return run_session(self._session, outputs, inputs)

    @cached_property
    def parts(self) -> PartSessions | None:
        """The graph in parts; None if it has none or is the INT8 graph."""
        parts = self.spec.parts
        if parts is None or self.int8:
            return None
        files = _find_backbone(self.spec)
        _check_files(self.folder, self.graph, self.spec, files, int8=False)  # they may have changed since the start
        factors = {part for updates in parts.updates.values() for its in updates for part in (its.a, its.b)}
        tensors = {name: read_tensors([self.folder / name]) for name in {part.file for part in factors}}
        return PartSessions(
            self.graph,
            parts,
            arrays=self.arrays | dict(self._weights(parts.weights, files)),
            factors={part: tensors[part.file][part.tensor] for part in factors},
            shared=[name for name in parts.updates if name not in self.spec.spec.experts],
            threads=self.threads,
        )

    def _load(self, backbone: list[Path]) -> Any:
        self.arrays = {} if self.int8 else dict(self._weights(self.spec.weights, backbone))
        path = self.graph / (INT8_FILE if self.int8 else GRAPH_FILE)
        return open_session(path, self.arrays, self.threads, complete=self.int8)

    def _weights(self, sources: Mapping[str, WeightSource], backbone: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
        used = dict.fromkeys(part.file for source in sources.values() for part in source.parts)
        tensors = {name: read_tensors(backbone if name == BACKBONE else [self.folder / name]) for name in used}
        for name in used:
            if name != BACKBONE or self.spec.backbone != SHIPPED:  # whose hash is in the code
                check_finite_arrays(tensors[name], name if name == BACKBONE else str(self.folder / name))
        for name, source in sources.items():
            yield name, _assemble(name, source, tensors)


def _assemble(name: str, source: WeightSource, tensors: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    try:
        parts = [tensors[part.file][part.tensor] for part in source.parts]
    except KeyError as error:
        raise Fault(f"the tensor {error.args[0]} for the graph", "none", REBUILD) from error
    array = parts[0] if len(parts) == 1 else np.concatenate(parts, source.axis)
    array = np.ascontiguousarray(array.T) if source.transpose else array
    if array.shape != source.shape:
        raise Fault(f"a weight {name} of shape {source.shape}", f"{array.shape}", REBUILD)
    return array


def read_tensors(paths: Iterable[Path]) -> dict[str, np.ndarray]:
    """Return the floating-point tensors of safetensors files in fp32; those that are stored in fp32 are not copied.

    Raises:
        Fault: if a file is missing or is not a complete safetensors file.
    """
    return {name: array for path in paths for name, array in _read_file(path).items()}


def check_finite_arrays(arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Check that weights hold neither NaN nor infinity; by their sum, which is finite only if all are.

    Raises:
        Fault: naming the first array that does.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for name, array in arrays.items():
            if not np.isfinite(array.sum()) and not np.isfinite(array).all():
                remedy = "train it again with a lower learning rate"
                raise Fault(f"finite weights in {source}", f"NaN or infinity in {name}", remedy)


def tensor_names(paths: Iterable[Path]) -> frozenset[str]:
    """Return the names of the floating-point tensors of safetensors files.

    Raises:
        Fault: as `read_tensors`.
    """
    return frozenset(read_tensors(paths))


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        start = _HEADER_SIZE + int.from_bytes(content[:_HEADER_SIZE], "little")
        header = parse_json(content[_HEADER_SIZE:start])
        header.pop("__metadata__", None)
        return {name: _to_array(content, start, entry) for name, entry in header.items() if entry["dtype"] in _DTYPES}
    except PermissionError as error:
        raise access_fault(error, path) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:160]
        raise Fault(f"a complete safetensors file at {path}", reason, "copy or write it again") from error


def _to_array(content: mmap.mmap, start: int, entry: dict[str, Any]) -> np.ndarray:
    dtype, (begin, end) = np.dtype(_DTYPES[str(entry["dtype"])]), entry["data_offsets"]
    flat = np.frombuffer(content, dtype, count=(end - begin) // dtype.itemsize, offset=start + begin)
    array = flat.reshape(entry["shape"])
    if entry["dtype"] == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array if dtype.itemsize == np.float32().itemsize else array.astype(np.float32)

"""`graph/graph.json`: what a mixture's graph was made from, and where each of its weights is read.

Every prediction without torch reads this file, so this module imports nothing heavy.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from moe.inference.spec import InferenceSpec

GRAPH_FOLDER, GRAPH_FILE, SPEC_FILE, TOKENIZER_FILE = "graph", "model.onnx", "graph.json", "tokenizer.json"
PartName = Literal["router", "experts", "folded"]
PART_FILES: Mapping[PartName, str] = {"router": "router.onnx", "experts": "experts.onnx", "folded": "folded.onnx"}
"""The same graph in parts, for batches that keep few experts; see `RoutedParts`."""
GRAPH_FILES = tuple(f"{GRAPH_FOLDER}/{name}" for name in (GRAPH_FILE, SPEC_FILE, TOKENIZER_FILE, *PART_FILES.values()))
"""The graph's files from the model's folder; the model's manifest does not list them."""
INT8_FILE = "model_int8.onnx"
"""The same graph with the backbone in INT8 and all weights inside; only with `moe export --int8`."""
FORMAT, OLDEST_FORMAT = 2, 1
"""Version of the graph's inputs, outputs and files; a graph of format 1 has no parts and prunes nothing."""
BACKBONE = "backbone"
"""Name of the backbone's weight files in `TensorPart.file`."""


class TensorPart(BaseModel):
    """One tensor of a safetensors file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(description="path from the model's folder, or `backbone`")
    tensor: str = Field(description="its name in the file")


class WeightSource(BaseModel):
    """A weight of the graph: tensors that are concatenated and perhaps transposed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: tuple[int, ...] = Field(description="in the graph")
    parts: tuple[TensorPart, ...]
    axis: int = Field(0, description="along which the parts are concatenated")
    transpose: bool = Field(False, description="whether the matrix is transposed after that")


class GraphPart(BaseModel):
    """One of the graphs into which a mixture's graph is divided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(description="SHA-256 of its file")
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...] = Field(description="names of its weights")


class FoldedUpdate(BaseModel):
    """Update of one layer's weights by one expert, `scaling · B A`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: str = Field(description="name of the layer's weight")
    a: TensorPart = Field(description="A (R, D_in)")
    b: TensorPart = Field(description="B (D_out, R)")
    scaling: float


class RoutedParts(BaseModel):
    """A mixture's graph in parts: the router, the layers with the experts that a batch keeps, and those without any.

    The router runs first; its weights decide which texts share a batch. A batch that keeps one expert runs in layers
    whose weights contain its update.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    router: GraphPart
    experts: GraphPart
    folded: GraphPart
    weights: dict[str, WeightSource] = Field(description="those that the complete graph does not have")
    updates: dict[str, tuple[FoldedUpdate, ...]] = Field(description="by routed or shared expert")
    costs: tuple[float, ...] = Field(
        description="multiplications of each routed expert, as a share of those of the layers' weights"
    )
    exclusive: bool = Field(description="whether the router gives one expert all the weight, even with soft routing")
    fold_memory: int = Field(description="most bytes of weights with an expert folded in")

    def part(self, name: PartName) -> GraphPart:
        """Return a part by its name in `PART_FILES`."""
        part: GraphPart = getattr(self, name)
        return part


class GraphSpec(BaseModel):
    """Content of `graph.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    version: str = Field(description="version of finmoe that wrote the graph")
    backbone: str = Field(description="name of the backbone: hub name, folder or `default`")
    revision: str | None = Field(None, description="hub branch, tag or commit")
    backbone_sha256: str = Field(description="SHA-256 of the backbone's weights, as on the model's card")
    manifest_sha256: str = Field(description="SHA-256 of the model's manifest")
    graph_sha256: str = Field(description="SHA-256 of model.onnx")
    tokenizer_sha256: str = Field(description="SHA-256 of tokenizer.json")
    int8_sha256: str | None = Field(None, description="SHA-256 of model_int8.onnx; None without an INT8 graph")
    files: dict[str, str] = Field(description="SHA-256 of each other file that weights are read from")
    pad_id: int = Field(description="token id that fills up short texts")
    truncation_side: Literal["left", "right"] = Field("right", description="side at which a long text is cut")
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: dict[str, WeightSource]
    spec: InferenceSpec
    prune: float = Field(0.0, description="the router's setting `prune`, for pruned routing")
    parts: RoutedParts | None = Field(None, description="None for a single expert, and in format 1")

    def to_json(self) -> dict[str, object]:
        """Return the content of the file; a graph without an INT8 graph, or without parts, has no key for it."""
        unused = {name for name in ("int8_sha256", "parts") if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=unused)

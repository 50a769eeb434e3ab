"""`graph/graph.json`: what a mixture's graph was made from, and where each of its weights is read.

Every prediction without torch reads this file, so this module imports nothing heavy.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from moe.inference.spec import InferenceSpec

GRAPH_FOLDER, GRAPH_FILE, SPEC_FILE, TOKENIZER_FILE = "graph", "model.onnx", "graph.json", "tokenizer.json"
GRAPH_FILES = tuple(f"{GRAPH_FOLDER}/{name}" for name in (GRAPH_FILE, SPEC_FILE, TOKENIZER_FILE))
"""The graph's files from the model's folder; the model's manifest does not list them."""
INT8_FILE = "model_int8.onnx"
"""The same graph with the backbone in INT8 and all weights inside; only with `moe export --int8`."""
FORMAT = 1
"""Version of the graph's inputs, outputs and files; a graph of another version is not used."""
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

    def to_json(self) -> dict[str, object]:
        """Return the content of the file; a graph without an INT8 graph has no key for it."""
        return self.model_dump(mode="json", exclude={"int8_sha256"} if self.int8_sha256 is None else None)

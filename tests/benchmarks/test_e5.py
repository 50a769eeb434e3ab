"""Tests of the converter in `benchmarks/e5.py`, on a small file in the package's format."""

import importlib
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from moe.model.backbone import BackboneSettings, load_backbone

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LETTERS = [*"▁abcdefgh利润增长亏损，～%1Ω"]
WORDS = ["利润", "▁利润增长", "亏损", "▁abc", "def", "▁привет", "Ωa"]
PIECES = ["<s>", "<pad>", "</s>", "<unk>", *WORDS, *LETTERS, "é", "<mask>"]
REPLACEMENTS = {"\x01": "", "\t": " ", "％": "%", "１": "1", "㎏": "kg"}
HIDDEN, LAYERS, WIDE, VOCABULARY = 32, 2, 64, len(PIECES) + 3


@pytest.fixture
def e5(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("e5")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.bin"
    path.write_bytes(small_file())
    return path


def small_file() -> bytes:
    """A file of the package's format: few pieces, two layers, random weights."""
    encoded = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, encoded)])
    scores = [0.0] * 4 + [-3.0] * len(WORDS) + [-8.0] * (len(LETTERS) + 1) + [0.0]
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, 4, WIDE, VOCABULARY, 16, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, offsets[-1])
    head += offsets.astype("<u4").tobytes() + np.array(scores, "<f4").tobytes() + b"".join(encoded)
    entries = [struct.pack(f"<IB{len(to)}I", ord(of), len(to), *map(ord, to)) for of, to in REPLACEMENTS.items()]
    head += struct.pack("<iI", len(entries), len(b"".join(entries))) + b"".join(entries)
    tensors = random_tensors()
    start = len(head) + 4 + sum(23 + len(name) for name in tensors)
    directory, content = struct.pack("<i", len(tensors)), b""
    for name, (kind, count, raw) in tensors.items():
        entry = struct.pack("<BIQQ", kind, count, start + len(content), len(raw))
        directory += struct.pack("<H", len(name)) + name.encode() + entry
        content += raw
    return head + directory + content


def random_tensors() -> dict[str, tuple[int, int, bytes]]:
    """Dtype, number of weights and bytes of every tensor, by name."""
    random = np.random.default_rng(13)
    matrices = {"emb.word": VOCABULARY * HIDDEN}
    vectors = {"emb.pos": 16 * HIDDEN, "emb.type": 2 * HIDDEN, "emb.ln.w": HIDDEN, "emb.ln.b": HIDDEN}
    for layer in range(LAYERS):
        for part in ("q", "k", "v", "ao", "fi", "fo"):
            matrices[f"l{layer}.{part}.w"] = HIDDEN * (WIDE if part[0] == "f" else HIDDEN)
            vectors[f"l{layer}.{part}.b"] = WIDE if part == "fi" else HIDDEN
        for part in ("aln", "oln"):
            vectors |= {f"l{layer}.{part}.w": HIDDEN, f"l{layer}.{part}.b": HIDDEN}
    quantized = {name: (1, count, random_blocks(random, count // 32)) for name, count in matrices.items()}
    plain = {name: (0, count, random.normal(size=count).astype("<f4").tobytes()) for name, count in vectors.items()}
    return quantized | plain


def random_blocks(random: np.random.Generator, blocks: int) -> bytes:
    """Blocks of 32 weights: a scale in fp16 and 16 bytes each."""
    scales = random.uniform(0.01, 0.1, blocks).astype("<f2").view(np.uint8).reshape(blocks, 2)
    return np.concatenate([scales, random.integers(0, 256, (blocks, 16), np.uint8)], 1).tobytes()


def test_e5_blocks_hold_low_halves_before_high_halves(e5: ModuleType) -> None:
    block = np.float16(0.5).tobytes() + bytes([0x1F, *[0x88] * 15])
    weights = e5.dequantize(block)
    assert (weights[0], weights[16]) == (3.5, -3.5)
    assert not weights[1:16].any()


def test_e5_vocabulary_keeps_chinese_english_and_symbols(e5: ModuleType, file: Path) -> None:
    model = e5.read_file(file)
    cut = e5.cut_vocabulary(model)
    assert set(model.pieces) - set(cut.pieces) == {"▁привет", "Ω", "Ωa"}
    assert cut.pieces[:4] == model.pieces[:4]
    assert cut.pieces[-1] == "<mask>"
    assert cut.sizes["vocab"] == len(cut.pieces)


@pytest.mark.slow
def test_e5_folder_loads_as_a_backbone_with_the_weights_of_the_file(e5: ModuleType, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "e5"
    e5.convert(file, folder)
    backbone = load_backbone(BackboneSettings(name=str(folder), dtype="float32", device="cpu"))
    model = e5.read_file(file)
    rows = e5.dequantize(model.tensors["emb.word"][1]).reshape(VOCABULARY, HIDDEN)
    words = backbone.model.get_input_embeddings().weight
    for piece, row in ((piece, rows[i]) for i, piece in enumerate(model.pieces) if piece in ("亏损", "<mask>", "é")):
        loaded = words[backbone.tokenizer.convert_tokens_to_ids(piece)].numpy()
        assert loaded == pytest.approx(row, rel=1e-3)
    wide = AutoModel.from_pretrained(folder, dtype=torch.float32).encoder.layer[1].output.dense.weight
    assert wide.detach().numpy().ravel() == pytest.approx(e5.dequantize(model.tensors["l1.fo.w"][1]), rel=1e-3)
    assert not (folder.parent / ".e5.half").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("利润增长１％", ["▁利润增长", "1", "%"]),
        ("abc\t def\x01，亏损", ["▁abc", "▁", "def", "，", "亏损"]),
        ("利～损é", ["▁", "利", "～", "损", "é"]),
    ],
)
def test_e5_tokens_are_those_of_all_pieces(
    e5: ModuleType, file: Path, tmp_path: Path, text: str, tokens: list[str]
) -> None:
    model = e5.read_file(file)
    e5.convert(file, tmp_path / "e5")
    tokenizer = Tokenizer.from_file(str(tmp_path / "e5" / "tokenizer.json"))
    assert tokenizer.encode(text).tokens == ["<s>", *tokens, "</s>"]
    assert e5.build_tokenizer(model).encode(text).tokens == ["<s>", *tokens, "</s>"]
    backbone = load_backbone(BackboneSettings(name=str(tmp_path / "e5"), dtype="float32", device="cpu"))
    assert backbone.tokenizer.convert_ids_to_tokens(backbone.tokenizer(text)["input_ids"])[1:-1] == tokens
    assert backbone.tokenizer("利", "损")["input_ids"].count(backbone.tokenizer.eos_token_id) == 3


def test_e5_file_of_another_format_is_refused(e5: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(SystemExit, match="E5S1"):
        e5.read_file(tmp_path / "other.bin")

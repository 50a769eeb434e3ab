"""Write every pin: constraints.txt, requirements/*.txt with hashes, and the bill of materials (`make pins`).

The files name no index and no path. They hold the hashes of all wheels and source distributions of a version, so that
they serve every platform. torch is in files of its own: PyPI's Linux builds need CUDA packages, and the CPU builds have
other hashes and come from PyTorch's index.
"""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

FOLDER = Path("requirements")
CONSTRAINTS, SBOM = Path("constraints.txt"), Path("sbom.cdx.json")
CPU_INDEX = os.environ.get("TORCH_CPU_INDEX", "https://download.pytorch.org/whl/cpu")
TORCH_PACKAGE = re.compile(r"(cuda|nvidia)-|(torch|triton)==")
HEADERS = {
    "build": "What builds FinMoE and the source distributions below it, with hashes.",
    "dev": "FinMoE with all of its extras and what its tests need, with hashes: what `make install` installs.",
    "serve": "What `moe serve` needs, with hashes: what the Containerfile installs.",
    "lint": "What `make lint-project` needs besides, with hashes.",
    "torch": "torch as PyPI has it, with the CUDA packages that it needs on Linux, with hashes.",
    "torch-cpu": "torch without CUDA for Linux, which PyTorch's CPU index has, with hashes.",
}
INPUTS = {
    "build": "hatchling>=1.27\neditables\nbuild\nsetuptools\nwheel\n",
    "lint": "check-jsonschema==0.39.0\nhadolint-bin==2.15.1\n",
}
TROVE = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.1-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""SPDX identifiers of the classifiers of licences."""
STATED = {
    "cleanlab": "Apache-2.0",
    "cuda-bindings": "Apache-2.0",
    "cuda-pathfinder": "Apache-2.0",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "nvidia-nvtx": "Apache-2.0",
    "protobuf": "BSD-3-Clause",
    "ray": "Apache-2.0",
    "torchjd": "MIT",
    "transformers": "Apache-2.0",
    "word2number": "MIT",
}
"""Licences of packages whose metadata has no identifier, but a sentence, the whole text or nothing."""


def uv(*arguments: str, stdin: str = "") -> str:
    """Run uv and return its output."""
    return subprocess.run(
        [sys.executable, "-m", "uv", *arguments], input=stdin, text=True, check=True, stdout=subprocess.PIPE
    ).stdout


def compile_pins(*arguments: str, stdin: str = "") -> str:
    """Resolve requirements for every platform and Python."""
    plain = ("--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--quiet")
    return uv("pip", "compile", *plain, *arguments, stdin=stdin)


def blocks(text: str) -> dict[str, str]:
    """Return the lines of each requirement with its hashes, by the requirement itself."""
    found: dict[str, str] = {}
    for line in text.splitlines(keepends=True):
        if line[0] not in " #":
            name = line.rstrip("\\\n ")
            found[name] = ""
        if line[0] != "#":
            found[name] += line
    return found


def torch_cpu_hashes(version: str, known: str) -> list[str]:
    """Return the hashes of the CPU builds of torch, or the known ones if the index cannot be reached."""
    try:
        text = compile_pins(
            *("--no-deps", "--generate-hashes", "--default-index", CPU_INDEX, "-"), stdin=f"torch=={version}+cpu\n"
        )
    except subprocess.CalledProcessError:
        if f"torch=={version}+cpu " not in known:
            raise SystemExit(f"no CPU builds of torch {version} at {CPU_INDEX}: set TORCH_CPU_INDEX") from None
        print(f"kept the hashes of the CPU builds of torch {version}: {CPU_INDEX} was not reached")
        text = known
    return re.findall(r"--hash=\S+", text)


def write_constraints() -> None:
    """Update the versions, except that of torch."""
    old = CONSTRAINTS.read_text(encoding="utf-8")
    header = "".join(line for line in old.splitlines(keepends=True) if line.startswith("#"))
    torch = next(line for line in old.splitlines() if line.startswith("torch=="))
    pins = compile_pins("pyproject.toml", "--extra", "dev", "--constraint", "-", stdin=torch + "\n")
    CONSTRAINTS.write_text(header + pins, encoding="utf-8")


def write_hashes() -> None:
    """Write the hashes of all files of the versions in constraints.txt."""
    locked = ("--generate-hashes", "--constraint", str(CONSTRAINTS))
    cpu_file = FOLDER / "torch-cpu.txt"
    known = cpu_file.read_text(encoding="utf-8") if cpu_file.is_file() else ""
    texts = {name: compile_pins(*locked, "pyproject.toml", "--extra", name) for name in ("dev", "serve")}
    texts |= {name: compile_pins(*locked, "-", stdin=names) for name, names in INPUTS.items()}
    found = {name: blocks(text) for name, text in texts.items()}
    found["torch"] = {pin: block for pin, block in found["dev"].items() if TORCH_PACKAGE.match(pin)}
    version = next(pin for pin in found["torch"] if pin.startswith("torch==")).split("==")[1]
    hashes = sorted(set(torch_cpu_hashes(version, known)))
    found["torch-cpu"] = {"torch": " \\\n    ".join([f"torch=={version}+cpu", *hashes]) + "\n"}
    FOLDER.mkdir(exist_ok=True)
    for name, requirements in found.items():
        kept = [block for pin, block in requirements.items() if name.startswith("torch") or pin not in found["torch"]]
        header = f"# {HEADERS[name]} Written by `make pins`.\n"
        (FOLDER / f"{name}.txt").write_text(header + "".join(kept), encoding="utf-8")


def licence(name: str, fields: dict[str, Any]) -> str | None:
    """Return the SPDX expression of a package's licence from its metadata, if it states one."""
    if name in STATED:
        return STATED[name]
    candidates = [fields.get("license_expression"), fields.get("license")]
    classifiers = [name.split(" :: ")[-1] for name in fields.get("classifier") or () if name.startswith("License")]
    candidates.append(" OR ".join(TROVE[name] for name in classifiers if name in TROVE))
    for candidate in candidates:
        try:
            return str(canonicalize_license_expression(candidate or ""))
        except InvalidLicenseExpression:
            continue
    return None


def licences(pins: dict[str, str]) -> dict[str, str | None]:
    """Return the licence of each package: as installed here, or from the index, without downloading the package."""
    found: dict[str, str | None] = {}
    others = []
    for name, version in pins.items():
        try:
            fields = metadata.metadata(name).json
        except metadata.PackageNotFoundError:
            if name.startswith("nvidia-"):  # libraries of CUDA, hundreds of megabytes each
                found[name] = STATED.get(name, "LicenseRef-NVIDIA-Proprietary")
            else:
                others.append(f"{name}=={version}")
        else:
            found[name] = licence(name, fields)
    if others:
        command = ("pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-")
        command += ("--ignore-requires-python",)  # versions for other Pythons and systems are in the file too
        report = subprocess.run(
            [sys.executable, "-m", *command, *others], text=True, check=True, stdout=subprocess.PIPE
        ).stdout
        for item in json.loads(report)["install"]:
            name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
            found.setdefault(name, licence(name, item["metadata"]))
    return found


def write_bill_of_materials() -> None:
    """Write the bill of materials of constraints.txt in CycloneDX's format, with the licence of every component."""
    arguments = ("requirements", str(CONSTRAINTS), "--pyproject", "pyproject.toml", "--output-reproducible", "-o", "-")
    text = subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", *arguments], text=True, check=True, stdout=subprocess.PIPE
    ).stdout
    purls = {component["bom-ref"]: component["purl"] for component in json.loads(text)["components"]}
    text = re.sub(r'"(requirements-L\d+)"', lambda match: json.dumps(purls[match[1]]), text)
    content = without_references(json.loads(text))
    stated = licences({component["name"]: component["version"] for component in content["components"]})
    if missing := [name for name, expression in stated.items() if not expression]:
        raise SystemExit(f"no licence in the metadata of {', '.join(missing)}: add it to STATED in {__file__}")
    for component in content["components"]:
        del component["description"]  # a line number
        component["licenses"] = [{"acknowledgement": "declared", "expression": stated[component["name"]]}]
    SBOM.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def without_references(value: Any) -> Any:
    """Return a tree without `externalReferences`, which name the index."""
    if isinstance(value, dict):
        return {key: without_references(item) for key, item in value.items() if key != "externalReferences"}
    return [without_references(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    if "--keep-versions" not in sys.argv[1:]:
        write_constraints()
    write_hashes()
    write_bill_of_materials()

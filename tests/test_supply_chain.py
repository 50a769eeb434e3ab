"""Tests of the pins: every installed file has a hash, the files agree with each other, and every part has a licence."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.licenses import canonicalize_license_expression
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
CPU_WHEEL = "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
"""Hash of the CPU build of torch for CPython 3.11 on Linux x86-64, as PyTorch's index lists it."""


def read_pins(path: Path) -> dict[str, list[str]]:
    """Return the hashes of each requirement in a file of pins, by the requirement with its marker."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split("--hash=") for line in text.splitlines() if line and not line.startswith("#")]
    return {requirement.strip(): [digest.strip() for digest in hashes] for requirement, *hashes in lines}


def locked(name: str) -> dict[str, list[str]]:
    """Return the pins of `requirements/NAME.txt`."""
    return read_pins(ROOT / "requirements" / f"{name}.txt")


def make_commands(target: str) -> list[str]:
    """Return the pip commands that `make TARGET` would run in a new environment."""
    arguments = ["make", "--dry-run", "--always-make", target, "VENV=/absent"]
    lines = subprocess.run(arguments, cwd=ROOT, text=True, check=True, capture_output=True).stdout.replace("\\\n", " ")
    return [line for line in lines.splitlines() if "pip install" in line]


def test_locked_requirements_are_those_of_build_dev_lint_serve_and_torch() -> None:
    assert sorted(path.stem for path in LOCKS) == ["build", "dev", "lint", "serve", "torch", "torch-cpu"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_locked_requirement_is_pinned_with_hashes(path: Path) -> None:
    for text, hashes in read_pins(path).items():
        assert re.fullmatch(r"==[\w.+]+", str(Requirement(text).specifier)), text
        assert hashes, text
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), text


@pytest.mark.parametrize("path", [*LOCKS, ROOT / "constraints.txt"], ids=lambda path: path.stem)
def test_pins_name_no_index_and_no_path(path: Path) -> None:
    pins = "".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    assert not re.search(r"://|index|find-links|(^|\s)/|\s-[a-z]\b", pins)


def test_locked_versions_are_those_of_the_constraints() -> None:
    constraints = read_pins(ROOT / "constraints.txt")
    assert not any(constraints.values())
    assert locked("dev").keys() | locked("torch").keys() == constraints.keys()
    versions = {text.split(" ;")[0] for text in constraints}
    names = {text.split("==")[0] for text in constraints}
    for name in ("serve", "build", "lint"):
        pinned = {text.split(" ;")[0] for text in locked(name)}
        assert {pin for pin in pinned if pin.split("==")[0] in names} <= versions


def test_locked_torch_is_either_the_cpu_build_or_that_of_pypi_with_its_cuda_packages() -> None:
    ((cpu, hashes),) = locked("torch-cpu").items()
    assert f"sha256:{CPU_WHEEL}" in hashes
    assert cpu.removesuffix("+cpu") in locked("torch")
    assert not [text for name in ("dev", "serve") for text in locked(name) if re.match(r"(nvidia|cuda)-|torch=", text)]
    assert all("sys_platform == 'linux'" in text for text in locked("torch") if not text.startswith("torch=="))


@pytest.mark.parametrize("target", ["install", "lint-project", "dist", "test", "check"])
def test_make_installs_only_files_with_hashes_and_the_project_itself(target: str) -> None:
    commands = make_commands(target)
    assert commands
    own = [command for command in commands if "--require-hashes" not in command]
    assert len(own) == 1
    assert "--no-deps --no-build-isolation --editable ." in own[0]


def components() -> list[dict[str, Any]]:
    """Return the components of the bill of materials."""
    return json.loads((ROOT / "sbom.cdx.json").read_text(encoding="utf-8"))["components"]


def test_bill_of_materials_states_the_licence_of_every_component() -> None:
    assert len(components()) > 100
    for component in components():
        (licence,) = component["licenses"]
        expression = canonicalize_license_expression(licence["expression"])
        assert expression == licence["expression"], component["name"]


def test_bill_of_materials_names_no_line_of_a_file_and_no_index() -> None:
    text = (ROOT / "sbom.cdx.json").read_text(encoding="utf-8")
    assert "requirements-L" not in text
    assert "://" not in text.replace("http://cyclonedx.org", "")

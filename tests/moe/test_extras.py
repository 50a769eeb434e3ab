"""Claims about `moe.extras`: a missing optional package names its extra, before any work is done."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from experts.errors import Fault
from moe import extras
from moe.extras import PACKAGES, check_extra, require

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {
    "exchange-calendars": "exchange_calendars",
    "markdown-it-py": "markdown_it",
    "prometheus-client": "prometheus_client",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
BROUGHT_BY = {
    "datasets": {"pyarrow", "fsspec", "numpy", "pandas", "huggingface_hub"},
    "scikit-learn": {"scipy"},
    "torch": {"jinja2"},
    "transformers": {"tokenizers"},
}
"""What the core imports without naming it, by the core dependency that requires it."""


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name."""
    return {re.split(r"[<>=\[ ;]", requirement)[0].lower() for requirement in requirements}


def test_extras_table_matches_pyproject() -> None:
    declared = PROJECT["optional-dependencies"]
    for extra, packages in PACKAGES.items():
        assert {IMPORTED_AS.get(name, name) for name in names(declared[extra])} == set(packages), extra


def test_extras_of_users_are_all_in_all() -> None:
    declared = PROJECT["optional-dependencies"]
    inside = re.search(r"\[(.*)\]", declared["all"][0])
    assert inside
    assert set(inside[1].split(",")) == declared.keys() - {"all", "docs", "dev"}


def test_core_dependencies_are_few_and_include_training_and_the_light_runtime() -> None:
    core = names(PROJECT["dependencies"])
    assert len(core) <= 18
    assert {"onnx", "onnxruntime", "tokenizers", "safetensors"} <= core
    assert {"torch", "transformers", "peft", "bitsandbytes", "datasets", "scikit-learn", "typer", "rich"} <= core


def test_core_imports_at_load_only_what_the_core_installs() -> None:
    core = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names(PROJECT["dependencies"])}
    allowed = core.union(*BROUGHT_BY.values()) | sys.stdlib_module_names | {"moe", "experts", "router"}
    optional = ("serve", "lm_eval.py")  # imported by `moe serve` and by lm-eval alone
    for part in ("moe", "experts", "router"):
        for path in (ROOT / part).rglob("*.py"):
            if path.relative_to(ROOT / part).parts[0] in optional:
                continue
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert {module.split(".")[0] for module in modules} <= allowed, path


def test_core_dependencies_bring_what_the_core_imports_beside_them() -> None:
    for name, packages in BROUGHT_BY.items():
        required = {item.replace("-", "_") for item in names(metadata.requires(name) or [])}
        assert packages <= required, name


def test_require_returns_the_module_of_an_installed_package() -> None:
    assert require("matplotlib.figure", "report").__name__ == "matplotlib.figure"


def test_require_names_the_extra_of_a_missing_package() -> None:
    with pytest.raises(Fault, match=r"package nowhere; found not installed.*finmoe\[export\]"):
        require("nowhere.at_all", "export")


def test_check_extra_names_all_missing_packages_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    check_extra("serve")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(
        Fault, match=r"fastapi, uvicorn, h11, prometheus_client, markdown_it; found not installed.*finmoe\[serve\]"
    ):
        check_extra("serve")

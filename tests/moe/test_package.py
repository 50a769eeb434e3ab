"""Claims about `import moe`: few public names, fast to import, each with a docstring."""

import subprocess
import sys

import pytest

import moe


def test_import_loads_no_large_package() -> None:
    large = {"torch", "transformers", "peft", "datasets", "sklearn", "numpy", "pydantic"}
    code = f"import sys, moe; sys.exit(bool({large} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_exist_with_docstrings_and_are_ten_or_fewer() -> None:
    assert len(moe.__all__) <= 10
    aliases = {"MixtureClassifier": "FinMoEModel"}
    assert all(getattr(moe, name).__name__ == aliases.get(name, name) for name in moe.__all__)
    assert set(moe.__all__) <= set(dir(moe))
    assert all(getattr(moe, name).__doc__ for name in moe.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = moe.nothing

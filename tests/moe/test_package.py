"""Claims about the library's front: few names, light to import, complete when asked."""

import subprocess
import sys

import pytest

import moe


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "peft", "datasets", "sklearn", "numpy", "pydantic"}
    code = f"import sys, moe; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there_and_they_are_ten_or_fewer() -> None:
    assert len(moe.__all__) <= 10
    assert all(getattr(moe, name).__name__ == name for name in moe.__all__)
    assert set(moe.__all__) <= set(dir(moe))
    assert all(getattr(moe, name).__doc__ for name in moe.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = moe.nothing

"""Tests of the package `router`: it is fast to import and has all its public names."""

import subprocess
import sys

import pytest

import router


def test_import_does_not_import_torch() -> None:
    code = "import sys, router; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(router, name).__name__ == name for name in router.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = router.nothing

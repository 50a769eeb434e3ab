"""Python files outside the packages, such as the hooks of the documentation, loaded as modules."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any


def load_module(path: Path) -> Any:
    """Return the module of a Python file, under the file's name."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

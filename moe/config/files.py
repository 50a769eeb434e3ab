"""Where configs are found: a path, the repository's `configs` folder, or the one of the installed package."""

import difflib
from pathlib import Path

from experts.errors import Fault

PACKAGED_CONFIGS = Path(__file__).parent.parent / "configs"
REPOSITORY_CONFIGS = PACKAGED_CONFIGS.parent.parent / "configs"
DEFAULT = "demo.yaml"
RUNS = Path("runs")
"""Folder of the runs that are given no folder of their own."""


def find_config(path: Path | None) -> Path:
    """Find a config file, by default `configs/demo.yaml`.

    A path that does not exist is also looked up in the `configs` folders of the repository and the installed package.

    Raises:
        Fault: if there is no such file.
    """
    name = path or Path("configs") / DEFAULT
    if name.is_file():
        return name
    inner = Path(*name.parts[1:]) if name.parts[:1] == ("configs",) else name
    for folder in (REPOSITORY_CONFIGS, PACKAGED_CONFIGS):
        if not name.is_absolute() and (folder / inner).is_file():
            return folder / inner
    known = sorted(file.relative_to(REPOSITORY_CONFIGS).as_posix() for file in REPOSITORY_CONFIGS.rglob("*.yaml"))
    near = difflib.get_close_matches(inner.as_posix(), known, n=1)
    raise Fault(
        expected=f"a config file at {name}",
        found="no such file",
        remedy=f"did you mean configs/{near[0]}" if near else "give the path of an existing file",
    )


def default_run_folder(config: Path | None) -> Path:
    """Return the run folder of a config: `runs/NAME` for a config NAME.yaml.

    Raises:
        Fault: if there is no such config.
    """
    return RUNS / find_config(config).stem

"""Install the wheels that Python lacks into a folder, without a network: `python packages.py SITE [WHEELS]`.

Needs nothing but Python and pip. Also records FinMoE's version in the folder, which a checkout on `PYTHONPATH` lacks.
"""

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def main() -> None:
    """Install what is missing."""
    site, *folders = map(Path, sys.argv[1:])
    wheels = [wheel for folder in folders for wheel in sorted(folder.glob("*.whl")) if is_missing(wheel)]
    if wheels:
        options = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--target", site)
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels], check=True)
        print(f"installed from wheels: {', '.join(wheel.name.split('-')[0] for wheel in wheels)}")
    if not is_installed("finmoe"):
        release = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"]
        folder = site / f"finmoe-{release}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: finmoe\nVersion: {release}\n", encoding="utf-8")


def is_missing(wheel: Path) -> bool:
    """Whether a wheel's package is not installed, in any version."""
    return not is_installed(wheel.name.split("-")[0])


def is_installed(name: str) -> bool:
    """Whether a package is installed, in any version."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()

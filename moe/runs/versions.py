"""Versions on which weights and metrics depend, for cards."""

from importlib.metadata import version
from pathlib import Path


def package_versions() -> dict[str, str]:
    """Return the package versions on which weights and metrics depend, and the commit if run from a git clone."""
    versions = {name: version(name) for name in ("finmoe", "torch", "transformers", "peft")}
    commit = read_commit(Path(__file__).parents[2])
    return versions if commit is None else versions | {"commit": commit}


def read_commit(clone: Path) -> str | None:
    """Return the checked-out commit of a clone, read from git's files; None if it is not a clone."""
    git = clone / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="ascii").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text(encoding="ascii").strip()
        packed = (git / "packed-refs").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)

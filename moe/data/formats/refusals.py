"""Refusals that all formats share, so that the same content is refused alike in every one of them."""

import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experts.errors import Fault
from moe.errors import Interrupted

_MAX_SHOWN = 10
_KINDS = {
    stat.S_ISFIFO: "a pipe (FIFO)",
    stat.S_ISCHR: "a character device",
    stat.S_ISBLK: "a block device",
    stat.S_ISSOCK: "a socket",
}


@contextmanager
def parser_errors(expected: str, remedy: str, where: Callable[[], str] = str) -> Iterator[None]:
    """Turn whatever a parser raises inside the block into a fault.

    Parsers of foreign formats raise exceptions of many kinds (`OverflowError`, `KeyError`, Arrow's, zlib's), and no
    list of them stays complete.

    Args:
        expected: what the block reads, see `Fault`.
        remedy: see `Fault`.
        where: returns what precedes the parser's message, such as a row.
    """
    try:
        yield
    except (Fault, Interrupted, MemoryError):
        raise
    except Exception as error:
        raise Fault(expected, where() + reason_of(error), remedy) from error


def reason_of(error: Exception) -> str:
    """Return an exception's message in one line; with its type if the message is empty or only a key."""
    message = " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
    return f"{type(error).__name__} {message}".strip() if isinstance(error, LookupError) or not message else message


def check_regular_file(path: Path) -> None:
    """Check that a path is a file or a folder, without opening it: opening a pipe may wait forever.

    Raises:
        Fault: if it is a pipe, a device or a socket. A missing file passes.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if (kind := next((name for matches, name in _KINDS.items() if matches(mode)), None)) is not None:
        raise Fault(
            f"a file at {path}, since it is read more than once",
            kind,
            "write its content to a file first, or pipe the texts to `moe infer` on standard input",
        )


def check_unique_names(names: Sequence[str], path: Path) -> None:
    """Check that no two columns of a file have the same name.

    Raises:
        Fault: if two have.
    """
    if repeated := [repr(name) for name, count in Counter(names).items() if count > 1]:
        more = f" and {len(repeated) - _MAX_SHOWN} more" if len(repeated) > _MAX_SHOWN else ""
        raise Fault(
            f"unique column names in {path}",
            f"{', '.join(repeated[:_MAX_SHOWN])}{more} more than once",
            "rename or remove the repeated column",
        )

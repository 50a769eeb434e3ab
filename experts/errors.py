"""The one exception family: a fault in what a user gave, told as expected, found and what to do.

Everything below raises it, only `cli.py` catches it (one line, exit code 2); what a programmer broke stays an `assert`.
"""

import difflib
from collections.abc import Iterable
from typing import Any


def suggest(name: str, known: Iterable[str]) -> str:
    """A remedy for a mistaken name: the known one that is nearest, if any is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "name one of them"


class Fault(ValueError):
    """Something a user gave cannot be used.

    Args:
        expected: what would have been right, as a noun phrase.
        found: what was there instead.
        remedy: what to do now, as an imperative.
    """

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        self.expected, self.found, self.remedy = expected, found, remedy
        said = remedy[:1].upper() + remedy[1:].rstrip(".")
        super().__init__(f"Expected {expected}; found {found}. {said}{'' if said.endswith('?') else '.'}")

    def __reduce__(self) -> tuple[Any, ...]:
        """As another process sends it: with its sentence, whatever made it."""
        return (_again, (type(self), self.args, self.__dict__))


def _again(kind: type[Fault], args: tuple[Any, ...], state: dict[str, Any]) -> Fault:
    fault = kind.__new__(kind, *args)
    fault.__dict__.update(state)
    return fault

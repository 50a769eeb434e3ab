"""`Fault`, the exception for invalid user input, with an expected value, the value found and a remedy.

Only the command line catches it (one line, exit code 2); programming errors stay an `assert`.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the remedy for an unknown name: the closest known one in any letter case, or a hint if none is close."""
    spellings = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), list(spellings), n=1, cutoff=0.5)
    return f"did you mean {spellings[near[0]]}?" if near else "use one of them"


Choice = TypeVar("Choice", bound=str)


class Fault(ValueError):
    """User input that cannot be used.

    Args:
        expected: what would have been valid, as a noun phrase.
        found: what was given instead.
        remedy: what to do, as an instruction.

    Examples:
        >>> from moe import Fault
        >>> print(Fault("one of the domains news, forum", "'forun'", "did you mean forum?"))
        Expected one of the domains news, forum; found 'forun'. Did you mean forum?
    """

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        self.expected, self.found, self.remedy = expected, found, remedy
        advice = remedy[:1].upper() + remedy[1:].rstrip(".")
        super().__init__(f"Expected {expected}; found {found}. {advice}{'' if advice.endswith('?') else '.'}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the finished message, since a subclass may take other arguments than this class."""
        return (_restore_fault, (type(self), self.args, self.__dict__))


def _restore_fault(kind: type[Fault], args: tuple[Any, ...], state: dict[str, Any]) -> Fault:
    fault = kind.__new__(kind, *args)
    fault.__dict__.update(state)
    return fault


def check_choice(name: str, choices: Sequence[Choice], option: str) -> Choice:
    """Return the choice of this name.

    Args:
        name: as the user wrote it.
        choices: the valid ones, at least two.
        option: the option that has them, such as `--routing`.

    Raises:
        Fault: if there is none.
    """
    for choice in choices:
        if name == choice:
            return choice
    expected = f"{option} {', '.join(choices[:-1])} or {choices[-1]}"
    raise Fault(expected, repr(name), suggest(name, choices))

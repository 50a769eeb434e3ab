"""Checks of texts and targets that a caller gives as any iterable."""

from collections.abc import Iterable
from typing import Any

from experts.errors import Fault
from moe.data.text_checks import is_blank, target_problem, text_problem


def check_texts(texts: Iterable[Any]) -> list[str]:
    """Check texts given by a caller, and return them as a list.

    Raises:
        Fault: for a single string, a table, or the first text that is missing, empty or not a string.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise Fault("a list of texts", f"a single {type(texts).__name__}", "put it into a list: [text]")
    if getattr(texts, "ndim", 1) != 1 or isinstance(texts, dict):
        shape = getattr(texts, "shape", None)
        kind = f"an array of shape {shape}" if shape else f"a {type(texts).__name__}"
        raise Fault("texts in one column", kind, "select the column of the texts")
    checked = list(texts)
    for position, text in enumerate(checked):
        if problem := text_problem(text):
            raise Fault("a text with words in it", f"{problem}, at position {position}", "remove or fix this text")
    return [str(text) for text in checked]


def match_targets(targets: Iterable[Any], texts: int) -> list[str | None]:
    """Check the targets of some texts, and return them as a list; None and NaN are no target.

    Raises:
        Fault: for a single string, another number of targets than texts, or the first target that is blank or not a
            string.
    """
    if isinstance(targets, (str, bytes)) or not isinstance(targets, Iterable):
        raise Fault("a list with a target for each text", f"a single {type(targets).__name__}", "use a list: [target]")
    checked = list(targets)
    if len(checked) != texts:
        raise Fault(f"{texts} targets, one for each text, or None", str(len(checked)), "repeat a text for each target")
    names: list[str | None] = []
    for position, target in enumerate(checked):
        if not isinstance(target, str) and is_blank(target):
            names.append(None)
        elif problem := target_problem(target):
            raise Fault("a target with letters in it, or None", f"{problem}, at position {position}", "fix this target")
        else:
            names.append(str(target))
    return names

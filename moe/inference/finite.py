"""Outputs of a model that are NaN or infinite: an error for their text, never an answer."""

from collections.abc import Sequence
from typing import TypeVar

from experts.errors import Fault

Result = TypeVar("Result")


class NonFiniteScores(Fault):
    """A model's output for a text is NaN or infinite; the message does not contain the text."""

    def __init__(self, output: str) -> None:
        super().__init__(
            "finite output of the model for a text",
            f"NaN or infinity in its {output}",
            "check the model with moe verify; if it is intact, predict with --set backbone.dtype=float32",
        )


def raise_first(results: Sequence[Result | NonFiniteScores]) -> list[Result]:
    """Return results without faults.

    Raises:
        NonFiniteScores: the first one among them, if there is one.
    """
    for result in results:
        if isinstance(result, NonFiniteScores):
            raise result
    return [result for result in results if not isinstance(result, NonFiniteScores)]

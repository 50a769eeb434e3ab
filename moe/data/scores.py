"""From a polarity score in [-1, 1] to a class, by cuts.

Which cuts a task has, and whether a score is in range, is left to `schema` and `check`.
"""

from collections.abc import Sequence


def label_of(score: float, cuts: Sequence[float]) -> int:
    """The class of a score among K, counted from the most negative.

    A score on a border belongs to the side nearer 0, as in the DAO paper's eq. 4: with its cuts 0.5 is class 3, 0.049
    and -0.049 are class 2, -0.5 is class 1.

    Args:
        score: polarity in [-1, 1].
        cuts: ascending borders (K - 1,).
    """
    return sum(score > cut if cut >= 0 else score >= cut for cut in cuts)

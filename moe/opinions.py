"""What each expert alone would have said of texts, beside what the mixture says.

Answers are `moe.predict`'s; who shows them is `moe.explain` and `moe.evaluate`.
"""

from collections.abc import Sequence

from moe.predict import Answer, Predictor


def each_alone(predictor: Predictor, texts: Sequence[str], tasks: Sequence[str]) -> dict[str, list[Answer]]:
    """By routed expert its answers to texts (B) as these tasks (B), gates held to it; a pass of the backbone each.

    A shared expert stays on. Heads are the mixture's, or the expert's own where they are kept per expert; calibration
    is the mixture's. A lone expert, which has no gates, gives nothing.
    """
    model = predictor.model
    if model.only is not None:
        return {}
    found = {}
    for name in model.bank.names:
        with model.alone(name):
            found[name] = predictor.answers(predictor.score(texts), tasks)
    return found

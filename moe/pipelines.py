"""A trained model behind the surface of transformers' text-classification pipeline.

It answers by `moe.classifier`. transformers' own class asks for one of its own models, which a mixture is not; so this
is a plain callable, and its docstring tells where it differs.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from experts.errors import Fault
from moe.classifier import MixtureClassifier

_LEGACY = ""
"""transformers' own mark for a `top_k` that nobody named."""
Top = int | str | None
Found = list[Any]


class TextPipeline:
    """Texts in, `[{"label", "score"}]` out, as `transformers.pipeline("text-classification")` gives them.

    One text gives a list of one dictionary; a list gives one dictionary a text; any other iterable (a generator, a
    `datasets` column) is answered as it is read. With `top_k=N` or `top_k=None` (all) every text gives a list of
    `{"label", "score"}`, the likeliest first.

    It differs from transformers' in this: without `top_k` a dictionary also holds `polarity`, `experts` (shares) and
    `task`; scores are always probabilities, so there is no `function_to_apply`; pairs of texts are refused; a label is
    None where the model abstains; and `batch_size` bounds memory, see `pipeline`.

    Args:
        classifier: the open model.
        domain: only this domain's experts answer; else the router decides.
        task: the task to answer, where there are several.
        top_k: how many labels a text gets.
        batch_size: texts of full length in one pass.
    """

    task = "text-classification"

    def __init__(
        self,
        classifier: MixtureClassifier,
        domain: str | None = None,
        task: str | None = None,
        top_k: Top = _LEGACY,
        batch_size: int | None = None,
    ) -> None:
        classifier.predictor.check(task, domain)
        self.classifier, self.domain, self.asked, self.top_k = classifier, domain, task, _checked_top(top_k)
        if batch_size is not None:
            if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
                raise Fault("a batch_size of 1 or more", repr(batch_size), "leave it out for what suits the machine")
            classifier.predictor.batch_tokens = batch_size * classifier.predictor.max_length

    def __call__(self, texts: str | Iterable[str], *, top_k: Top = _LEGACY) -> Found | Iterator[Any]:
        """Answer one text, a list of them, or a stream.

        Args:
            texts: a string, a list, or any other iterable, which is then answered as it is read.
            top_k: how many labels a text gets; None gives all.

        Raises:
            Fault: when a text is missing or no text.
        """
        top = self.top_k if top_k == _LEGACY else _checked_top(top_k)
        if isinstance(texts, str):
            found = self._answer([texts], top)
            return found if top == _LEGACY else found[0]
        if isinstance(texts, (list, tuple)):
            return self._answer(texts, top)
        return self._stream(texts, top)

    def _stream(self, texts: Iterable[str], top: Top) -> Iterator[Any]:
        stream = iter(texts)
        while window := list(islice(stream, self.classifier.predictor.chunk_size)):
            yield from self._answer(window, top)

    def _answer(self, texts: Iterable[str], top: Top) -> Found:
        answers = self.classifier.answers(texts, domain=self.domain, task=self.asked)
        return [_best(one) if top == _LEGACY else _ranked(one, top) for one in answers]


def pipeline(
    model: str | Path,
    *,
    domain: str | None = None,
    task: str | None = None,
    top_k: int | str | None = _LEGACY,
    batch_size: int | None = None,
    **opening: Any,
) -> TextPipeline:
    """Open a model as a text-classification pipeline.

    Args:
        model: the folder of a mixture, of an expert, or of a run, whose best mixture is taken.
        domain: only this domain's experts answer; else the router decides.
        task: the task to answer, where there are several.
        top_k: how many labels a text gets; None gives all; left out, the likeliest alone.
        batch_size: as many tokens in one pass as this many texts of full length have; shorter texts go more at a time.
        opening: the settings of `MixtureClassifier.load`.

    Raises:
        Fault: as `MixtureClassifier.load`; when domain or task are unknown, or `top_k` or `batch_size` cannot be.
    """
    return TextPipeline(MixtureClassifier.load(model, **opening), domain, task, top_k, batch_size)


def _checked_top(top_k: Top) -> Top:
    if top_k in (None, _LEGACY) or (isinstance(top_k, int) and not isinstance(top_k, bool) and top_k >= 1):
        return top_k
    raise Fault("a top_k of 1 or more, or None for all labels", repr(top_k), "name how many labels a text gets")


def _best(answer: dict[str, Any]) -> dict[str, Any]:
    more = {name: answer[name] for name in ("polarity", "experts", "task")}
    return {"label": answer["label"], "score": answer["confidence"]} | more


def _ranked(answer: dict[str, Any], top: Top) -> list[dict[str, Any]]:
    ranked = sorted(answer["probabilities"].items(), key=lambda one: -one[1])
    return [{"label": label, "score": score} for label, score in ranked[: top if isinstance(top, int) else None]]

"""A trained model with the interface of transformers' text-classification pipeline.

transformers' own pipeline class accepts transformers models only, which a mixture is not, so this is a separate class.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from experts.errors import Fault
from moe.api.model import FinMoEModel

_UNSET = ""
"""Default of `top_k` that transformers uses to distinguish an omitted argument from None."""
TopK = int | str | None
Results = list[Any]


class TextPipeline:
    """Classifies texts as `transformers.pipeline("text-classification")` does.

    One text gives a list with one dictionary, `[{"label", "score"}]`; a list gives one dictionary per text; any other
    iterable, such as a generator or a column of a `datasets.Dataset`, gives an iterator that reads the texts as it
    goes. With `top_k`, every text gives a list of `{"label", "score"}`, the most probable label first.

    Differences from transformers:

    - without `top_k`, a dictionary also holds `polarity`, `experts` (routing weights) and `task`;
    - scores are always probabilities, so there is no `function_to_apply`;
    - pairs of texts are refused;
    - the label is None where the model abstains, and for a task with a score alone, whose score is the `polarity`;
    - `batch_size` bounds the memory of a batch, not its number of texts, see `pipeline`.

    Use `pipeline` to create one from a folder.

    Args:
        classifier: the loaded model.
        domain: restrict all texts to the experts of this domain; by default the router decides.
        task: the task to predict; by default that of `domain`, or of the text's most probable domain.
        top_k: number of labels per text; None for all; by default the most probable label, with the additional keys.
        batch_size: number of texts of maximal length whose tokens fit into a batch; by default chosen for the device
            and the precision. The classifier's own batches stay as they are.

    Raises:
        Fault: if the model does not know the domain or task, or `top_k` or `batch_size` is not a positive number.

    Examples:
        >>> from moe import FinMoEModel, TextPipeline
        >>> classify = TextPipeline(FinMoEModel.from_pretrained("ready"), domain="news", top_k=2)
        >>> [result["label"] for result in classify("Quarterly profit fell and the company cut its dividend.")]
        ['negative', 'positive']
    """

    task = "text-classification"

    def __init__(
        self,
        classifier: FinMoEModel,
        domain: str | None = None,
        task: str | None = None,
        top_k: TopK = _UNSET,
        batch_size: int | None = None,
    ) -> None:
        classifier.predictor.check(task, domain, None)
        if batch_size is not None:
            if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
                raise Fault("a batch_size of 1 or more", repr(batch_size), "omit it for a size that suits the device")
            classifier = classifier.with_batch_tokens(batch_size * classifier.predictor.max_length)
        self.classifier, self.domain, self.model_task, self.top_k = classifier, domain, task, _check_top_k(top_k)

    def __call__(
        self,
        texts: str | Iterable[str],
        *,
        top_k: TopK = _UNSET,
        targets: str | Iterable[str | None] | None = None,
    ) -> Results | Iterator[Any]:
        """Classify one text, a list of texts, or a stream.

        Args:
            texts: a string, a list or tuple, or any other iterable, which is read as it is classified.
            top_k: number of labels per text; None for all; by default as the pipeline was created.
            targets: for each text the entity that the prediction is about, or None; a string for a single text.

        Returns:
            a list, or an iterator for a stream; see the class.

        Raises:
            Fault: if a text is missing, empty or not a string.
        """
        top_k = self.top_k if top_k == _UNSET else _check_top_k(top_k)
        if isinstance(texts, str):
            results = self._classify([texts], top_k, [targets] if isinstance(targets, str) else targets)
            return results if top_k == _UNSET else results[0]
        if isinstance(texts, (list, tuple)):
            return self._classify(texts, top_k, targets)
        return self._stream(texts, top_k, targets)

    def _stream(self, texts: Iterable[str], top_k: TopK, targets: Iterable[str | None] | None) -> Iterator[Any]:
        stream, names = iter(texts), None if targets is None else iter(targets)
        while chunk := list(islice(stream, self.classifier.predictor.chunk_size)):
            yield from self._classify(chunk, top_k, None if names is None else list(islice(names, len(chunk))))

    def _classify(self, texts: Iterable[str], top_k: TopK, targets: Iterable[str | None] | None = None) -> Results:
        answers = self.classifier.answers(texts, domain=self.domain, task=self.model_task, targets=targets)
        return [_best(answer) if top_k == _UNSET else _ranked(answer, top_k) for answer in answers]


def pipeline(
    model: str | Path,
    *,
    domain: str | None = None,
    task: str | None = None,
    top_k: int | str | None = _UNSET,
    batch_size: int | None = None,
    **load_options: Any,
) -> TextPipeline:
    """Load a model as a text-classification pipeline.

    Args:
        model: folder of a mixture, of a single expert, or of a run, whose best mixture is loaded; `ready`; or the name
            of a model on the Hugging Face Hub.
        domain: restrict all texts to the experts of this domain; by default the router decides.
        task: the task to predict; by default that of `domain`, or of the text's most probable domain.
        top_k: number of labels per text; None for all; by default the most probable label, with the additional keys.
        batch_size: a batch has as many tokens as this many texts of maximal length, so it can hold more texts if they
            are shorter. By default chosen for the device and the precision.
        load_options: the options of `FinMoEModel.from_pretrained`, such as `routing` or `abstain`.

    Returns:
        the pipeline.

    Raises:
        Fault: as `FinMoEModel.from_pretrained`; if the model does not know the domain or task, or `top_k` or
            `batch_size` is not a positive number.

    Examples:
        The mixture that the package ships:

        >>> from moe import pipeline
        >>> classify = pipeline("ready")
        >>> classify("$TSLA to the moon, loaded up on calls", top_k=1)
        [{'label': 'positive', 'score': 0.93...}]
        >>> classify("Quarterly profit fell and the company cut its dividend.")[0]["label"]
        'negative'
    """
    classifier = FinMoEModel.from_pretrained(model, **load_options)
    return TextPipeline(classifier, domain=domain, task=task, top_k=top_k, batch_size=batch_size)


def _check_top_k(top_k: TopK) -> TopK:
    if top_k in (None, _UNSET) or (isinstance(top_k, int) and not isinstance(top_k, bool) and top_k >= 1):
        return top_k
    raise Fault("a top_k of 1 or more, or None for all labels", repr(top_k), "set the number of labels per text")


def _best(answer: dict[str, Any]) -> dict[str, Any]:
    extra = {name: answer[name] for name in ("polarity", "experts", "task")}
    return {"label": answer["label"], "score": answer["confidence"]} | extra


def _ranked(answer: dict[str, Any], top_k: TopK) -> list[dict[str, Any]]:
    ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    return [{"label": label, "score": score} for label, score in ranked[: top_k if isinstance(top_k, int) else None]]

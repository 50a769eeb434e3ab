"""A trained model asked from Python: labels, probabilities, whole answers.

It opens folders by `moe.inference.loading` and answers by `moe.inference.stream`, as `moe infer` does; training is
`moe.estimator`'s.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from experts.errors import Fault
from moe.data.readers import text_problem
from moe.inference.loading import ModelLoader, find_model_folder
from moe.inference.predictor import Prediction, Predictor, Routing
from moe.inference.stream import predict_texts, to_row


class MixtureClassifier:
    """A mixture, or one expert alone, that labels texts.

    `MixtureClassifier.load` opens one. Where the model has several tasks, each text is answered by the first task of
    its most probable domain, unless `domain` or `task` says which.

    Args:
        predictor: the open model.
        folder: where it came from.

    Attributes:
        classes_: every label that may be answered, in the order of `predict_proba`'s columns (K,).
    """

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        self.predictor, self.folder = predictor, folder
        labels = [label for labels in predictor.model.labels.tasks.values() for label in labels]
        self.classes_ = np.array(list(dict.fromkeys(labels)))  # (K,)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        routing: Routing = "soft",
        windows: bool = False,
        batch_tokens: int | None = None,
        abstain: float | None = None,
        sets: Sequence[str] = (),
    ) -> Self:
        """Open the folder of a mixture, of an expert, or of a run, whose best mixture is taken.

        Args:
            path: the folder.
            routing: `soft` blends experts, `hard` asks the most probable one.
            windows: average long texts over windows, not cut them.
            batch_tokens: tokens in one pass; by default what suits the machine.
            abstain: give no label below the confidence that this accuracy needs; the model has to be calibrated.
            sets: `backbone.dtype=…`, `backbone.quantization=…` or `backbone.max_length=…`, laid over the model's card.

        Raises:
            Fault: when there is no such folder, it is broken, or it cannot be opened so.
        """
        opening = ModelLoader(find_model_folder(Path(path), sets), tuple(sets), routing, windows, batch_tokens, abstain)
        opening.check()
        return cls(opening.load(), opening.folder)

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts' names, in the order of their shares."""
        return tuple(self.predictor.model.bank.routed_experts)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that texts can be pinned to."""
        return tuple(one.name for one in self.predictor.model.trained_domains)

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """The labels of each task."""
        return dict(self.predictor.model.labels.tasks)

    def predict(self, texts: Iterable[str], *, domain: str | None = None, task: str | None = None) -> list[str | None]:
        """The label of each text (B); None where the model abstains.

        Args:
            texts: any number of them, in a list, an array, a column or a stream.
            domain: only this domain's experts answer; else the router decides.
            task: the task to answer, where there are several.

        Raises:
            Fault: when a text is missing or no text, or domain or task are unknown.
        """
        return [None if one.abstained else one.label for one in self._answered(check_texts(texts), domain, task)]

    def predict_proba(self, texts: Iterable[str], *, domain: str | None = None, task: str | None = None) -> np.ndarray:
        """The probability of each label (B, K), in the order of `classes_`; 0 for labels that its task has not.

        Args:
            texts: as in `predict`.
            domain: as in `predict`.
            task: as in `predict`.

        Raises:
            Fault: as `predict`.
        """
        answers = self._answered(check_texts(texts), domain, task)
        columns = {str(label): k for k, label in enumerate(self.classes_)}
        found = np.zeros((len(answers), len(columns)))  # (B, K)
        for row, answer in zip(found, answers, strict=True):
            row[[columns[label] for label in answer.labels]] = answer.probabilities
        return found

    def answers(
        self, texts: Iterable[str], *, domain: str | None = None, task: str | None = None
    ) -> list[dict[str, Any]]:
        """All that `moe infer` says of each text (B).

        Returns:
            By text `text, label, probabilities, polarity, confidence, experts, routing_entropy, truncated, task`, and
            `abstained` where the model was opened to abstain.

        Args:
            texts: as in `predict`.
            domain: as in `predict`.
            task: as in `predict`.

        Raises:
            Fault: as `predict`.
        """
        given = check_texts(texts)
        answers = self._answered(given, domain, task)
        return [{"text": text} | to_row(one, self.experts) for text, one in zip(given, answers, strict=True)]

    def _answered(self, texts: Sequence[str], domain: str | None, task: str | None) -> list[Prediction]:
        """Answers in the texts' order, a window at a time, so that memory stays bounded."""
        self.predictor.check(task, domain)
        size = self.predictor.chunk_size
        windows = (texts[start : start + size] for start in range(0, len(texts), size))
        return [answer for some in windows for answer in predict_texts(some, self.predictor, domain, task)]

    def __repr__(self) -> str:
        """The model's folder and who answers in it."""
        return f"{type(self).__name__}({str(self.folder)!r}, experts={list(self.experts)})"


def check_texts(texts: Iterable[Any]) -> list[str]:
    """What a caller hands over as texts, as a list of them.

    Raises:
        Fault: for one string where several are asked for, for a table, and for the first that is missing or no text.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise Fault("a list of texts", f"one {type(texts).__name__}", "put it into a list: [text]")
    if getattr(texts, "ndim", 1) != 1 or isinstance(texts, dict):
        shape = getattr(texts, "shape", None)
        found = f"one of shape {shape}" if shape else f"a {type(texts).__name__}"
        raise Fault("texts in one column", found, "name the column that holds them")
    given = list(texts)
    for place, text in enumerate(given):
        if fault := text_problem(text):
            raise Fault("a text with words in it", f"{fault}, at position {place}", "leave it out or mend it")
    return [str(text) for text in given]

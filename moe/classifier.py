"""MixtureClassifier: a trained model in Python, with predicted labels, probabilities and complete predictions."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from experts.errors import Fault
from moe.data.text_checks import is_blank, target_problem, text_problem
from moe.inference.model_loader import ModelLoader, find_model_folder
from moe.inference.predictor import Prediction, Predictor, Routing
from moe.inference.runtime import Runtime
from moe.inference.stream import predict_texts, to_row


class MixtureClassifier:
    """A trained mixture, or a single expert, that classifies texts.

    Use `MixtureClassifier.load` to create one. If the model has several tasks, each text is classified for the first
    task of its most probable domain, unless `domain` or `task` is given.

    Args:
        predictor: the loaded model.
        folder: the folder that it was loaded from.

    Attributes:
        classes_: all labels of all tasks, (K,), in the order of the columns of `predict_proba`.

    Examples:
        The mixture that the package ships:

        >>> from moe import MixtureClassifier
        >>> model = MixtureClassifier.load("ready")
        >>> texts = ["Quarterly profit fell and the company cut its dividend.", "$TSLA to the moon, loaded up on calls"]
        >>> model.predict(texts)
        ['negative', 'positive']
        >>> model.predict_proba(texts).round(3)
        array([[0.919, 0.037, 0.045],
               [0.038, 0.034, 0.928]])
        >>> model.classes_
        array(['negative', 'neutral', 'positive'], dtype='<U8')
        >>> model.answers(texts)[0]["experts"]
        {'news': 0.87805, 'forum': 0.12195}
    """

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        self.predictor, self.folder = predictor, folder
        self.classes_ = np.array(predictor.spec.labels)  # (K,)

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
        runtime: Runtime = "auto",
    ) -> Self:
        """Load a model from its folder.

        Args:
            path: folder of a mixture, of a single expert, or of a run, whose best mixture is loaded; or `ready`.
            routing: `soft` mixes the experts by their routing weights, `hard` uses the most probable expert only.
            windows: average a text that is longer than the model's maximal length over windows, instead of truncating
                it.
            batch_tokens: maximal number of tokens in a batch, padding included; by default chosen for the device and
                the precision.
            abstain: target accuracy, between 0 and 1. Predictions below the confidence above which validation rows
                guarantee it, at the level of the calibration, get no label. The model has to be calibrated
                (`moe calibrate`).
            sets: overrides of the model's backbone settings, such as `backbone.dtype=bfloat16`,
                `backbone.quantization=int8` or `backbone.max_length=256`.
            runtime: `onnx` predicts with the model's graph, without importing torch; `torch` with PyTorch; `auto` uses
                the graph if it is current, nothing is overridden and there is no GPU.

        Returns:
            the loaded model.

        Raises:
            Fault: if there is no model at `path`, its files are broken, or an option does not fit the model.
        """
        loader = ModelLoader(
            folder=find_model_folder(Path(path), sets),
            sets=tuple(sets),
            routing=routing,
            windows=windows,
            batch_tokens=batch_tokens,
            abstain=abstain,
            runtime=runtime,
        )
        loader.check()
        return cls(loader.load(), loader.folder)

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the routed experts (E), in the order of the routing weights."""
        return self.predictor.experts

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, for the argument `domain`."""
        return tuple(domain.name for domain in self.predictor.spec.trained_domains)

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Labels of each task."""
        return {name: task.labels for name, task in self.predictor.spec.tasks.items()}

    def predict(
        self,
        texts: Iterable[str],
        *,
        domain: str | None = None,
        task: str | None = None,
        targets: Iterable[str | None] | None = None,
    ) -> list[str | None]:
        """Predict the label of each text.

        Args:
            texts: B texts: a list, an array, a table column or any other iterable.
            domain: restrict all texts to the experts of this domain; by default the router decides.
            task: the task to predict; by default that of `domain`, or of the text's most probable domain.
            targets: for each text the entity that the prediction is about, or None (or NaN) for the text itself; the
                model needs a task with a target. To predict a text for several entities, repeat it.

        Returns:
            B labels, in the order of the texts; None where the model abstains.

        Raises:
            Fault: if a text is missing, empty or not a string, the model does not know the domain or task, or the
                targets do not fit the texts or the model.
        """
        predictions = self._predict(check_texts(texts), domain, task, targets)
        return [None if prediction.abstained else prediction.label for prediction in predictions]

    def predict_proba(
        self,
        texts: Iterable[str],
        *,
        domain: str | None = None,
        task: str | None = None,
        targets: Iterable[str | None] | None = None,
    ) -> np.ndarray:
        """Predict the probability of each label for each text.

        Args:
            texts: B texts, as for `predict`.
            domain: as for `predict`.
            task: as for `predict`.
            targets: as for `predict`.

        Returns:
            probabilities (B, K) in the order of `classes_`; rows sum to 1, and labels of other tasks have 0.

        Raises:
            Fault: as `predict`.
        """
        predictions = self._predict(check_texts(texts), domain, task, targets)
        columns = {str(label): k for k, label in enumerate(self.classes_)}
        probabilities = np.zeros((len(predictions), len(columns)))  # (B, K)
        for row, prediction in zip(probabilities, predictions, strict=True):
            row[[columns[label] for label in prediction.labels]] = prediction.probabilities
        return probabilities

    def answers(
        self,
        texts: Iterable[str],
        *,
        domain: str | None = None,
        task: str | None = None,
        targets: Iterable[str | None] | None = None,
    ) -> list[dict[str, Any]]:
        """Predict each text and return everything that `moe infer` prints about it.

        Args:
            texts: B texts, as for `predict`.
            domain: as for `predict`.
            task: as for `predict`.
            targets: as for `predict`.

        Returns:
            B dictionaries with `text`, `label`, `probabilities` (by label), `polarity` (-1 to 1, or None), `confidence`
            (probability of the most probable label), `experts` (routing weight by expert), `routing_entropy` (0 to 1),
            `truncated` (whether the text was longer than the model's maximal length) and `task`; and `abstained` if the
            model was loaded with `abstain`. A prediction for a target has `target`, and `target_missing` if the text
            does not contain it. Numbers are rounded to 6 digits.

        Raises:
            Fault: as `predict`.
        """
        checked = check_texts(texts)
        predictions = self._predict(checked, domain, task, targets)
        return [
            {"text": text} | to_row(prediction, self.experts)
            for text, prediction in zip(checked, predictions, strict=True)
        ]

    def _predict(
        self, texts: Sequence[str], domain: str | None, task: str | None, targets: Iterable[str | None] | None
    ) -> list[Prediction]:
        """Predictions in the order of the texts, chunk by chunk, so that memory stays bounded."""
        names = [None] * len(texts) if targets is None else match_targets(targets, len(texts))
        for has_target in sorted({name is not None for name in names} or {False}):
            self.predictor.check(task, domain, has_target)
        size, predictions = self.predictor.chunk_size, list[Prediction]()
        for start in range(0, len(texts), size):
            chunk = slice(start, start + size)
            predictions += predict_texts(texts[chunk], self.predictor, domain, task, names[chunk])
        return predictions

    def __repr__(self) -> str:
        """The model's folder and its experts."""
        return f"{type(self).__name__}({str(self.folder)!r}, experts={list(self.experts)})"


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

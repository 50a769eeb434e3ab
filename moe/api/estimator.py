"""MixtureEstimator: training and prediction with the interface of a scikit-learn classifier."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, column_or_1d

from experts.errors import Fault
from moe.api.fit import DomainRows, Overrides, run_settings, train_rows
from moe.api.inputs import check_texts
from moe.api.model import FinMoEModel

SINGLE_DOMAIN = "texts"
"""Name of the domain if `fit` is called without domains."""


@dataclass(frozen=True)
class FitData:
    """Checked arguments of `fit`.

    Args:
        texts: (N).
        labels: (N), as strings.
        domains: (N).
        classes: (K,), the distinct labels, sorted, in the caller's type.
    """

    texts: list[str]
    labels: list[str]
    domains: list[str]
    classes: np.ndarray

    def rows_of(self, domain: str) -> Iterator[dict[str, str]]:
        """The rows of one domain."""
        rows = zip(self.texts, self.labels, self.domains, strict=True)
        return ({"text": text, "label": label} for text, label, row_domain in rows if row_domain == domain)


class MixtureEstimator(ClassifierMixin, BaseEstimator):
    """Trains a mixture of experts, one per domain, and classifies texts with it.

    The argument `domains` of `fit` assigns each text to a domain. Without it, all texts form one domain, and a single
    expert is trained without a router.

    Args:
        config: a YAML file of settings; `configs/demo.yaml` by default. Its domains and data files are replaced by the
            data of `fit`.
        sets: overrides of settings, `{"lora": {"r": 8}}`, or as on the command line, `("lora.r=8",)`.
        folder: the run folder to write. By default a temporary folder, which is deleted with the estimator; an
            estimator needs a folder to be pickled. Another `fit` replaces the run of an earlier one.
        validation: share of the rows, between 0 and 1, that select the best weights and are not trained on.
        random_state: seed of the initial weights and of the order of rows; None uses the seed of the config.
        verbose: whether to show the progress of training.

    Attributes:
        classes_: the labels (K,), sorted.
        domains_: names of the domains, in the order of their experts.
        folder_: the run folder.
        model_folder_: folder of the best model, for `FinMoEModel.load` and `moe infer --model`.

    Examples:
        >>> from moe import MixtureEstimator
        >>> subjects = ["Profit", "Revenue", "Sales", "Orders", "Margins", "Cash flow", "Demand", "Earnings"]
        >>> texts = [f"{subject} {verb} in the quarter." for subject in subjects for verb in ("rose", "fell")]
        >>> labels = ["positive", "negative"] * len(subjects)
        >>> estimator = MixtureEstimator(random_state=0).fit(texts, labels)
        >>> estimator.predict(["Bookings rose strongly.", "Bookings fell sharply."])
        array(['positive', 'negative'], dtype='<U8')
    """

    classes_: np.ndarray
    domains_: tuple[str, ...]
    folder_: Path
    model_folder_: Path

    def __init__(
        self,
        config: str | Path | None = None,
        sets: Overrides = (),
        folder: str | Path | None = None,
        validation: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.config = config
        self.sets = sets
        self.folder = folder
        self.validation = validation
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Iterable[str], y: Iterable[Any], domains: Iterable[str] | None = None) -> Self:
        """Train on texts and their labels.

        Args:
            X: N texts: a list, an array, a table column or any other iterable.
            y: the label of each text (N), of at least two classes.
            domains: the domain of each text (N), at least two texts of each; names may contain lower-case letters,
                digits, `-` and `_`.

        Returns:
            the fitted estimator.

        Raises:
            Fault: if texts, labels, domains or settings are invalid, the folder holds other files, or
                another process trains there.
        """
        data = _check_fit_data(X, y, domains)
        names = tuple(dict.fromkeys(data.domains))
        domains = {name: self._domain_rows(name, data) for name in names}
        seed = None if self.random_state is None else _to_seed(self.random_state)
        run = run_settings(self.config, self.sets, domains, seed)
        self._scratch = (
            TemporaryDirectory(prefix="finmoe-", ignore_cleanup_errors=True) if self.folder is None else None
        )
        folder = Path(self._scratch.name if self._scratch else str(self.folder))
        model = train_rows(run, domains, folder, classes=data.classes.tolist(), verbose=self.verbose)
        self.classes_, self.domains_, self.folder_, self.model_folder_ = data.classes, names, folder, model
        self._classifier: FinMoEModel | None = FinMoEModel.load(model)
        return self

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """Predict the label of each text.

        Args:
            X: N texts, as for `fit`.

        Returns:
            labels (N,), in the type of `y`.

        Raises:
            Fault: if a text is missing, empty or not a string.
        """
        best = self.predict_proba(X).argmax(1)  # (N,)
        labels: np.ndarray = self.classes_[best]  # (N,)
        return labels

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """Predict the probability of each label for each text.

        Args:
            X: N texts, as for `fit`.

        Returns:
            probabilities (N, K), in the order of `classes_`.

        Raises:
            Fault: if a text is missing, empty or not a string.
        """
        check_is_fitted(self, "model_folder_")
        if self._classifier is None:
            self._classifier = FinMoEModel.load(self.model_folder_)
        names = list(map(str, self._classifier.classes_))
        columns = [names.index(str(label)) for label in self.classes_]
        return self._classifier.predict_proba(X)[:, columns]  # (N, K)

    def __sklearn_tags__(self) -> Any:
        """The tags that scikit-learn reads: a classifier of texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle: the path of the folder, not the weights.

        Raises:
            Fault: if the folder is temporary.
        """
        if self.__dict__.get("_scratch") is not None:
            raise Fault(
                "an estimator with a permanent folder, to be pickled",
                "a temporary folder",
                "create it with folder=PATH and fit it again",
            )
        state: dict[str, Any] = super().__getstate__()
        return state | ({"_classifier": None} if "_classifier" in state else {})

    def _domain_rows(self, name: str, data: FitData) -> DomainRows:
        rows = data.domains.count(name)
        if not isinstance(self.validation, int | float) or not 0 < self.validation < 1:
            raise Fault(
                "a validation share between 0 and 1", repr(self.validation), "set for example 0.1, a tenth of the rows"
            )
        held_out = max(round(self.validation * rows), 1)
        if rows - held_out < 1:
            raise Fault(f"at least two texts of domain {name}", str(rows), "add texts, or leave out the domain")
        labels = [str(label) for label in data.classes]
        return DomainRows(data.rows_of(name), labels, (rows - held_out, held_out, 0))


def _check_fit_data(texts: Iterable[str], labels: Iterable[Any], domains: Iterable[str] | None) -> FitData:
    """Check the arguments of `fit`.

    Raises:
        Fault: if something is missing, the lengths differ, or there are fewer than two classes.
    """
    if labels is None:  # in the words that scikit-learn's own checks expect
        raise Fault(
            "labels: fit requires y to be passed, but the target y is None", "no labels", "give a label for each text"
        )
    checked = check_texts(texts)
    y = column_or_1d(np.asarray(labels if hasattr(labels, "__len__") else list(labels)), warn=True)  # (N,)
    row_domains = [SINGLE_DOMAIN] * len(checked) if domains is None else [str(domain) for domain in domains]
    for noun, count in (("labels", len(y)), ("domains", len(row_domains))):
        if count != len(checked):
            raise Fault(f"as many {noun} as texts", f"{count} and {len(checked)}", "give one for each text")
    if any(label is None or label != label or not str(label).strip() for label in y):
        raise Fault("a label for each text", "a missing label", "remove the texts without a label")
    check_classification_targets(y)
    classes = np.unique(y)  # (K,)
    if len(classes) < 2:
        raise Fault("labels of at least two classes", f"{len(classes)} class", "add texts of another class")
    return FitData(checked, [str(label) for label in y], row_domains, classes)


def _to_seed(random_state: int | np.random.RandomState) -> int:
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))

"""A mixture as a scikit-learn estimator: texts and labels in, a trained run folder and its answers out.

It trains by `moe.training.pipeline` and answers by `moe.classifier`; what it adds to them is scikit-learn's manners
alone.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, column_or_1d

from experts.atomic_io import write_json
from experts.errors import Fault
from moe.classifier import MixtureClassifier, check_texts
from moe.config.run import RunSettings, find_config, apply_override, parse_run
from moe.config.yaml import read_yaml
from moe.console import suppress_output
from moe.data.writers import open_writer
from moe.errors import Interrupted
from moe.runs.workspace import Workspace
from moe.training.pipeline import train_all

MARK = "estimator.json"
ALONE = "texts"
"""The domain of all texts, where nobody says which are of which."""


@dataclass(frozen=True)
class FitData:
    """What `fit` was given, checked: texts (N), a label and a domain for each, and the classes (K,)."""

    texts: list[str]
    labels: list[str]
    domains: list[str]
    classes: np.ndarray

    def of(self, domain: str) -> Iterator[dict[str, str]]:
        """The rows of one domain."""
        rows = zip(self.texts, self.labels, self.domains, strict=True)
        return ({"text": text, "label": label} for text, label, owner in rows if owner == domain)


class MixtureEstimator(ClassifierMixin, BaseEstimator):
    """Trains a mixture of experts on texts, one expert a domain, and labels texts with it.

    Say by `domains` in `fit` which text is of which domain. Without it all texts are one domain, and one expert learns
    it by itself, for there is nothing to route.

    Args:
        config: a YAML file of settings; `configs/demo.yaml` by default. Its domains and files give way to `fit`'s.
        sets: settings laid over it, such as `("lora.r=8", "stages.expert.epochs=2")`.
        folder: where the run is written. None is a temporary folder, which goes when the estimator does; an estimator
            that shall be pickled needs a folder. Another `fit` replaces what the one before wrote there.
        validation: the share of the rows that choose which weights are kept, and are not trained on.
        random_state: seeds the weights and the order of rows; None takes the config's seed.
        verbose: show the bars and notes of training.

    Attributes:
        classes_: the labels, sorted (K,).
        domains_: the domains, in the order of their experts.
        folder_: the run folder.
        model_folder_: the model that answers; `MixtureClassifier.load` and `moe infer --model` open it.
    """

    classes_: np.ndarray
    domains_: tuple[str, ...]
    folder_: Path
    model_folder_: Path

    def __init__(
        self,
        config: str | Path | None = None,
        sets: Sequence[str] = (),
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
            X: the texts (N), in a list, an array or a column.
            y: the label of each (N).
            domains: the domain of each (N); its names have lower-case letters, digits, - and _ only.

        Raises:
            Fault: when texts, labels, domains or settings cannot be used, or the folder holds something else.
        """
        lesson = _lesson(X, y, domains)
        names = tuple(dict.fromkeys(lesson.domains))
        run = self._settings(names, lesson)
        self._scratch = (
            TemporaryDirectory(prefix="finmoe-", ignore_cleanup_errors=True) if self.folder is None else None
        )
        folder = Path(self._scratch.name if self._scratch else str(self.folder))
        _clear(folder)
        for name in names:
            with open_writer(folder / "rows" / f"{name}.jsonl") as writer:
                for row in lesson.of(name):
                    writer.write(row)
        write_json(folder / MARK, {"classes": lesson.classes.tolist(), "domains": list(names)})
        run = run.model_copy(update={"data": run.data.model_copy(update={"folder": str(folder / "rows")})})
        with interrupts_as_exceptions(), nullcontext() if self.verbose else suppress_output():
            model = train_all(Workspace(run, folder))
        self.classes_, self.domains_, self.folder_, self.model_folder_ = lesson.classes, names, folder, model
        self._classifier: MixtureClassifier | None = MixtureClassifier.load(model)
        return self

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """The label of each text (N,).

        Args:
            X: the texts.

        Raises:
            Fault: when a text is missing or no text.
        """
        best = self.predict_proba(X).argmax(1)  # (N,)
        return self.classes_[best]  # (N,)

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """The probability of each label (N, K), in the order of `classes_`.

        Args:
            X: the texts.

        Raises:
            Fault: when a text is missing or no text.
        """
        check_is_fitted(self, "model_folder_")
        if self._classifier is None:
            self._classifier = MixtureClassifier.load(self.model_folder_)
        columns = [list(map(str, self._classifier.classes_)).index(str(one)) for one in self.classes_]
        return self._classifier.predict_proba(X)[:, columns]  # (N, K)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may ask of it: a classifier of texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """As another process gets it: with the path of its folder, never with weights.

        Raises:
            Fault: when its folder is a temporary one.
        """
        if self.__dict__.get("_scratch") is not None:
            raise Fault(
                "an estimator with a folder, to be pickled", "a temporary one", "name it: folder=PATH, then fit"
            )
        state: dict[str, Any] = super().__getstate__()
        return state | ({"_classifier": None} if "_classifier" in state else {})

    def _settings(self, names: Sequence[str], lesson: FitData) -> RunSettings:
        """The run of these domains by the config.

        Raises:
            Fault: with every fault of the config at once.
        """
        source = find_config(Path(self.config) if self.config is not None else None)
        raw = read_yaml(source)
        for one in self.sets:
            apply_override(raw, one)
        if raw.get("language") is not None:
            raise Fault("a config that gives labels", f"a language model's in {source}", "take `language` out of it")
        raw["domains"] = {name: self._domain(name, lesson) for name in names}
        raw.pop("sample", None)
        if self.random_state is not None:
            raw["seed"] = _seed(self.random_state)
        return parse_run(raw, str(source))

    def _domain(self, name: str, lesson: FitData) -> dict[str, Any]:
        rows = lesson.domains.count(name)
        if not isinstance(self.validation, int | float) or not 0 < self.validation < 1:
            raise Fault("a validation share between 0 and 1", repr(self.validation), "0.1 keeps a tenth of the rows")
        held_out = max(round(self.validation * rows), 1)
        if rows - held_out < 1:
            raise Fault(f"two texts or more of domain {name}", str(rows), "give more, or leave the domain out")
        labels = [_name(one) for one in lesson.classes]
        return {"file": f"{name}.jsonl", "labels": labels, "split": {"ratios": [rows - held_out, held_out, 0]}}


def _lesson(texts: Iterable[str], labels: Iterable[Any], domains: Iterable[str] | None) -> FitData:
    """What `fit` was given, checked.

    Raises:
        Fault: when something is missing, there are not as many of each, or there are no two classes.
    """
    if labels is None:
        raise Fault("labels: it requires y to be passed, but the target y is None", "no labels", "give one a text as y")
    given = check_texts(texts)
    said = column_or_1d(np.asarray(labels if hasattr(labels, "__len__") else list(labels)), warn=True)  # (N,)
    owners = [ALONE] * len(given) if domains is None else [str(one) for one in domains]
    for what, many in (("labels", len(said)), ("domains", len(owners))):
        if many != len(given):
            raise Fault(f"as many {what} as texts", f"{many} and {len(given)}", "give one for each text")
    if any(one is None or one != one or not _name(one).strip() for one in said):
        raise Fault("a label for each text", "a missing one", "leave out the texts without label")
    check_classification_targets(said)
    classes = np.unique(said)  # (K,)
    if len(classes) < 2:
        raise Fault("labels of two classes or more", f"{len(classes)} class", "give texts of each class")
    return FitData(given, [_name(one) for one in said], owners, classes)


def _name(label: Any) -> str:
    return str(label)


def _seed(given: int | np.random.RandomState) -> int:
    return int(given) if isinstance(given, int | np.integer) else int(check_random_state(given).randint(2**31 - 1))


def _clear(folder: Path) -> None:
    """Take away what an earlier `fit` wrote.

    Raises:
        Fault: when the folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MARK).is_file():
        raise Fault(f"an empty folder at {folder}, or an earlier fit's", "something else", "name another folder")
    shutil.rmtree(folder)


@contextmanager
def interrupts_as_exceptions() -> Iterator[None]:
    """Ctrl-C and SIGTERM as Python knows them: no caller that goes on after exceptions shall go on after these."""
    try:
        yield
    except Interrupted as stopped:
        if stopped.number == SIGINT:
            raise KeyboardInterrupt from stopped
        raise SystemExit(128 + stopped.number) from stopped

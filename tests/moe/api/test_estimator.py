"""Claims about the scikit-learn estimator: what it trains and refuses, and that it passes scikit-learn's own checks."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import made_up_rows, tiny_settings
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from moe import Fault, MixtureClassifier, MixtureEstimator
from moe.api import fit as fit_module
from moe.errors import Interrupted
from moe.training.pipeline import train_all

DOMAINS = ("news", "forum")
ROWS = [row | {"domain": name} for name in DOMAINS for row in made_up_rows(name, 60)]
TEXTS, LABELS, TEXT_DOMAINS = ([row[key] for row in ROWS] for key in ("text", "label", "domain"))


@pytest.fixture(scope="module")
def config(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config on the tiny backbone."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(tiny_folder, path.parent)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fitted(config: Path) -> MixtureEstimator:
    """An estimator fitted on two domains."""
    return MixtureEstimator(config).fit(TEXTS, LABELS, domains=TEXT_DOMAINS)


def test_fit_with_domains_trains_one_expert_per_domain(fitted: MixtureEstimator) -> None:
    check_is_fitted(fitted)
    assert fitted.domains_ == DOMAINS
    assert MixtureClassifier.load(fitted.model_folder_).experts == DOMAINS
    probabilities = fitted.predict_proba(TEXTS)
    assert probabilities.shape == (len(TEXTS), 3)
    assert list(fitted.classes_[probabilities.argmax(1)]) == list(fitted.predict(TEXTS))
    assert 0 <= fitted.score(TEXTS, LABELS) <= 1


def test_fit_without_domains_trains_one_expert_and_labels_keep_their_type(config: Path, tmp_path: Path) -> None:
    numbers = np.array([{"negative": 5, "neutral": 20, "positive": -3}[label] for label in LABELS])
    estimator = MixtureEstimator(config, folder=tmp_path / "run", random_state=3).fit(np.array(TEXTS), numbers)
    assert estimator.classes_.tolist() == [-3, 5, 20]
    assert estimator.predict(TEXTS[:3]).dtype == numbers.dtype
    assert estimator.model_folder_ == tmp_path / "run" / "experts" / "texts"
    unpickled = pickle.loads(pickle.dumps(estimator))
    assert len(pickle.dumps(estimator)) < 2000, "the path, not the weights"
    np.testing.assert_array_equal(unpickled.predict_proba(TEXTS[:5]), estimator.predict_proba(TEXTS[:5]))


def test_constructor_stores_its_parameters_unchanged(config: Path) -> None:
    estimator = MixtureEstimator(config, sets=["lora.r=2"], random_state=4)
    assert clone(estimator).get_params() == estimator.get_params()
    assert not [name for name in vars(estimator) if name.endswith("_")]
    with pytest.raises(Exception, match="not fitted yet"):
        estimator.predict(TEXTS)


def test_estimator_with_a_temporary_folder_cannot_be_pickled(fitted: MixtureEstimator) -> None:
    with pytest.raises(Fault, match="folder=PATH"):
        pickle.dumps(fitted)


def test_folder_with_other_files_is_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Fault, match="Choose another folder"):
        MixtureEstimator(config, folder=tmp_path).fit(TEXTS, LABELS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("texts", "labels", "options", "message"),
    [
        (TEXTS, LABELS[1:], {}, "as many labels as texts; found 119 and 120"),
        (TEXTS, LABELS, {"domains": ["news"]}, "as many domains as texts"),
        (TEXTS, ["good"] * 120, {}, "at least two classes"),
        (TEXTS, [None, *LABELS[1:]], {}, "a missing label"),
        (TEXTS, None, {}, "requires y to be passed"),
        ([*TEXTS[1:], ""], LABELS, {}, "missing text, at position 119"),
        ("profit", LABELS, {}, "put it into a list"),
        (TEXTS, LABELS, {"domains": ["News!"] * 120}, "lower-case letters"),
        (TEXTS, LABELS, {"domains": ["news"] * 119 + ["forum"]}, "at least two texts of domain forum"),
    ],
)
def test_invalid_training_data_is_refused(
    config: Path, texts: Any, labels: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(Fault, match=f"(?i){message}"):
        MixtureEstimator(config).fit(texts, labels, **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"validation": 0}, "between 0 and 1"),
        ({"sets": ["lora.rank=2"]}, "lora.rank"),
        ({"sets": ["language={}"]}, "a config of a classifier"),
        ({"config": "nowhere.yaml"}, "no such file"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_written(
    config: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(Fault, match=message):
        MixtureEstimator(**{"config": config, "folder": tmp_path / "run"} | wrong).fit(TEXTS, LABELS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "exception"), [(2, KeyboardInterrupt), (15, SystemExit)])
def test_ctrl_c_and_sigterm_are_not_swallowed_by_callers_that_catch_exceptions(
    config: Path, monkeypatch: pytest.MonkeyPatch, number: int, exception: type[BaseException]
) -> None:
    def interrupted(work: object) -> Path:
        raise Interrupted(number)

    monkeypatch.setattr(fit_module, "train_all", interrupted)
    with pytest.raises(exception):
        MixtureEstimator(config).fit(TEXTS, LABELS)
    monkeypatch.setattr(fit_module, "train_all", train_all)


@pytest.mark.slow
def test_estimator_works_in_a_pipeline_and_in_cross_validation(config: Path) -> None:
    strip = FunctionTransformer(lambda texts: [text.strip() for text in texts])
    chain = make_pipeline(strip, MixtureEstimator(config))
    with config_context(enable_metadata_routing=True):
        chain = make_pipeline(strip, MixtureEstimator(config).set_fit_request(domains=True))
        scores = cross_val_score(chain, TEXTS, LABELS, cv=3, params={"domains": TEXT_DOMAINS}, error_score="raise")
    assert scores.shape == (3,)
    assert ((scores >= 0) & (scores <= 1)).all()


# --- scikit-learn's own checks, most of which use rows of numbers


class NumberEstimator(MixtureEstimator):
    """Converts each row of numbers to a text, so that scikit-learn's checks, which use such rows, train it."""

    def fit(self, X: Any, y: Any, domains: Any = None) -> "NumberEstimator":
        if y is not None:
            X, y = validate_data(self, X, y, dtype=None)
        return super().fit(self._texts(X), y, domains)

    def predict_proba(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "model_folder_")
        return super().predict_proba(self._texts(validate_data(self, X, reset=False, dtype=None)))

    @staticmethod
    def _texts(X: Iterable[Iterable[Any]]) -> list[str]:
        return [" ".join(f"{value}" for value in row) for row in X]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.classifier_tags.poor_score = True  # two steps on a random backbone
        return tags


@pytest.fixture(scope="module", autouse=True)
def _set_config(config: Path) -> None:
    """Set the config of the checks' estimator, which is created before the config file exists."""
    CHECKED.config = str(config)


CHECKED = NumberEstimator(
    "set by the fixture", sets=("stages.expert.steps=2", "data.near_duplicates=null"), random_state=0
)


@pytest.mark.slow
@parametrize_with_checks([CHECKED])
def test_estimator_passes_scikit_learns_checks(estimator: MixtureEstimator, check: Any, tmp_path: Path) -> None:
    """All checks; those that pickle get a folder, because a temporary one cannot be pickled."""
    estimator.set_params(config=CHECKED.config)
    if "pickle" in check.func.__name__:
        estimator.set_params(folder=str(tmp_path / "run"))
    check(estimator)

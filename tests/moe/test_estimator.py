"""Claims about the scikit-learn estimator: its manners, what it trains and refuses; and scikit-learn's own checks."""

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
from moe import estimator as home
from moe.errors import Interrupted
from moe.training.pipeline import train_all

DOMAINS = ("news", "forum")
ROWS = [row | {"domain": name} for name in DOMAINS for row in made_up_rows(name, 60)]
TEXTS, LABELS, OF = ([row[key] for row in ROWS] for key in ("text", "label", "domain"))


@pytest.fixture(scope="module")
def config(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config on the tiny backbone."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(tiny_folder, path.parent)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fitted(config: Path) -> MixtureEstimator:
    """One that knows two domains."""
    return MixtureEstimator(config).fit(TEXTS, LABELS, domains=OF)


def test_a_domain_a_text_makes_an_expert_a_domain(fitted: MixtureEstimator) -> None:
    check_is_fitted(fitted)
    assert fitted.domains_ == DOMAINS
    assert MixtureClassifier.load(fitted.model_folder_).experts == DOMAINS
    probabilities = fitted.predict_proba(TEXTS)
    assert probabilities.shape == (len(TEXTS), 3)
    assert list(fitted.classes_[probabilities.argmax(1)]) == list(fitted.predict(TEXTS))
    assert 0 <= fitted.score(TEXTS, LABELS) <= 1


def test_without_domains_one_expert_answers_and_labels_keep_their_kind(config: Path, tmp_path: Path) -> None:
    numbers = np.array([{"negative": 5, "neutral": 20, "positive": -3}[one] for one in LABELS])
    one = MixtureEstimator(config, folder=tmp_path / "run", random_state=3).fit(np.array(TEXTS), numbers)
    assert one.classes_.tolist() == [-3, 5, 20]
    assert one.predict(TEXTS[:3]).dtype == numbers.dtype
    assert one.model_folder_ == tmp_path / "run" / "experts" / "texts"
    again = pickle.loads(pickle.dumps(one))
    assert len(pickle.dumps(one)) < 2000, "the path, not the weights"
    np.testing.assert_array_equal(again.predict_proba(TEXTS[:5]), one.predict_proba(TEXTS[:5]))


def test_its_parameters_are_kept_as_they_are(config: Path) -> None:
    one = MixtureEstimator(config, sets=["lora.r=2"], random_state=4)
    assert clone(one).get_params() == one.get_params()
    assert not [name for name in vars(one) if name.endswith("_")]
    with pytest.raises(Exception, match="not fitted yet"):
        one.predict(TEXTS)


def test_one_with_a_temporary_folder_is_not_pickled(fitted: MixtureEstimator) -> None:
    with pytest.raises(Fault, match="folder=PATH"):
        pickle.dumps(fitted)


def test_a_folder_that_holds_something_else_is_left_alone(config: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Fault, match="Name another folder"):
        MixtureEstimator(config, folder=tmp_path).fit(TEXTS, LABELS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("texts", "labels", "more", "said"),
    [
        (TEXTS, LABELS[1:], {}, "as many labels as texts; found 119 and 120"),
        (TEXTS, LABELS, {"domains": ["news"]}, "as many domains as texts"),
        (TEXTS, ["good"] * 120, {}, "two classes or more"),
        (TEXTS, [None, *LABELS[1:]], {}, "a missing one"),
        (TEXTS, None, {}, "requires y to be passed"),
        ([*TEXTS[1:], ""], LABELS, {}, "missing text, at position 119"),
        ("profit", LABELS, {}, "put it into a list"),
        (TEXTS, LABELS, {"domains": ["News!"] * 120}, "lower-case letters"),
        (TEXTS, LABELS, {"domains": ["news"] * 119 + ["forum"]}, "two texts or more of domain forum"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    config: Path, texts: Any, labels: Any, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(Fault, match=f"(?i){said}"):
        MixtureEstimator(config).fit(texts, labels, **more)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"validation": 0}, "between 0 and 1"),
        ({"sets": ["lora.rank=2"]}, "lora.rank"),
        ({"sets": ["language={}"]}, "a config that gives labels"),
        ({"config": "nowhere.yaml"}, "no such file"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(
    config: Path, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(Fault, match=said):
        MixtureEstimator(**{"config": config, "folder": tmp_path / "run"} | wrong).fit(TEXTS, LABELS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "seen"), [(2, KeyboardInterrupt), (15, SystemExit)])
def test_ctrl_c_and_sigterm_go_through_callers_that_catch_exceptions(
    config: Path, monkeypatch: pytest.MonkeyPatch, number: int, seen: type[BaseException]
) -> None:
    def stopped(work: object) -> Path:
        raise Interrupted(number)

    monkeypatch.setattr(home, "train_all", stopped)
    with pytest.raises(seen):
        MixtureEstimator(config).fit(TEXTS, LABELS)
    monkeypatch.setattr(home, "train_all", train_all)


@pytest.mark.slow
def test_it_stands_in_a_pipeline_and_in_cross_validation(config: Path) -> None:
    strip = FunctionTransformer(lambda texts: [text.strip() for text in texts])
    chain = make_pipeline(strip, MixtureEstimator(config))
    with config_context(enable_metadata_routing=True):
        chain = make_pipeline(strip, MixtureEstimator(config).set_fit_request(domains=True))
        scores = cross_val_score(chain, TEXTS, LABELS, cv=3, params={"domains": OF}, error_score="raise")
    assert scores.shape == (3,)
    assert ((scores >= 0) & (scores <= 1)).all()


# --- scikit-learn's own checks, most of which want rows of numbers


class OnNumbers(MixtureEstimator):
    """Reads each row of numbers as a text, so that scikit-learn's checks, which make such rows, train it truly."""

    def fit(self, X: Any, y: Any, domains: Any = None) -> "OnNumbers":
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
def _few_steps(config: Path) -> None:
    """The estimator that the checks are made of is named before any folder is there; so it is given its config here."""
    CHECKED.config = str(config)


CHECKED = OnNumbers("set by the fixture", sets=("stages.expert.steps=2", "data.near_duplicates=null"), random_state=0)


@pytest.mark.slow
@parametrize_with_checks([CHECKED])
def test_scikit_learns_own_checks(estimator: MixtureEstimator, check: Any, tmp_path: Path) -> None:
    """All of them; those that pickle get a folder, without which it is refused (see above)."""
    estimator.set_params(config=CHECKED.config)
    if "pickle" in check.func.__name__:
        estimator.set_params(folder=str(tmp_path / "run"))
    check(estimator)

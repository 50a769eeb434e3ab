"""Claims about levels: they are the baselines' metrics, computed once for the same rows, and recognize chance."""

import json
import random

import pytest
from conftest import Make, made_up_rows, write_csv
from datasets import Dataset

from experts.domain import Domain, LabelSpace
from moe.evaluation import levels as module
from moe.evaluation.baselines import baseline_reports
from moe.evaluation.levels import LEVELS, chance_warnings, is_chance, macro_f1_error, split_levels, validation_levels
from moe.results.evaluation import TaskLevels, TfidfLevel

LABELS = ("bad", "good")
SPACE = LabelSpace.from_domains([Domain("news", {"news": LABELS})])


def rows(labels: list[int], texts: list[str]) -> Dataset:
    """Rows of a task."""
    count = len(labels)
    return Dataset.from_dict({"text": texts, "label": labels, "task": ["news"] * count, "target": [None] * count})


def words(labels: list[int], signal: bool, seed: int) -> list[str]:
    """Texts of random words; with a signal, one word depends on the label."""
    source = random.Random(seed)
    filler = [" ".join(source.choices("abcdefghijklmnop", k=5)) for _ in labels]
    return [f"{text} {('fell', 'rose')[label]}" if signal else text for text, label in zip(filler, labels, strict=True)]


def made_up_levels(signal: bool, validation: int = 200) -> TaskLevels | None:
    """Levels of balanced rows whose texts show the label, or do not."""
    train, held_out = [0, 1] * 200, [0, 1] * (validation // 2)
    return split_levels(rows(train, words(train, signal, 1)), rows(held_out, words(held_out, signal, 2)), SPACE, "news")


def test_levels_are_the_metrics_of_the_baselines(make_work: Make) -> None:
    work = make_work()
    levels = validation_levels(work)
    expected = baseline_reports(work.rows("train"), work.rows("validation"), work.run.label_space(), "majority")
    assert list(levels) == ["news", "forum"]
    for task in levels:
        assert levels[task].majority.macro_f1 == expected[task].macro_f1
        assert levels[task].majority.accuracy == expected[task].accuracy
        assert levels[task].tfidf.macro_f1 > levels[task].majority.macro_f1
    content = json.loads((work.out / LEVELS).read_text())
    assert {task: TaskLevels.model_validate(level) for task, level in content.items()} == levels


def test_levels_are_computed_once_and_again_when_rows_change(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work, computed = make_work(), []

    def counted(train: Dataset, validation: Dataset, space: LabelSpace, task: str) -> TaskLevels | None:
        computed.append(task)
        return split_levels(train, validation, space, task)

    monkeypatch.setattr(module, "split_levels", counted)
    validation_levels(work, ["news"])
    validation_levels(work)
    validation_levels(make_work())
    assert computed == ["news", "forum"]
    write_csv(work.run.data.path("forum.csv"), made_up_rows("forum", seed=1))
    validation_levels(make_work())
    assert computed == ["news", "forum", "forum"]


def test_levels_are_computed_again_if_their_file_is_broken(make_work: Make) -> None:
    work = make_work()
    levels = validation_levels(work)
    for content in ("{", "[]", '{"news": 1}', '{"news": {"majority": {}}}'):
        (work.out / LEVELS).write_text(content)
        assert validation_levels(make_work()) == levels


def test_levels_are_none_without_labels_in_both_splits() -> None:
    assert split_levels(rows([0, 1], ["a", "b"]), rows([-1], ["c"]), SPACE, "news") is None
    assert split_levels(rows([], []), rows([0], ["c"]), SPACE, "news") is None


@pytest.mark.parametrize("labels", [[0, 0], [0, 1]])
def test_levels_of_rows_that_tfidf_cannot_learn_are_the_majoritys(labels: list[int]) -> None:
    levels = split_levels(rows(labels, ["!", "?"]), rows([0, 1], ["!", "?"]), SPACE, "news")
    assert levels.tfidf.macro_f1 == levels.majority.macro_f1 == pytest.approx(1 / 3)


def test_levels_take_a_limited_number_of_training_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TRAIN_ROWS", 50)
    assert made_up_levels(signal=True).tfidf.train_rows == 50


def test_chance_is_recognized_and_learnable_labels_are_not_called_chance() -> None:
    assert is_chance(made_up_levels(signal=False))
    assert not is_chance(made_up_levels(signal=True))
    (line,) = chance_warnings({"news": made_up_levels(signal=False), "forum": made_up_levels(signal=True)})
    assert line.startswith("news: TF-IDF cannot recognize the labels from the texts (macro-F1 ")


def test_chance_is_not_claimed_from_a_few_rows() -> None:
    assert not is_chance(made_up_levels(signal=False, validation=20))


def test_standard_error_is_a_quarter_of_the_interval_and_never_zero() -> None:
    level = TfidfLevel(
        accuracy=1.0,
        accuracy_interval=(1.0, 1.0),
        macro_f1=0.5,
        macro_f1_interval=(0.4, 0.6),
        constant_accuracy=0.5,
        chance_macro_f1=0.3,
        rows=500,
        train_rows=9,
    )
    assert macro_f1_error(level) == pytest.approx(0.051, abs=0.001)
    few = level.model_copy(update={"rows": 18, "macro_f1_interval": (1.0, 1.0)})
    assert macro_f1_error(few) == pytest.approx(0.045, abs=0.001)

"""Claims about the baselines: how they tokenize, and what they read of a text with a target."""

import numpy as np
import pytest
from conftest import LABELS
from datasets import Dataset

from experts.domain import Domain, LabelSpace
from moe.evaluation.baselines import TEXT_BASELINE, baseline_reports, baseline_results, target_window, tfidf


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Profit rose 5 % in Q3", ["profit", "rose", "5", "in", "q3"]),
        ("公司利好", ["公", "司", "利", "好"]),
        ("ABC公司 Q3", ["abc", "公", "司", "q3"]),
    ],
)
def test_tfidf_tokenizes_at_spaces_and_chinese_by_character(text: str, tokens: list[str]) -> None:
    words = dict(tfidf()[0].transformer_list)["words"]
    assert words.set_params(ngram_range=(1, 1)).build_analyzer()(text) == tokens


def test_tfidf_learns_chinese_from_its_characters() -> None:
    good, bad = ["股价大涨", "业绩大涨", "今日大涨了"], ["股价大跌", "业绩大跌", "今日大跌了"]
    model = tfidf().fit([*good, *bad], ["up"] * 3 + ["down"] * 3)
    assert list(model.predict(["明天大涨吗", "明天大跌吗"])) == ["up", "down"]


@pytest.mark.parametrize(
    ("text", "target", "window"),
    [
        ("a b c d e f Apple g h i j k l", "apple", "b c d e f targetmark g h i j k"),
        ("Apple gains", "Apple", "targetmark gains"),
        ("Apple (AAPL) gains; Apple rises", "Apple", "targetmark AAPL gains Apple rises"),
        ("贵州茅台大涨", "茅台", "贵 州 targetmark 大 涨"),
        ("S&P 500 falls", "S&P 500", "targetmark falls"),
        ("markets fall", "Apple", "markets fall"),
    ],
)
def test_target_window_holds_the_words_around_a_target(text: str, target: str, window: str) -> None:
    assert target_window(text, target) == window


def entity_table(count: int, seed: int) -> Dataset:
    """Two rows a text: the entity before `gains` is positive, the one before `slips` negative."""
    rows = []
    for i in range(count):
        good, bad = f"firm{i + seed}", f"group{i + seed}"
        text = f"{good} gains in the morning while on the other side of the town {bad} slips"
        rows += [
            {"text": text, "target": target, "label": label, "task": "entities"}
            for target, label in ((good, 2), (bad, 0))
        ]
    return Dataset.from_list(rows)


def test_baselines_of_a_task_with_a_target_read_its_window_or_the_whole_text() -> None:
    space = LabelSpace.from_domains([Domain("news", {"entities": LABELS}, target_tasks=("entities",))])
    train, test = entity_table(30, 0), entity_table(10, 100)
    window, text = (baseline_reports(train, test, space, name) for name in ("tfidf", TEXT_BASELINE))
    assert window["entities"].accuracy == 1.0
    assert text["entities"].accuracy == 0.5, "one label for both entities of each text"


def test_text_baseline_is_for_tasks_with_a_target_only() -> None:
    space = LabelSpace.from_domains([Domain("news", {"entities": LABELS})])
    assert not baseline_reports(entity_table(6, 0), entity_table(3, 50), space, TEXT_BASELINE)


def scored_table(count: int, seed: int, **over: object) -> Dataset:
    """Rows whose first word gives the label and, with the number of its letters, the score."""
    words = {"crashes": -0.8, "slips": -0.3, "holds": 0.0, "gains": 0.4, "soars": 0.9}
    rows = []
    for i in range(count):
        word, score = list(words.items())[i % 5]
        text = f"{word} in session {i + seed}"
        rows.append({"id": f"{seed}-{i}", "text": text, "target": None, "score": score, "task": "news"})
        rows[-1] |= {"label": 1 + (score > 0) - (score < 0)} | over
    return Dataset.from_list(rows)


NEWS = LabelSpace.from_domains([Domain("news", {"news": LABELS})])


def test_baselines_of_scores_are_the_mean_and_a_ridge_regression() -> None:
    train, held_out, test = scored_table(100, 0), scored_table(20, 1000), scored_table(50, 2000)
    mean, ridge = (baseline_results(train, test, NEWS, name, held_out)["news"] for name in ("majority", "tfidf"))
    assert mean.figures.mse == pytest.approx(np.var([-0.8, -0.3, 0, 0.4, 0.9]))
    assert mean.figures.pearson is None
    assert ridge.figures.pearson > 0.95
    assert ridge.figures.cosine > 0.95
    assert ridge.figures.accuracy > mean.figures.accuracy
    assert ridge.ids == mean.ids == tuple(test["id"])


def test_validation_rows_choose_the_regularization_of_tfidf() -> None:
    train, test = scored_table(60, 0), scored_table(30, 500)
    chosen = [
        baseline_results(train, test, NEWS, "tfidf", scored_table(30, 500, **over))["news"].scores.mse
        for over in ({}, {"score": 0.04})
    ]
    assert chosen[0] < chosen[1], "rows that all have the mean score call for the largest penalty"


def test_scores_without_labels_have_score_metrics_only() -> None:
    train, test = scored_table(50, 0, label=-1), scored_table(20, 100, label=-1)
    result = baseline_results(train, test, NEWS, "tfidf")["news"]
    assert result.predictions is None
    assert not baseline_reports(train, test, NEWS, "tfidf")
    assert "accuracy" not in result.figures
    assert result.figures.mse < 0.1


def test_tfidf_predicts_the_only_label_of_the_training_rows() -> None:
    train, test = scored_table(20, 0, label=2), scored_table(10, 100)
    assert baseline_reports(train, test, NEWS, "tfidf", test)["news"].accuracy == 0.4

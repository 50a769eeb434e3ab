"""Claims about the baselines: how they tokenize, and what they read of a text with a target."""

import pytest
from conftest import LABELS
from datasets import Dataset

from experts.domain import Domain, LabelSpace
from moe.evaluation.baselines import TEXT_BASELINE, baseline_reports, target_window, tfidf


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Profit rose 5 % in Q3", ["profit", "rose", "5", "in", "q3"]),
        ("公司利好", ["公", "司", "利", "好"]),
        ("ABC公司 Q3", ["abc", "公", "司", "q3"]),
    ],
)
def test_tfidf_tokenizes_at_spaces_and_chinese_by_character(text: str, tokens: list[str]) -> None:
    assert tfidf()[0].set_params(ngram_range=(1, 1)).build_analyzer()(text) == tokens


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
    assert window["entities"]["accuracy"] == 1.0
    assert text["entities"]["accuracy"] == 0.5, "one label for both entities of each text"


def test_text_baseline_is_for_tasks_with_a_target_only() -> None:
    space = LabelSpace.from_domains([Domain("news", {"entities": LABELS})])
    assert not baseline_reports(entity_table(6, 0), entity_table(3, 50), space, TEXT_BASELINE)

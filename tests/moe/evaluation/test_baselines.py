"""Claims about the baselines: how they tokenize."""

import pytest

from moe.evaluation.baselines import tfidf


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

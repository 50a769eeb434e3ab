"""Response filters: wrapping is stripped, the text inside stays, and unusable texts are rejected with a reason."""

import pytest

from moe.augment.filters import clean_response, main_script, rejection_reason, strip_thinking

SOURCE = "Profit at the bank rose on strong trading, the chief executive noted"
GOOD = "The bank earned more as trading was strong, according to its chief executive"


@pytest.mark.parametrize(
    "response",
    [
        GOOD,
        f"  {GOOD}\n",
        f"<think>They want synonyms.\nLet me see</think>\n\n{GOOD}",
        f"<think></think>{GOOD}",
        f"They want synonyms.</think>{GOOD}",
        f"<THINKING>hm</THINKING>{GOOD}<think>was that right",
        f'"{GOOD}"',
        f"“{GOOD}”",
        f"「{GOOD}」",
        f"```text\n{GOOD}\n```",
        f"<text-0af3>\n{GOOD}\n</text-0af3>",
        f"Here is the rewritten text:\n\n{GOOD}",
        f"Here's a paraphrased version of the headline: {GOOD}",
        f'Sure! Here is the paraphrase:\n"{GOOD}"',
        f"Rewritten text: {GOOD}",
        f"Paraphrase: {GOOD}",
        f"以下是改写后的文本:{GOOD}",
        f"改写后:{GOOD}",
    ],
)
def test_clean_response_strips_wrapping(response: str) -> None:
    assert clean_response(response, SOURCE) == GOOD


@pytest.mark.parametrize(
    "text",
    [
        "Here is why the bank fell: bad loans",
        "Here are three stocks to watch: the first",
        '"Strong" trading and "weak" lending',
        "Sure, profit rose: that was expected",
        "Text messages: banks fined over them",
    ],
)
def test_clean_response_leaves_text_that_only_looks_wrapped(text: str) -> None:
    assert clean_response(text, SOURCE) == text


def test_clean_response_leaves_quotes_that_the_source_has() -> None:
    assert clean_response('"we sold more"', '"sales have risen"') == '"we sold more"'


def test_strip_thinking_removes_thinking_that_never_ends() -> None:
    assert strip_thinking("<think>I could say that") == ""


@pytest.mark.parametrize(
    ("text", "source", "reason"),
    [
        (GOOD, SOURCE, None),
        ("", SOURCE, "empty"),
        (" \n", SOURCE, "empty"),
        ("\ud800 profit", SOURCE, "empty"),
        ("I'm sorry, but I can't help with that request about the bank.", SOURCE, "refusal"),
        ("As an AI language model, I do not have opinions on the bank's profit", SOURCE, "refusal"),
        ("抱歉,我无法改写这段文字。", "银行利润上升,交易强劲,首席执行官说", "refusal"),
        (SOURCE * 4, SOURCE, "much longer than its source"),
        ("OK", SOURCE, "much shorter than its source"),
        (f"{GOOD}\n\nNote: I kept the tone.", SOURCE, "several lines"),
        ("银行利润因交易强劲而上升,首席执行官表示", SOURCE, "different script"),
        ("Прибыль банка выросла благодаря торговле, сказал директор", SOURCE, "different script"),
        (
            "The bank earned 12 percent more on strong trading, its chief noted",
            SOURCE,
            "a figure that is not in the source",
        ),
        (SOURCE, SOURCE, "same as its source"),
        (SOURCE.upper() + "!", SOURCE, "same as its source"),
    ],
)
def test_rejection_reason_compares_with_the_source(text: str, source: str, reason: str | None) -> None:
    assert rejection_reason(text, source, 0.85) == reason


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("Sorry to say it, I cannot help buying this dip again and again", "I cannot help but buy this dip, sorry"),
        ("Purchase $TSLA now!", "Buy $TSLA!"),
        ("The firm made 3.5 million in 2024", "In 2024 the company earned 3.5 million"),
        ("首季净利润增长,股价走高,市场情绪良好", "一季度净利上升,股价上涨,市场乐观"),
    ],
)
def test_rejection_reason_accepts_good_variants(text: str, source: str) -> None:
    assert rejection_reason(text, source, 0.85) is None


@pytest.mark.parametrize(
    ("text", "script"),
    [("profit rose", "LATIN"), ("利润上升 A", "CJK"), ("прибыль", "CYRILLIC"), ("12 % 🚀", ""), ("オプション", "CJK")],
)
def test_main_script_is_that_of_most_letters(text: str, script: str) -> None:
    assert main_script(text) == script

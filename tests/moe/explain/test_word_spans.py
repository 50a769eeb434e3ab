"""Claims about a text's words: which pieces of it they are, and which tokens they became."""

import pytest
from conftest import tiny_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from experts.errors import Fault
from moe.explain.word_spans import tokenize_words


def by_letter() -> PreTrainedTokenizerFast:
    core = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    core.pre_tokenizer = Split("", "isolated")  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Profit rose.", ["Profit", "rose", "."]),
        ("don’t, U.S.-based $CRUX #moon @you", ["don’t", ",", "U.S.-based", "$CRUX", "#moon", "@you"]),
        ("−1,234.5% at 3.2x (Q&A)", ["−", "1,234.5%", "at", "3.2x", "(", "Q&A", ")"]),
        ("利好A股上涨", ["利", "好", "A", "股", "上", "涨"]),
        ("🚀🚀 to the moon", ["🚀", "🚀", "to", "the", "moon"]),
        ("a\n\tb", ["a", "b"]),
    ],
)
def test_words_are_as_people_write_them(text: str, words: list[str]) -> None:
    found = tokenize_words(text, by_letter(), "{text}", 99)
    assert [found.word_text(one) for one in found.words] == words


def test_every_token_of_a_word_is_its_own_and_no_other_is() -> None:
    found = tokenize_words("rates fell", by_letter(), "{text}", 99)
    assert [one.tokens for one in found.words] == [(0, 1, 2, 3, 4), (6, 7, 8, 9)]


def test_words_that_share_a_token_are_one() -> None:
    found = tokenize_words("profit 上涨", tiny_tokenizer(), "{text}", 99)
    assert [found.word_text(one) for one in found.words] == ["profit", "上涨"]


def test_the_template_is_no_part_of_the_text() -> None:
    found = tokenize_words("profit rose", tiny_tokenizer(), "the {text} again", 99)
    assert [(one.start, one.end, one.tokens) for one in found.words] == [(0, 6, (2,)), (7, 11, (3,))]


def test_what_is_cut_has_no_words() -> None:
    found = tokenize_words("profit rose again", tiny_tokenizer(), "{text}", 4)
    assert found.truncated
    assert [found.word_text(one) for one in found.words] == ["profit", "rose"]


def test_half_a_pair_of_surrogates_keeps_its_place() -> None:
    found = tokenize_words("a \ud800 b", by_letter(), "{text}", 99)
    assert [one.start for one in found.words] == [0, 2, 4]


def test_a_tokenizer_without_places_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(Fault, match="places"):
        tokenize_words("a", Slow(), "{text}", 9)  # type: ignore[arg-type]

"""Word spans: how a text is divided into words, and which tokens belong to each."""

from typing import cast

import pytest
from conftest import tiny_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import PreTokenizer, Split
from transformers import PreTrainedTokenizerFast

from experts.errors import Fault
from moe.explain.word_spans import tokenize_words


def by_letter() -> PreTrainedTokenizerFast:
    core = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    core.pre_tokenizer = cast(PreTokenizer, Split("", "isolated"))
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
def test_words_are_divided_as_people_write_them(text: str, words: list[str]) -> None:
    tokenization = tokenize_words(text, by_letter(), "{text}", 99)
    assert [tokenization.word_text(word) for word in tokenization.words] == words


def test_words_have_exactly_their_own_tokens() -> None:
    tokenization = tokenize_words("rates fell", by_letter(), "{text}", 99)
    assert [word.tokens for word in tokenization.words] == [(0, 1, 2, 3, 4), (6, 7, 8, 9)]


def test_words_that_share_a_token_are_merged() -> None:
    tokenization = tokenize_words("profit 上涨", tiny_tokenizer(), "{text}", 99)
    assert [tokenization.word_text(word) for word in tokenization.words] == ["profit", "上涨"]


def test_words_exclude_the_template() -> None:
    tokenization = tokenize_words("profit rose", tiny_tokenizer(), "the {text} again", 99)
    assert [(word.start, word.end, word.tokens) for word in tokenization.words] == [(0, 6, (2,)), (7, 11, (3,))]


def test_words_exclude_truncated_text() -> None:
    tokenization = tokenize_words("profit rose again", tiny_tokenizer(), "{text}", 4)
    assert tokenization.truncated
    assert [tokenization.word_text(word) for word in tokenization.words] == ["profit", "rose"]


def test_words_keep_their_offsets_after_an_unpaired_surrogate() -> None:
    tokenization = tokenize_words("a \ud800 b", by_letter(), "{text}", 99)
    assert [word.start for word in tokenization.words] == [0, 2, 4]


def test_words_need_a_tokenizer_with_offsets() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(Fault, match="character offsets"):
        tokenize_words("a", cast(PreTrainedTokenizerFast, Slow()), "{text}", 9)

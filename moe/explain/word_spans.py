"""Alignment of a text's words with the tokens of the backbone's tokenizer."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from experts.errors import Fault
from moe.data.collator import second_segments
from moe.data.text_checks import replace_surrogates

_HAN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTERS = rf"[^\W{_HAN}]+"
_INITIALS = rf"(?:[^\W\d_{_HAN}]\.)+[^\W\d_{_HAN}]\b\.?"
_UNIT = re.compile(rf"[$#@]?(?:{_INITIALS}|{_LETTERS})(?:[.'’&-]{_LETTERS}|,\d+)*%?|\S")
"""A word as people write it: `$CRUX`, `don't`, `lower-than-feared`, `1,234.5%`; else one symbol or Han character."""


@dataclass(frozen=True)
class Word:
    """A word: its character span in the text (the end is exclusive), and the indices of its tokens."""

    start: int
    end: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Tokenization:
    """A text with its tokens and its words.

    Args:
        text: as given.
        ids: token ids, including those of the template and special ones.
        words: words that have tokens, which excludes words that were truncated.
        truncated: whether the text was longer than the backbone reads.
    """

    text: str
    ids: list[int]
    words: tuple[Word, ...]
    truncated: bool

    def word_text(self, word: Word) -> str:
        """Return a word as written in the text."""
        return self.text[word.start : word.end]


def tokenize_words(
    text: str, tokenizer: PreTrainedTokenizerBase, template: str, max_length: int, target: str | None = None
) -> Tokenization:
    """Tokenize a text inside its template, and align its words with the tokens; a target is the second segment.

    Words that share a token, as Chinese ones may, become one word.

    Raises:
        Fault: if the tokenizer does not return character offsets.
    """
    if not tokenizer.is_fast:
        raise Fault(
            "a tokenizer that returns character offsets", "a slow tokenizer", "use a backbone with a fast tokenizer"
        )
    plain = replace_surrogates(text)
    out = tokenizer(
        template.replace("{text}", plain),
        target and second_segments([target], tokenizer, max_length)[0],
        truncation="only_first" if target else True,
        max_length=max_length,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    offset = template.index("{text}")
    sequence = out.sequence_ids(0)
    spans = [
        (index, max(start - offset, 0), min(end - offset, len(plain)))
        for index, (start, end) in enumerate(out["offset_mapping"][0])
        if sequence[index] == 0
    ]
    return Tokenization(text, out["input_ids"][0], tuple(_words(plain, spans)), len(out["input_ids"]) > 1)


def _words(text: str, spans: list[tuple[int, int, int]]) -> Iterator[Word]:
    """Words with the tokens (index, start, end) that they overlap; tokens of spaces only belong to no word."""
    current: Word | None = None
    for match in _UNIT.finditer(text):
        start, end = match.span()
        tokens = tuple(index for index, first, last in spans if first < end and last > start)
        if not tokens:
            continue
        if current is not None and current.tokens[-1] >= tokens[0]:
            current = Word(current.start, end, tuple(dict.fromkeys((*current.tokens, *tokens))))
            continue
        if current is not None:
            yield current
        current = Word(start, end, tokens)
    if current is not None:
        yield current

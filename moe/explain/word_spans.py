"""A text's own words, and which tokens of the backbone's tokenizer each of them became.

What a word weighs is `moe.explain.integrated_gradients`'.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from experts.errors import Fault
from moe.data.collator import replace_surrogates

_HAN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTERS = rf"[^\W{_HAN}]+"
_INITIALS = rf"(?:[^\W\d_{_HAN}]\.)+[^\W\d_{_HAN}]\b\.?"
_UNIT = re.compile(rf"[$#@]?(?:{_INITIALS}|{_LETTERS})(?:[.'’&-]{_LETTERS}|,\d+)*%?|\S")
"""A word as people write it: `$CRUX`, `don't`, `lower-than-feared`, `1,234.5%`; else one sign, or one Han letter."""


@dataclass(frozen=True)
class Word:
    """A word of a text: its place in the text (the end is not in it), and the places of its tokens."""

    start: int
    end: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Tokenization:
    """A text as the backbone reads it.

    Args:
        text: as it was given.
        ids: its tokens, template and special ones among them.
        words: those that are read; what was cut off has none.
        truncated: whether the text was longer than the backbone reads.
    """

    text: str
    ids: list[int]
    words: tuple[Word, ...]
    truncated: bool

    def word_text(self, word: Word) -> str:
        """The word as the text has it."""
        return self.text[word.start : word.end]


def tokenize_words(text: str, tokenizer: PreTrainedTokenizerBase, template: str, max_length: int) -> Tokenization:
    """Tokenise a text inside its template, and find the tokens of each of its words.

    Words that share a token, as Chinese ones may, are one.

    Raises:
        Fault: when the tokenizer cannot tell places in the text.
    """
    if not tokenizer.is_fast:
        raise Fault("a tokenizer that tells places in the text", "a slow one", "use a backbone with a fast tokenizer")
    plain = replace_surrogates(text)
    out = tokenizer(
        template.replace("{text}", plain),
        truncation=True,
        max_length=max_length,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    first = template.index("{text}")
    own = out.sequence_ids(0)
    spans = [
        (place, max(start - first, 0), min(end - first, len(plain)))
        for place, (start, end) in enumerate(out["offset_mapping"][0])
        if own[place] is not None
    ]
    return Tokenization(text, out["input_ids"][0], tuple(_words(plain, spans)), len(out["input_ids"]) > 1)


def _words(text: str, spans: list[tuple[int, int, int]]) -> Iterator[Word]:
    """Each unit with the tokens (place, start, end) that it overlaps; tokens of spaces alone belong to none."""
    units = [(one.start(), one.end()) for one in _UNIT.finditer(text)]
    open_: Word | None = None
    for start, end in units:
        tokens = tuple(place for place, first, last in spans if first < end and last > start)
        if not tokens:
            continue
        if open_ is not None and open_.tokens[-1] >= tokens[0]:
            open_ = Word(open_.start, end, tuple(dict.fromkeys((*open_.tokens, *tokens))))
            continue
        if open_ is not None:
            yield open_
        open_ = Word(start, end, tokens)
    if open_ is not None:
        yield open_

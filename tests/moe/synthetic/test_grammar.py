"""Tests of `moe.synthetic.grammar`: every template of every domain can be drawn with the signs that it claims."""

import re
from math import prod
from random import Random

import pytest

from moe.synthetic import DOMAINS, GRAMMARS
from moe.synthetic.grammar import SIGNS, STRENGTHS, Grammar, Side, draw_text

SIDES = [pytest.param(GRAMMARS[name], id=name) for name in DOMAINS]
TINY = Side(
    words={"who": {"": "the bank|the firm"}, "act": {"+": "won", "++": "soared", "-": "lost"}, "mod": {"-": "never"}},
    templates=("{who} {act}", "{who} {mod} {act}", "{who}, which {~act}, {act}", "from {x} to {y}"),
)


@pytest.mark.parametrize("grammar", SIDES)
def test_templates_and_words_of_test_are_not_those_of_training(grammar: Grammar) -> None:
    train, test = grammar.train, grammar.test
    assert not set(train.templates) & set(test.templates)
    for slot in train.words.keys() & test.words.keys():
        signed = {text for sign, text in train.fillers(slot) if sign}
        assert not signed & {text for sign, text in test.fillers(slot) if sign}, slot


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("side", ["train", "test"])
def test_slots_of_every_template_have_words_and_every_word_a_known_sign(name: str, side: str) -> None:
    words: Side = getattr(GRAMMARS[name], side)
    slots = {slot for template in words.templates for _, slot in re.findall(r"\{(~?)(\w+)\}", template)}
    assert slots - {"x", "y"} <= words.words.keys()
    assert words.words.keys() <= slots, "a slot without a template"
    for fillers in words.words.values():
        assert fillers.keys() <= SIGNS.keys() == STRENGTHS.keys()
        assert all(text == text.strip() and text for texts in fillers.values() for text in texts.split("|"))


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_drawn_text_fills_its_template_and_has_the_sign(name: str, sign: int) -> None:
    random = Random(sign)
    for side in (GRAMMARS[name].train, GRAMMARS[name].test):
        for _ in range(40):
            draw = draw_text(side, sign, random)
            assert draw.sign == sign
            assert draw.template in side.templates
            assert "{" not in draw.text
            assert all(filler in draw.text for filler in draw.fillers)
            assert len(set(draw.fillers)) == len(draw.fillers)
            assert (draw.strength > 0) is (sign != 0)


def test_sign_is_the_product_of_the_slots_that_count() -> None:
    by_sign = {text: sign for sign, texts in TINY.words["act"].items() for text in texts.split("|")}
    for sign in (-1, 0, 1):
        for seed in range(60):
            draw = draw_text(TINY, sign, Random(seed))
            if draw.template.startswith("from"):
                first, second = map(int, re.findall(r"\d+", draw.text))
                assert (second > first) - (second < first) == sign
            else:
                factors = [SIGNS[by_sign[draw.fillers[-1]]] or 0, -1 if "never" in draw.text else 1]
                assert prod(factors) == sign


def test_neutral_text_is_drawn_from_templates_that_can_be_neutral_only() -> None:
    assert {draw_text(TINY, 0, Random(seed)).template for seed in range(40)} == {"from {x} to {y}"}


def test_strength_is_that_of_the_strongest_word() -> None:
    draws = [draw_text(TINY, 1, Random(seed)) for seed in range(80)]
    assert {draw.strength for draw in draws if "soared" in draw.text and "which" not in draw.text} == {0.9}
    assert {draw.strength for draw in draws if "won" in draw.text and "which" not in draw.text} == {0.5}
    reversed_draws = [draw_text(TINY, -1, Random(seed)) for seed in range(80)]
    assert {draw.strength for draw in reversed_draws if "never soared" in draw.text} == {0.9}


def test_figures_of_a_text_are_one_slot_with_a_direction() -> None:
    for sign in (-1, 0, 1):
        for seed in range(40):
            draw = draw_text(Side({}, ("{x} after {y}",)), sign, Random(seed))
            later, earlier = map(int, draw.text.split(" after "))
            assert (earlier > later) - (earlier < later) == sign
            assert draw.fillers == ()

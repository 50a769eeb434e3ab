"""The made-up sample: what `moe sample` writes, and that it is as hard and as honest as it says.

That one expert learns it is a slow test of training, not here.
"""

import csv
import re
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from experts.errors import Fault
from moe.synthetic import COLUMNS, DOMAINS, GRAMMARS, generate, generate_draws, write_sample
from moe.synthetic.grammar import SIGNS, DrawnText, Side, draw_text

SIGN_OF = {"negative": -1, "neutral": 0, "positive": 1}


def words(text: str) -> set[str]:
    """The words of a text that are neither figures nor function words."""
    return set(re.findall(r"\$?[a-z][a-z'-]*", text.lower())) - ENGLISH_STOP_WORDS


@cache
def rows_of(domain: str) -> tuple[dict[str, Any], ...]:
    """The shipped rows of a domain: those of the default number and seed."""
    return tuple(generate(domain))


@cache
def draws_of(domain: str) -> tuple[tuple[str, DrawnText], ...]:
    return tuple(generate_draws(domain))


def of_split(domain: str, *splits: str) -> tuple[list[str], list[str]]:
    rows = [row for row in rows_of(domain) if row["split"] in splits]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def signed_words(domain: str, sign: int) -> set[str]:
    side = GRAMMARS[domain].train
    return set().union(*(words(text) for slot in side.words for key, text in side.fillers(slot) if SIGNS[key] == sign))


def test_the_same_seed_makes_the_same_rows_and_another_seed_others() -> None:
    assert generate("news", 60) == generate("news", 60)
    assert generate("news", 60, seed=14) != generate("news", 60)


@pytest.mark.parametrize("domain", DOMAINS)
def test_rows_have_the_columns_the_asked_number_and_about_70_10_20_splits(domain: str) -> None:
    rows = generate(domain, 1000)
    assert all(tuple(row) == COLUMNS and row["domain"] == domain and row["lang"] == "en" for row in rows)
    assert Counter(row["split"] for row in rows) == {"train": 700, "validation": 100, "test": 200}
    assert len({row["id"] for row in rows}) == 1000


@pytest.mark.parametrize("domain", DOMAINS)
def test_labels_are_balanced_in_every_split(domain: str) -> None:
    for split in ("train", "validation", "test"):
        counts = Counter(of_split(domain, split)[1])
        assert set(counts) == set(SIGN_OF)
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("domain", DOMAINS)
def test_scores_agree_with_labels_and_neutral_ones_are_near_zero(domain: str) -> None:
    for row in rows_of(domain):
        sign = SIGN_OF[row["label"]]
        assert (0.3 < sign * row["score"] <= 1) if sign else (abs(row["score"]) <= 0.1)


@pytest.mark.parametrize("domain", DOMAINS)
def test_texts_are_short_and_none_occurs_twice(domain: str) -> None:
    texts = [row["text"] for row in rows_of(domain)]
    assert len({text.lower() for text in texts}) == len(texts)
    lengths = [len(text.split()) for text in texts]
    assert 8 <= sum(lengths) / len(lengths) <= 16
    assert max(lengths) <= 30


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_text_of_test_is_a_near_duplicate_of_a_training_text(domain: str) -> None:
    def shingles(text: str) -> frozenset[tuple[str, ...]]:
        parts = text.lower().split()
        return frozenset(zip(parts, parts[1:], parts[2:], strict=False))

    train = [shingles(text) for text in of_split(domain, "train", "validation")[0]]
    for text in of_split(domain, "test")[0][:100]:
        mine = shingles(text)
        assert max(len(mine & other) / len(mine | other) for other in train) < 0.85


def test_test_templates_are_not_among_the_training_ones() -> None:
    for domain in DOMAINS:
        made = draws_of(domain)
        test = {one.template for split, one in made if split == "test"}
        train = {one.template for split, one in made if split != "test"}
        assert not test & train
        assert len(test) >= 10


def test_no_word_put_into_a_test_text_occurs_in_a_training_text_of_any_domain() -> None:
    made = [(split, one) for domain in DOMAINS for split, one in draws_of(domain)]
    train = set().union(*(words(one.text) for split, one in made if split != "test"))
    test = set().union(*(words(" ".join(one.fillers)) for split, one in made if split == "test"))
    assert len(test) > 200
    assert not test & train


def test_rows_are_the_draws_in_order() -> None:
    for row, (split, one) in zip(generate("macro", 300), generate_draws("macro", 300), strict=True):
        assert (row["text"].lower(), row["split"], SIGN_OF[row["label"]]) == (one.text.lower(), split, one.sign)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("longest", [1, 2])
def test_counting_words_does_not_solve_the_test_split(domain: str, longest: int) -> None:
    baseline = make_pipeline(TfidfVectorizer(ngram_range=(1, longest)), LogisticRegression(max_iter=1000))
    baseline.fit(*of_split(domain, "train"))
    assert baseline.score(*of_split(domain, "test")) <= 0.68


def test_some_words_have_another_sign_in_another_domain() -> None:
    good = {domain: signed_words(domain, 1) - signed_words(domain, -1) for domain in DOMAINS}
    bad = {domain: signed_words(domain, -1) - signed_words(domain, 1) for domain in DOMAINS}
    turned = {word for one in DOMAINS for other in DOMAINS for word in good[one] & bad[other]}
    assert turned >= {"rising", "hawkish", "volatile", "cheap", "sick", "squeeze", "tightening"}


SMALL = Side(
    words={
        "mod": {"+": "did", "-": "did not", "0": "may"},
        "act": {"++": "win big", "-": "lose"},
        "who": {"": "Ann"},
    },
    templates=("{who} {mod} {act}", "{who}: {act} from {x} to {y}", "{~act} aside, {who} {mod} {act}"),
)


def test_a_label_is_the_product_of_the_signs_of_the_slots() -> None:
    by_text = {
        one.text: one.sign for sign in (-1, 0, 1) for one in (draw_text(SMALL, sign, Random(i)) for i in range(80))
    }
    assert by_text["Ann did not lose"] == 1
    assert by_text["Ann did not win big"] == -1
    assert by_text["Ann may lose"] == 0
    assert by_text["win big aside, Ann did lose"] == -1


def test_a_figures_direction_is_a_sign() -> None:
    for i in range(200):
        one = draw_text(SMALL, i % 3 - 1, Random(i))
        if found := re.fullmatch(r"Ann: (.+) from (\d+) to (\d+)", one.text):
            x, y = int(found[2]), int(found[3])
            assert ((y > x) - (y < x)) * (1 if found[1] == "win big" else -1) == one.sign


def test_stronger_words_score_higher_and_neutral_texts_have_no_strength() -> None:
    strengths = {one.text: one.strength for one in (draw_text(SMALL, 1, Random(i)) for i in range(80))}
    assert strengths["Ann did win big"] > strengths["Ann did not lose"] > 0
    assert draw_text(SMALL, 0, Random(0)).strength == 0


def test_written_files_hold_the_rows_and_the_readme_says_they_are_made_up(tmp_path: Path) -> None:
    paths = write_sample(tmp_path / "sample", rows=60, domains=("forum", "quant"))
    assert [path.name for path in paths] == ["forum.csv", "quant.csv"]
    with paths[0].open(encoding="utf-8", newline="") as stream:
        read = list(csv.DictReader(stream))
    assert [row["text"] for row in read] == [row["text"] for row in generate("forum", 60)]
    assert [float(row["score"]) for row in read] == [row["score"] for row in generate("forum", 60)]
    readme = (tmp_path / "sample" / "README.md").read_text(encoding="utf-8")
    assert "made up" in readme
    assert "Never quote" in readme
    assert sorted(path.name for path in (tmp_path / "sample").iterdir()) == ["README.md", "forum.csv", "quant.csv"]


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Fault, match="can be written"):
        write_sample(tmp_path / "file", rows=60)


def test_an_unknown_domain_or_an_unusable_number_of_rows_is_a_fault_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="news, forum, macro, micro, quant"):
        write_sample(tmp_path / "sample", domains=("news", "sports"))
    for rows in (0, 29, 10_001):
        with pytest.raises(Fault, match="30 to 10000 rows"):
            write_sample(tmp_path / "sample", rows=rows)
    assert not (tmp_path / "sample").exists()

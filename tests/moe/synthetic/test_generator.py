"""The synthetic sample: what `moe sample` writes, and that word counts do not solve it."""

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


def test_generate_depends_on_the_seed() -> None:
    assert generate("news", 60) == generate("news", 60)
    assert generate("news", 60, seed=14) != generate("news", 60)


@pytest.mark.parametrize("domain", DOMAINS)
def test_generate_returns_the_columns_the_number_of_rows_and_70_10_20_splits(domain: str) -> None:
    rows = generate(domain, 1000)
    assert all(tuple(row) == COLUMNS and row["domain"] == domain and row["lang"] == "en" for row in rows)
    assert Counter(row["split"] for row in rows) == {"train": 700, "validation": 100, "test": 200}
    assert len({row["id"] for row in rows}) == 1000


@pytest.mark.parametrize("domain", DOMAINS)
def test_generate_balances_labels_in_every_split(domain: str) -> None:
    for split in ("train", "validation", "test"):
        counts = Counter(of_split(domain, split)[1])
        assert set(counts) == set(SIGN_OF)
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("domain", DOMAINS)
def test_generate_scores_agree_with_labels(domain: str) -> None:
    for row in rows_of(domain):
        sign = SIGN_OF[row["label"]]
        assert (0.3 < sign * row["score"] <= 1) if sign else (abs(row["score"]) <= 0.1)


@pytest.mark.parametrize("domain", DOMAINS)
def test_generate_texts_are_short_and_unique(domain: str) -> None:
    texts = [row["text"] for row in rows_of(domain)]
    assert len({text.lower() for text in texts}) == len(texts)
    lengths = [len(text.split()) for text in texts]
    assert 8 <= sum(lengths) / len(lengths) <= 16
    assert max(lengths) <= 30


@pytest.mark.parametrize("domain", DOMAINS)
def test_generate_has_no_near_duplicates_of_training_texts_in_test(domain: str) -> None:
    def shingles(text: str) -> frozenset[tuple[str, ...]]:
        parts = text.lower().split()
        return frozenset(zip(parts, parts[1:], parts[2:], strict=False))

    train = [shingles(text) for text in of_split(domain, "train", "validation")[0]]
    for text in of_split(domain, "test")[0][:100]:
        own = shingles(text)
        assert max(len(own & other) / len(own | other) for other in train) < 0.85


def test_generate_uses_no_training_template_in_test() -> None:
    for domain in DOMAINS:
        draws = draws_of(domain)
        test = {draw.template for split, draw in draws if split == "test"}
        train = {draw.template for split, draw in draws if split != "test"}
        assert not test & train
        assert len(test) >= 10


def test_generate_uses_no_word_of_training_in_slots_of_test() -> None:
    draws = [(split, draw) for domain in DOMAINS for split, draw in draws_of(domain)]
    train = set().union(*(words(draw.text) for split, draw in draws if split != "test"))
    test = set().union(*(words(" ".join(draw.fillers)) for split, draw in draws if split == "test"))
    assert len(test) > 200
    assert not test & train


def test_generate_returns_the_draws_in_order() -> None:
    for row, (split, draw) in zip(generate("macro", 300), generate_draws("macro", 300), strict=True):
        assert (row["text"].lower(), row["split"], SIGN_OF[row["label"]]) == (draw.text.lower(), split, draw.sign)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("longest", [1, 2])
def test_sample_is_not_solved_by_word_counts(domain: str, longest: int) -> None:
    baseline = make_pipeline(TfidfVectorizer(ngram_range=(1, longest)), LogisticRegression(max_iter=1000))
    baseline.fit(*of_split(domain, "train"))
    assert baseline.score(*of_split(domain, "test")) <= 0.68


def test_sample_words_change_their_sign_between_domains() -> None:
    good = {domain: signed_words(domain, 1) - signed_words(domain, -1) for domain in DOMAINS}
    bad = {domain: signed_words(domain, -1) - signed_words(domain, 1) for domain in DOMAINS}
    changed = {word for first in DOMAINS for second in DOMAINS for word in good[first] & bad[second]}
    assert changed >= {"rising", "hawkish", "volatile", "cheap", "sick", "squeeze", "tightening"}


NEGATED = re.compile(
    r"\b(?:not|no|never|failed|refused|declined to|whether|left open|may one day|cannot say|undecided|settled if)\b"
)
GOOD_FIGURE = (
    r"\b(?:profit|sales|revenue|orders|cash flow|earnings|income|bookings|employment|exports|gross margin|backlog|alpha"
    r"|hit rate|sharpe ratio|my (?:account|position|stack|portfolio|net worth))"
)
COST = r"\b(?:costs?|debt|complaints|inflation|unemployment|churn|drawdown|slippage|borrowings)"
UP = (
    r"(?:climbed|rose|picked up|grew|moved up|gained|went up|built up|surged|jumped|increased|headed upward|expanded"
    r"|soared|doubled|skyrocketed)\b"
)
DOWN = (
    r"(?:fell|slid|dropped|declined|moved down|shrank|went down|faded|eased|tumbled|collapsed|decreased"
    r"|headed downward|plunged|crashed|tanked)\b"
)
BUY = r"\b(?:bought|loaded up on|grabbed|scooped up|purchased|acquired)\b.*"
PLAIN_MEANINGS = {
    f"{GOOD_FIGURE}(?: \\S+){{0,6}}? {UP}": 1,
    f"{GOOD_FIGURE}(?: \\S+){{0,6}}? {DOWN}": -1,
    f"{COST}(?: \\S+){{0,6}}? {UP}": -1,
    f"{COST}(?: \\S+){{0,6}}? {DOWN}": 1,
    rf"{GOOD_FIGURE}.* (?:above|ahead of|higher than|stronger than|better than|greater than)\b": 1,
    rf"{GOOD_FIGURE}.* (?:below|short of|lower than|softer than|worse than|smaller than)\b": -1,
    r"\b(?:raised? (?:its|the) dividend|raise our guidance|lifted its outlook|beat expectations)": 1,
    r"\b(?:boost (?:its targets|our projections)|boosted its targets|won a big contract)": 1,
    r"\b(?:cut (?:its|the) dividend|lower(?:ed)? (?:its outlook|our guidance)|missed expectations)": -1,
    r"\b(?:fire a thousand|profit warning|lost a big contract|slash jobs|slashed its targets)": -1,
    r"\b(?:strong demand|record orders?|surprise upgrade|big win|tax refund)\b": 1,
    r"\b(?:weak demand|fraud probe|costly strike|surprise downgrade|big loss|lawsuit|recession)\b": -1,
    r"\b(?:to the moon|tendies|sick gains|short squeeze|bullish|breaking out|will skyrocket)\b": 1,
    r"\b(?:rug pull|pure scam|bags all week|bagholder|bearish|going to zero|falling knife|will implode)\b": -1,
    rf"{BUY}\b(?:calls|leaps|call options)\b": 1,
    rf"{BUY}\b(?:puts|put options)\b": -1,
    r"\b(?:love it|best day ever|how nice|fantastic|terrific)\b": 1,
    r"\b(?:in line with|held steady|stayed flat|did not move|unchanged|just as|exactly as)\b": 0,
    r"\?|\b(?:closed at|trades at|is priced at|is quoted at)\b": 0,
    r"\b(?:annual meeting|routine audit|publishes its|no position in)\b": 0,
}
"""Plain statements, as patterns, and the sign that a reader gives them."""


@pytest.mark.parametrize("domain", DOMAINS)
def test_generate_labels_no_plain_statement_against_its_meaning(domain: str) -> None:
    rows = [(row["text"].lower(), SIGN_OF[row["label"]]) for row in generate(domain, 5000, seed=99)]
    plain = [(text, sign) for text, sign in rows if not NEGATED.search(text.replace("did not move", ""))]
    tested = 0
    for pattern, meaning in PLAIN_MEANINGS.items():
        signs = [sign for text, sign in plain if re.search(pattern, text)]
        wrong = sum(sign != meaning if meaning == 0 else sign == -meaning for sign in signs)
        assert wrong <= 0.05 * len(signs), (pattern, Counter(signs))
        tested += len(signs) >= 15
    assert tested >= 7


SMALL = Side(
    words={
        "mod": {"+": "did", "-": "did not", "0": "may"},
        "act": {"++": "win big", "-": "lose"},
        "who": {"": "Ann"},
    },
    templates=("{who} {mod} {act}", "{who}: {act} from {x} to {y}", "{~act} aside, {who} {mod} {act}"),
)


def test_draw_text_sign_is_the_product_of_the_slots_signs() -> None:
    draws = [draw_text(SMALL, sign, Random(i)) for sign in (-1, 0, 1) for i in range(80)]
    by_text = {draw.text: draw.sign for draw in draws}
    assert by_text["Ann did not lose"] == 1
    assert by_text["Ann did not win big"] == -1
    assert by_text["Ann may lose"] == 0
    assert by_text["win big aside, Ann did lose"] == -1


def test_draw_text_direction_of_figures_is_a_sign() -> None:
    for i in range(200):
        draw = draw_text(SMALL, i % 3 - 1, Random(i))
        if match := re.fullmatch(r"Ann: (.+) from (\d+) to (\d+)", draw.text):
            x, y = int(match[2]), int(match[3])
            assert ((y > x) - (y < x)) * (1 if match[1] == "win big" else -1) == draw.sign


def test_draw_text_strength_follows_the_words_and_is_zero_if_neutral() -> None:
    draws = [draw_text(SMALL, 1, Random(i)) for i in range(80)]
    strengths = {draw.text: draw.strength for draw in draws}
    assert strengths["Ann did win big"] > strengths["Ann did not lose"] > 0
    assert draw_text(SMALL, 0, Random(0)).strength == 0


def test_write_sample_writes_the_rows_and_a_readme_that_calls_them_made_up(tmp_path: Path) -> None:
    paths = write_sample(tmp_path / "sample", rows=60, domains=("forum", "quant"))
    assert [path.name for path in paths] == ["forum.csv", "quant.csv"]
    with paths[0].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["text"] for row in rows] == [row["text"] for row in generate("forum", 60)]
    assert [float(row["score"]) for row in rows] == [row["score"] for row in generate("forum", 60)]
    readme = (tmp_path / "sample" / "README.md").read_text(encoding="utf-8")
    assert "made up" in readme
    assert "Never quote" in readme
    assert sorted(path.name for path in (tmp_path / "sample").iterdir()) == ["README.md", "forum.csv", "quant.csv"]


def test_write_sample_refuses_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Fault, match="can be written"):
        write_sample(tmp_path / "file", rows=60)


def test_write_sample_refuses_invalid_arguments_before_writing(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="news, forum, macro, micro, quant"):
        write_sample(tmp_path / "sample", domains=("news", "sports"))
    for rows in (0, 29, 10_001):
        with pytest.raises(Fault, match="30 to 10000 rows"):
            write_sample(tmp_path / "sample", rows=rows)
    assert not (tmp_path / "sample").exists()

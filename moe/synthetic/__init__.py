"""The shipped sample: a seeded generator of made-up short texts with labels and scores for five domains.

It shows the pipeline at work and measures nothing; files of real data are `moe.data`'s.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from experts.atomic_io import write_text
from experts.errors import Fault
from moe.synthetic import forum, macro, micro, news, quant
from moe.synthetic.grammar import DrawnText, Grammar, Side, draw_text

GRAMMARS: dict[str, Grammar] = {
    "news": news.GRAMMAR,
    "forum": forum.GRAMMAR,
    "macro": macro.GRAMMAR,
    "micro": micro.GRAMMAR,
    "quant": quant.GRAMMAR,
}
DOMAINS = tuple(GRAMMARS)
LABELS = {-1: "negative", 0: "neutral", 1: "positive"}
COLUMNS = ("id", "text", "label", "score", "domain", "lang", "split")
MIN_ROWS, MAX_ROWS = 30, 10_000

README = """# A made-up sample

Every text in this folder is made up. A program put words into templates; the firms, tickers, lands and figures do not
exist, and nothing here is news, an opinion or advice. The words of test were chosen while looking at test errors.

It is for seeing the pipeline run. Never quote an accuracy measured on it: it says nothing of real financial text.

Written by `moe sample` with seed {seed}, {rows} rows a domain: {domains}.

| column | what it holds |
|---|---|
| id | domain and number |
| text | one short text, English |
| label | negative, neutral or positive, about a third each in every split |
| score | -1 to 1: the label's sign and how strong the words are; within 0.1 of 0 when neutral |
| domain | which of the grammars made it |
| lang | always en |
| split | train, validation or test: about 70, 10 and 20 % |

The label is decided by how words combine: a modifier turns an outcome round, a cost that falls is good, a figure's
direction decides, an expectation is met or missed, a compliment is sarcastic. Some words have another sign in another
domain: rising yields, hawkish, volatile, cheap, sick, squeeze, tightening.
Templates and slot words of test occur in no training or validation text of any domain (figures and function words such
as "not" or "from" do). Validation is made from the templates and words of training, so it is easier than test.
"""


def generate(domain: str, rows: int = 2400, seed: int = 13) -> list[dict[str, Any]]:
    """Make the rows of one domain, the same for the same seed whatever other domains are made.

    Labels are balanced within each split. 70 % of the rows are for training, 10 % for validation (both from the
    training side's templates and words) and 20 % for test, whose templates and slot words occur in no training text.

    Returns:
        Rows with the keys of `COLUMNS`; score is in [-1, 1], with the label's sign, and within ±0.1 of 0 if neutral.

    Raises:
        Fault: when the domain is unknown, or rows are too few for three splits or more than the grammars hold.
    """
    random = Random(f"scores of {domain} {seed}")
    return [_row(domain, i, split, one, random) for i, (split, one) in enumerate(generate_draws(domain, rows, seed))]


def write_sample(out: Path, rows: int = 2400, seed: int = 13, domains: Sequence[str] = DOMAINS) -> list[Path]:
    """Write `<domain>.csv` for each domain, and a README that says it is made up; each file whole or not at all.

    Returns:
        The paths of the CSV files, in the order of `domains`.

    Raises:
        Fault: as `generate` does, before anything is written; or when the folder cannot be written.
    """
    texts = {out / f"{domain}.csv": _csv(generate(domain, rows, seed)) for domain in domains}
    write_text(out / "README.md", README.format(seed=seed, rows=rows, domains=", ".join(domains)))
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def generate_draws(domain: str, rows: int = 2400, seed: int = 13) -> Iterator[tuple[str, DrawnText]]:
    """What `generate` makes its rows from, in the same order: the split, and the text with its template and words.

    Raises:
        Fault: as `generate` does.
    """
    _check(domain, rows)
    sizes = {"validation": rows // 10, "test": rows // 5}
    random, seen = Random(f"{domain} {seed}"), set[str]()
    for split, size in {"train": rows - sum(sizes.values()), **sizes}.items():
        side = GRAMMARS[domain].test if split == "test" else GRAMMARS[domain].train
        signs = [(-1, 0, 1)[i % 3] for i in range(size)]
        random.shuffle(signs)
        for sign in signs:
            yield split, _unseen(side, sign, random, seen)


def _check(domain: str, rows: int) -> None:
    if domain not in GRAMMARS:
        raise Fault(f"a sample domain among {', '.join(DOMAINS)}", repr(domain), "name one of these")
    if not MIN_ROWS <= rows <= MAX_ROWS:
        raise Fault(f"{MIN_ROWS} to {MAX_ROWS} rows a domain", str(rows), "name a number between them")


def _unseen(side: Side, sign: int, random: Random, seen: set[str]) -> DrawnText:
    while (one := draw_text(side, sign, random)).text in seen:
        pass
    seen.add(one.text)
    return one


def _row(domain: str, number: int, split: str, one: DrawnText, random: Random) -> dict[str, Any]:
    return {
        "id": f"{domain}-{number:05d}",
        "text": one.text if domain == "forum" else one.text[0].upper() + one.text[1:],
        "label": LABELS[one.sign],
        "score": round(one.sign * one.strength + random.uniform(-0.09, 0.09), 3),
        "domain": domain,
        "lang": "en",
        "split": split,
    }


def _csv(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()

"""Synthetic sample: a seeded generator of made-up short texts with labels and scores for five domains.

It demonstrates the pipeline and is no benchmark; reading real data is left to `moe.data`.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TypedDict

from experts.atomic_io import write_text
from experts.errors import Fault
from experts.outputs import check_output_file
from moe.synthetic import forum, macro, micro, news, quant
from moe.synthetic.dated import draw_times, entity_of, name_rows, price_rows
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
DATED_COLUMNS = (*COLUMNS, "published_at", "entity")
PRICES, NAMES = "prices.csv", "names.csv"
MIN_ROWS, MAX_ROWS = 30, 10_000

README = """# A made-up sample

Every text in this folder is made up. A program filled words into templates; the firms, tickers, countries and figures
do not exist, and nothing here is news, an opinion or advice. The words of the test split were chosen while looking at
test errors.

The sample demonstrates the pipeline. Never quote an accuracy measured on it: it says nothing about real financial text.

Written by `moe sample` with seed {seed}, {rows} rows per domain: {domains}.

| column | contents |
|---|---|
| id | domain and number |
| text | one short text, English |
| label | negative, neutral or positive, about a third each in every split |
| score | -1 to 1: the sign of the label times the strength of the words; within 0.1 of 0 if neutral |
| domain | the grammar that generated the text |
| lang | always en |
| split | train, validation or test: about 70, 10 and 20 % |

A plain statement has its plain meaning: no text says that rising profit is bad. The label depends on how words combine:
a modifier reverses an outcome, a falling cost is good, the direction of a figure counts, an expectation is met or
missed, a question has no sentiment. Some words have another sign in another domain: rising yields, hawkish, volatile,
cheap, sick, squeeze, tightening.
The templates and slot words of test occur in no training or validation text of any domain (figures and function words
such as "not" or "from" do). Validation uses the templates and words of training, so it is easier than test.
"""
DATED_README = """
With `--dated`, rows also have:

| column | contents |
|---|---|
| published_at | a time in 2023 or 2024, UTC, increasing from row to row |
| entity | what the text is about, as it writes it: a ticker on the forum, a firm in news, else empty |

`names.csv` gives the tickers of the firms, and `prices.csv` closes of every ticker. The closes are random walks that no
text has to do with.
"""


class SampleRow(TypedDict):
    """A row of the sample.

    Args:
        id: of the row, unique in its domain.
        text: one sentence.
        label: negative, neutral or positive.
        score: in [-1, 1] with the label's sign, and within ±0.1 if neutral.
        domain: name of the domain.
        lang: language code.
        split: train, validation or test.
    """

    id: str
    text: str
    label: str
    score: float
    domain: str
    lang: str
    split: str


def generate(domain: str, rows: int = 2400, seed: int = 13) -> list[SampleRow]:
    """Generate the rows of one domain; they depend only on its name, the number of rows and the seed.

    Labels are balanced within each split. 70 % of the rows are for training, 10 % for validation (both from the
    templates and words of the training side) and 20 % for test, whose templates and slot words occur in no training
    text.

    Args:
        domain: one of `DOMAINS`.
        rows: number of rows.
        seed: of the random draws.

    Raises:
        Fault: if the domain is unknown, or the number of rows is not from 30 to 10,000.
    """
    random = Random(f"scores of {domain} {seed}")
    draws = generate_draws(domain, rows, seed)
    return [_to_row(domain, i, split, draw, random) for i, (split, draw) in enumerate(draws)]


def write_sample(
    out: Path,
    rows: int = 2400,
    seed: int = 13,
    domains: Sequence[str] = DOMAINS,
    overwrite: bool = False,
    dated: bool = False,
) -> list[Path]:
    """Write `<domain>.csv` for each domain, and a README that states that they are made up; each file atomically.

    Args:
        overwrite: replace existing files of another content.
        dated: add the columns `published_at` and `entity`, which change no other.

    Returns:
        Paths of the CSV files, in the order of `domains`.

    Raises:
        Fault: as `generate`, before anything is written; or if the folder cannot be written, or a file exists with
            another content and `overwrite` is false.
    """
    files = {out / f"{domain}.csv": _csv(_records(domain, rows, seed, dated)) for domain in domains}
    readme = README.format(seed=seed, rows=rows, domains=", ".join(domains)) + (DATED_README if dated else "")
    _write_files({out / "README.md": readme, **files}, overwrite)
    return list(files)


def write_market(out: Path, seed: int = 13, overwrite: bool = False) -> list[Path]:
    """Write `prices.csv` and `names.csv` for a dated sample, each file atomically.

    Returns:
        Paths of both files.

    Raises:
        Fault: if the folder cannot be written, or a file exists with another content and `overwrite` is false.
    """
    files = {out / PRICES: _csv(price_rows(seed)), out / NAMES: _csv(name_rows())}
    _write_files(files, overwrite)
    return list(files)


def _write_files(contents: Mapping[Path, str], overwrite: bool) -> None:
    changed = {path: content for path, content in contents.items() if not _holds(path, content)}
    for path in changed:
        check_output_file(path, (), overwrite)
    for path, content in changed.items():
        write_text(path, content)


def _holds(path: Path, content: str) -> bool:
    try:
        return path.read_bytes() == content.encode()
    except OSError:
        return False


def generate_draws(domain: str, rows: int = 2400, seed: int = 13) -> Iterator[tuple[str, DrawnText]]:
    """Yield the split and the generated text of each row of `generate`, in the same order.

    Raises:
        Fault: as `generate`.
    """
    _check(domain, rows)
    sizes = {"validation": rows // 10, "test": rows // 5}
    random, seen = Random(f"{domain} {seed}"), set[str]()
    for split, size in {"train": rows - sum(sizes.values()), **sizes}.items():
        side = GRAMMARS[domain].test if split == "test" else GRAMMARS[domain].train
        signs = [(-1, 0, 1)[i % 3] for i in range(size)]
        random.shuffle(signs)
        for sign in signs:
            yield split, _draw_unseen(side, sign, random, seen)


def _check(domain: str, rows: int) -> None:
    if domain not in GRAMMARS:
        raise Fault(f"one of the sample domains {', '.join(DOMAINS)}", repr(domain), "use one of these")
    if not MIN_ROWS <= rows <= MAX_ROWS:
        raise Fault(f"{MIN_ROWS} to {MAX_ROWS} rows per domain", str(rows), "use a number in this range")


def _draw_unseen(side: Side, sign: int, random: Random, seen: set[str]) -> DrawnText:
    while (draw := draw_text(side, sign, random)).text in seen:
        pass
    seen.add(draw.text)
    return draw


def _to_row(domain: str, number: int, split: str, draw: DrawnText, random: Random) -> SampleRow:
    return {
        "id": f"{domain}-{number:05d}",
        "text": draw.text if domain == "forum" else draw.text[0].upper() + draw.text[1:],
        "label": LABELS[draw.sign],
        "score": round(draw.sign * draw.strength + random.uniform(-0.09, 0.09), 3),
        "domain": domain,
        "lang": "en",
        "split": split,
    }


def _records(domain: str, rows: int, seed: int, dated: bool) -> Iterator[Sequence[object]]:
    """Yield the header and the rows of a domain's file."""
    yield DATED_COLUMNS if dated else COLUMNS
    generated = generate(domain, rows, seed)
    if not dated:
        yield from (tuple(row.values()) for row in generated)
        return
    entities = (entity_of(domain, draw) for _, draw in generate_draws(domain, rows, seed))
    for row, time, entity in zip(generated, draw_times(domain, rows, seed), entities, strict=True):
        yield *row.values(), time, entity


def _csv(rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()

"""The words of a corpus that push each label: the weights of every text's words, averaged word by word.

How one text is explained is `moe.explain.explain`'s.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.text import Text

from experts.domain import Labels
from experts.errors import Fault
from moe.console import Table, progress_bar, info
from moe.data.readers import read_texts
from moe.data.sampler import batch_by_tokens
from moe.data.schema import Columns
from moe.explain.explain import label_log_odds, tokenize_text, word_weights
from moe.explain.integrated_gradients import BACKWARD_MEMORY_FACTOR, blank_token, build_paths, integrate, load_captum
from moe.explain.word_spans import Tokenization
from moe.inference.output import check_output, write_rows
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_texts

STEPS, MIN_COUNT, SHOWN_WORDS = 32, 5, 15
Z_95 = 1.96
"""Standard errors to each side of a mean that hold 95 % of a normal distribution."""


@dataclass
class WordStats:
    """A word's weights so far, for each label (K,)."""

    total: np.ndarray
    squares: np.ndarray
    count: int = 0

    def add(self, weight: np.ndarray) -> None:
        """One more place where it stands, with its weights (K,)."""
        self.count += 1
        self.total += weight  # (K,)
        self.squares += weight**2  # (K,)

    @property
    def mean(self) -> np.ndarray:
        """(K,)."""
        return self.total / self.count

    @property
    def spread(self) -> np.ndarray:
        """Half of the 95 % interval of the mean (K,), of two places or more."""
        variance = (self.squares - self.total**2 / self.count).clip(0) / (self.count - 1)  # (K,)
        return Z_95 * np.sqrt(variance / self.count)


@dataclass
class Lexicon:
    """The words of the texts that were answered with one set of labels."""

    labels: Labels
    texts: int = 0
    words: dict[str, WordStats] = field(default_factory=dict)

    def add(self, word: str, weight: np.ndarray) -> None:
        """A word of a text, with its weight for each label (K,)."""
        if word not in self.words:
            self.words[word] = WordStats(np.zeros(len(self.labels)), np.zeros(len(self.labels)))
        self.words[word].add(weight)

    def rows(self, least: int) -> list[dict[str, Any]]:
        """Words that stand in `least` places or more, the strongest first."""
        kept = [(word, one) for word, one in self.words.items() if one.count >= least]
        return [self._row(word, one) for word, one in sorted(kept, key=lambda pair: -np.abs(pair[1].mean).max())]

    def as_json(self, least: int) -> dict[str, Any]:
        """As plain JSON values, see `build_lexicon`."""
        return {"labels": list(self.labels), "texts": self.texts, "words": self.rows(least)}

    def _row(self, word: str, one: WordStats) -> dict[str, Any]:
        mean, spread = (
            {label: round(float(x), 6) for label, x in zip(self.labels, some, strict=True)}
            for some in (one.mean, one.spread if one.count > 1 else np.zeros(len(self.labels)))
        )
        return {"word": word, "count": one.count, "weight": mean, "spread": spread if one.count > 1 else None}


@dataclass(frozen=True)
class LexiconRequest:
    """One call of `moe explain`.

    Args:
        texts: to explain one by one; or none, and a file.
        file: a corpus, whose words are wanted.
        column: its text column.
        out: a file for the words.
        spreadsheet: words in csv that a spreadsheet would run are escaped.
        domain: pins the texts to this domain's experts.
        task: the task to answer.
        least: words in fewer places are left out.
        most: only so many texts, the file's first.
    """

    texts: tuple[str, ...] = ()
    file: Path | None = None
    text_column: str = "text"
    out: Path | None = None
    spreadsheet: bool = False
    domain: str | None = None
    task: str | None = None
    min_count: int = MIN_COUNT
    max_texts: int | None = None

    def check(self) -> None:
        """Refuse what cannot work before anything heavy is loaded.

        Raises:
            Fault: for texts and a file, or neither; a file for the words of no corpus; a file that cannot be read or
                written; without captum.
        """
        load_captum()
        if bool(self.texts) == (self.file is not None):
            raise Fault("texts or --file", "both" if self.texts else "neither", "give one of them")
        if self.out is not None and self.file is None:
            raise Fault("--file for --out", "texts", "leave --out out, or take --json > FILE")
        check_output(self.out, self.spreadsheet)
        if self.file is not None:
            read_texts(self.file, Columns(text=self.text_column))


def build_lexicon(
    predictor: Predictor, asked: LexiconRequest, steps: int = STEPS, quiet: bool = True
) -> dict[str, Any]:
    """The words of a file's texts, by the labels that their texts could have been given; written where that is asked.

    Returns:
        `file`, `texts`, `skipped` (rows that cannot be read), `steps`, `blank`, and `lexicons`: for each set of labels
        `labels`, `texts` and `words`, each with `count`, and by label the mean `weight` (log-odds) and its `spread`,
        half of its 95 % interval, null of a single place.

    Raises:
        Fault: when captum is missing, the file cannot be read, has no text, or the words cannot be written.
    """
    assert asked.file is not None
    predictor.check(asked.task, asked.domain)
    records = list(islice(read_texts(asked.file, Columns(text=asked.text_column)), asked.max_texts))
    good = [str(record.values["text"]) for record in records if not record.error]
    if not good:
        raise Fault(f"texts in {asked.file}", "none that can be read", "name another file or --text-column")
    found: dict[Labels, Lexicon] = {}
    with progress_bar("explain", len(good), "text", quiet) as meter:
        for count in add_texts(found, good, predictor, asked, steps):
            meter.advance(count)
    report = {
        "file": str(asked.file),
        "texts": len(good),
        "skipped": len(records) - len(good),
        "steps": steps,
        "least": asked.min_count,
        "blank": blank_token(predictor),
        "lexicons": [one.as_json(asked.min_count) for one in found.values()],
    }
    if asked.out is not None:
        write_rows(as_rows(report), asked.out, asked.spreadsheet)
        info(f"written to {asked.out}")
    return report


def add_texts(
    found: dict[Labels, Lexicon], good: Sequence[str], predictor: Predictor, asked: LexiconRequest, steps: int
) -> Iterator[int]:
    """Add texts to the lexicons of their labels, batch by batch; gives how many each batch had."""
    for at in range(0, len(good), predictor.chunk_size):
        window = good[at : at + predictor.chunk_size]
        groups: dict[str, list[str]] = defaultdict(list)
        for text, answer in zip(window, predict_texts(window, predictor, asked.domain, asked.task), strict=True):
            groups[answer.task].append(text)
        for task, some in groups.items():
            labels = task_labels(predictor, task)
            lexicon = found.setdefault(labels, Lexicon(labels))
            readings = [tokenize_text(predictor, text) for text in some]
            for batch in batch_by_tokens(
                [len(one.ids) for one in readings], predictor.batch_tokens // BACKWARD_MEMORY_FACTOR
            ):
                _add(lexicon, [readings[i] for i in batch], predictor, asked, task, steps)
                yield len(batch)


def task_labels(predictor: Predictor, task: str) -> Labels:
    """A task's labels, in the order of its answers' probabilities."""
    space = predictor.model.labels
    return tuple(label for label, own in zip(space.heads[space.head_by_task[task]], space.mask(task), strict=True) if own)


def _add(
    lexicon: Lexicon,
    readings: Sequence[Tokenization],
    predictor: Predictor,
    asked: LexiconRequest,
    task: str,
    steps: int,
) -> None:
    """Each word of these texts, with its weight for every label."""
    way, by_label = build_paths(predictor, readings, asked.domain), []
    for k in range(len(lexicon.labels)):
        chosen = torch.full((len(readings),), k, device=way.ids.device)  # (B,)
        by_label.append(integrate(predictor, way, partial(label_log_odds, predictor, task, chosen), steps).tokens)
    tokens = torch.stack(by_label).cpu()  # (K, B, T)
    for row, one in enumerate(readings):
        each = [word_weights(one, tokens[k, row].tolist()) for k in range(len(lexicon.labels))]
        for same in zip(*each, strict=True):
            lexicon.add(same[0].word.casefold(), np.array([weight.weight for weight in same]))
    lexicon.texts += len(readings)


def as_rows(report: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """A report's words as rows of a file, with the labels that they are of."""
    for one in report["lexicons"]:
        yield from ({"labels": "/".join(one["labels"]), **row} for row in one["words"])


def lexicon_view(report: Mapping[str, Any]) -> RenderableType:
    """A table for each set of labels: the strongest words for each label, with their mean weight and how often."""
    skipped = f"; {report['skipped']} rows could not be read" if report["skipped"] else ""
    said = (
        f"mean weight in log-odds ± half of its 95 % interval, and in how many places; words in {report['least']} or "
        f"more. Blank words are {report['blank']}, {report['steps']} steps{skipped}"
    )
    return Group(*[_table(one) for one in report["lexicons"]], Text(said, style="dim"))


def _table(one: Mapping[str, Any]) -> Table:
    how: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "header_style": "bold"}
    table = Table(title=f"words of {one['texts']} texts, for each label", title_justify="left", **how)
    columns = []
    for label in one["labels"]:
        table.add_column(f"→ {label}", overflow="fold")
        table.add_column("weight", justify="right", no_wrap=True)
        best = sorted(one["words"], key=lambda row: -row["weight"][label])[:SHOWN_WORDS]
        columns.append([_cells(row, label) for row in best if row["weight"][label] > 0])
    for place in range(max(map(len, columns), default=0)):
        cells = [column[place] if place < len(column) else ("", "") for column in columns]
        table.add_row(*[cell for pair in cells for cell in pair])
    return table


def _cells(row: Mapping[str, Any], label: str) -> tuple[Text, Text]:
    spread = f" ±{row['spread'][label]:.2f}" if row["spread"] else ""
    figure = Text(f"{row['weight'][label]:+.2f}").append(f"{spread} ({row['count']})", style="dim")
    return Text(row["word"]), figure

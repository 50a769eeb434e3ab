"""Lexicon of a corpus: how much each word supports each label, averaged over all its occurrences."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.text import Text

from experts.domain import Labels
from experts.errors import Fault
from experts.json_io import json_object
from moe.console import Table, info, progress_bar
from moe.data.formats.readers import read_texts
from moe.data.schema import Columns
from moe.explain.explain import label_log_odds, tokenize_text, word_weights
from moe.explain.integrated_gradients import (
    BACKWARD_MEMORY_FACTOR,
    blank_token,
    build_paths,
    integrate,
    load_captum,
)
from moe.explain.word_spans import Tokenization
from moe.inference.batches import batch_by_tokens
from moe.inference.stream import predict_texts
from moe.inference.text_io import OutputTarget, TextSource
from moe.inference.torch_predictor import TorchPredictor

STEPS, MIN_COUNT, SHOWN_WORDS = 32, 5, 15
Z_95 = 1.96
"""Standard errors on each side of a mean that cover 95 % of a normal distribution."""


@dataclass
class WordStats:
    """Running sums of a word's weights for each label (K,)."""

    total: np.ndarray
    squares: np.ndarray
    count: int = 0

    def add(self, weights: np.ndarray) -> None:
        """Add one occurrence with its weights (K,)."""
        self.count += 1
        self.total += weights  # (K,)
        self.squares += weights**2  # (K,)

    @property
    def mean(self) -> np.ndarray:
        """Mean weight for each label (K,)."""
        return self.total / self.count

    @property
    def spread(self) -> np.ndarray:
        """Half width of the 95 % interval of the mean (K,); needs at least two occurrences."""
        variance = (self.squares - self.total**2 / self.count).clip(0) / (self.count - 1)  # (K,)
        return Z_95 * np.sqrt(variance / self.count)


@dataclass(frozen=True)
class LexiconWord:
    """A word of a corpus.

    Args:
        word: in lower case.
        count: its occurrences.
        weight: mean weight by label, in log-odds.
        spread: half the width of the 95 % interval of the weight, by label; None for a single occurrence.
    """

    word: str
    count: int
    weight: Mapping[str, float]
    spread: Mapping[str, float] | None


@dataclass(frozen=True)
class LabelLexicon:
    """Words of the texts whose task has these labels.

    Args:
        labels: the labels (K).
        texts: number of texts.
        words: by descending weight.
    """

    labels: Labels
    texts: int
    words: Sequence[LexiconWord]


@dataclass(frozen=True)
class LexiconReport:
    """Lexicons of a corpus.

    Args:
        file: the corpus.
        texts: number of texts that were explained.
        skipped: rows that cannot be read.
        steps: integration steps.
        least: occurrences below which a word is omitted.
        blank: token that replaces words in the blank text.
        lexicons: one for each set of labels.
    """

    file: str
    texts: int
    skipped: int
    steps: int
    least: int
    blank: str
    lexicons: Sequence[LabelLexicon]


@dataclass
class Lexicon:
    """Running statistics of the words of the texts whose task has these labels."""

    labels: Labels
    texts: int = 0
    words: dict[str, WordStats] = field(default_factory=dict)

    def add(self, word: str, weights: np.ndarray) -> None:
        """Add an occurrence of a word, with its weight for each label (K,)."""
        if word not in self.words:
            self.words[word] = WordStats(np.zeros(len(self.labels)), np.zeros(len(self.labels)))
        self.words[word].add(weights)

    def summary(self, min_count: int) -> LabelLexicon:
        """Return the words with at least `min_count` occurrences, by descending weight."""
        frequent = [(word, stats) for word, stats in self.words.items() if stats.count >= min_count]
        words = [
            LexiconWord(
                word,
                stats.count,
                weight=self._by_label(stats.mean),
                spread=self._by_label(stats.spread) if stats.count > 1 else None,
            )
            for word, stats in sorted(frequent, key=lambda pair: -np.abs(pair[1].mean).max())
        ]
        return LabelLexicon(labels=self.labels, texts=self.texts, words=words)

    def _by_label(self, values: np.ndarray) -> dict[str, float]:
        return {label: round(float(value), 6) for label, value in zip(self.labels, values, strict=True)}


def check_explanation(source: TextSource, target: OutputTarget) -> None:
    """Check what `moe explain` reads and writes before anything heavy is loaded.

    Raises:
        Fault: if captum is missing, if there are both or neither of texts and a file, if there is an output file but no
            corpus, if there are targets for a file, or as `TextSource.check` and `OutputTarget.check`.
    """
    load_captum()
    source.check(required=True)
    if target.path is not None and source.file is None:
        raise Fault(
            "--out together with --file", "--out with texts", "remove --out, or redirect the output: --json > FILE"
        )
    if source.targets and source.file is not None:
        raise Fault("texts for --target", "a file", "remove --target")
    target.check([source.file])


def build_lexicon(
    predictor: TorchPredictor,
    source: TextSource,
    target: OutputTarget = OutputTarget(),
    *,
    domain: str | None = None,
    task: str | None = None,
    min_count: int = MIN_COUNT,
    max_texts: int | None = None,
    steps: int = STEPS,
    quiet: bool = True,
) -> LexiconReport:
    """Explain every text of a file for every label of its task, average the weights by word, and write the result.

    Args:
        source: the corpus.
        target: the file for the lexicon; without a path, none is written.
        domain: use only this domain's experts.
        task: the task to explain.
        min_count: omit words that occur less often.
        max_texts: use only the first texts of the file; None uses all.
        steps: integration steps of a text.
        quiet: show no progress bar.

    Raises:
        Fault: if captum is missing, the file cannot be read or has no text, or the result cannot be written.
    """
    file = source.required_file
    predictor.check(task, domain)
    records = list(islice(read_texts(file, Columns(text=source.text_column), source.text_format), max_texts))
    valid = [str(record.values["text"]) for record in records if not record.error]
    if not valid:
        raise Fault(f"texts in {source.file}", "none that can be read", "use another file, or set --text-column")
    lexicons: dict[Labels, Lexicon] = {}
    with progress_bar("explain", len(valid), "text", quiet) as meter:
        for count in add_texts(lexicons, valid, predictor, domain=domain, task=task, steps=steps):
            meter.advance(count)
    report = LexiconReport(
        file=str(source.file),
        texts=len(valid),
        skipped=len(records) - len(valid),
        steps=steps,
        least=min_count,
        blank=blank_token(predictor),
        lexicons=[lexicon.summary(min_count) for lexicon in lexicons.values()],
    )
    if target.path is not None:
        target.write(as_rows(report))
        info(f"written to {target.path}")
    return report


def add_texts(
    lexicons: dict[Labels, Lexicon],
    texts: Sequence[str],
    predictor: TorchPredictor,
    *,
    domain: str | None,
    task: str | None,
    steps: int,
) -> Iterator[int]:
    """Add texts to the lexicons of their labels, and yield the number of texts after each batch."""
    for at in range(0, len(texts), predictor.chunk_size):
        chunk = texts[at : at + predictor.chunk_size]
        by_task: dict[str, list[str]] = defaultdict(list)
        predictions = predict_texts(chunk, predictor, domain, task)
        for text, prediction in zip(chunk, predictions, strict=True):
            by_task[prediction.task].append(text)
        for name, task_texts in by_task.items():
            labels = task_labels(predictor, name)
            lexicon = lexicons.setdefault(labels, Lexicon(labels))
            tokenizations = [tokenize_text(predictor, text) for text in task_texts]
            lengths = [len(text.ids) for text in tokenizations]
            for batch in batch_by_tokens(lengths, predictor.batch_tokens // BACKWARD_MEMORY_FACTOR):
                _add_batch(lexicon, [tokenizations[i] for i in batch], predictor, domain, name, steps)
                yield len(batch)


def task_labels(predictor: TorchPredictor, task: str) -> Labels:
    """Return a task's labels, in the order of the probabilities of its predictions.

    Raises:
        Fault: if the task has a score alone.
    """
    predictor.spec.require_labels(task, "a lexicon")
    return predictor.spec.tasks[task].labels


def _add_batch(
    lexicon: Lexicon,
    tokenizations: Sequence[Tokenization],
    predictor: TorchPredictor,
    domain: str | None,
    task: str,
    steps: int,
) -> None:
    """Add all words of some texts, with their weights for every label."""
    path, by_label = build_paths(predictor, tokenizations, domain), []
    for k in range(len(lexicon.labels)):
        label = torch.full((len(tokenizations),), k, device=path.ids.device)  # (B,)
        by_label.append(integrate(predictor, path, partial(label_log_odds, predictor, task, label), steps).tokens)
    tokens = torch.stack(by_label).cpu()  # (K, B, T)
    for row, text in enumerate(tokenizations):
        weights = [word_weights(text, tokens[k, row].tolist()) for k in range(len(lexicon.labels))]
        for same_word in zip(*weights, strict=True):
            lexicon.add(same_word[0].word.casefold(), np.array([word.weight for word in same_word]))
    lexicon.texts += len(tokenizations)


def as_rows(report: LexiconReport) -> Iterator[Mapping[str, object]]:
    """Yield a report's words as rows of a table, with the labels of their lexicon."""
    for lexicon in report.lexicons:
        yield from ({"labels": "/".join(lexicon.labels), **json_object(word)} for word in lexicon.words)


def lexicon_view(report: LexiconReport) -> RenderableType:
    """Tables for the terminal, one for each set of labels: the words that support each label most."""
    skipped = f"; {report.skipped} rows skipped because they cannot be read" if report.skipped else ""
    remark = (
        f"Mean weight in log-odds ± half of its 95 % interval (occurrences); words with {report.least} or more "
        f"occurrences. Blank token {report.blank}, {report.steps} steps{skipped}"
    )
    return Group(*[_table(lexicon) for lexicon in report.lexicons], Text(remark, style="dim"))


def _table(lexicon: LabelLexicon) -> Table:
    style: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "header_style": "bold"}
    table = Table(title=f"words of {lexicon.texts} texts by label", title_justify="left", **style)
    columns = []
    for label in lexicon.labels:
        table.add_column(f"→ {label}", overflow="fold")
        table.add_column("weight", justify="right", no_wrap=True)
        best = sorted(lexicon.words, key=lambda word: -word.weight[label])[:SHOWN_WORDS]
        columns.append([_cells(word, label) for word in best if word.weight[label] > 0])
    for index in range(max(map(len, columns), default=0)):
        cells = [column[index] if index < len(column) else ("", "") for column in columns]
        table.add_row(*[cell for pair in cells for cell in pair])
    return table


def _cells(word: LexiconWord, label: str) -> tuple[Text, Text]:
    spread = f" ±{word.spread[label]:.2f}" if word.spread else ""
    weight = Text(f"{word.weight[label]:+.2f}").append(f"{spread} ({word.count})", style="dim")
    return Text(word.word), weight

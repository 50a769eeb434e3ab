"""Who trains, who validates, who tests: the file's own split, a stratified draw or a fold; no text on two sides.

Rows are numbers here, from 0 in the order of the file; reading and saving them is left to `prepare`.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from experts.errors import Fault
from moe.data.dedup import NearDuplicateIndex
from moe.data.schema import SPLITS, Split, SplitSettings

RowIndices = NDArray[np.int64]
SplitRows = dict[Split, RowIndices]
FetchTexts = Callable[[RowIndices], Iterator[str]]

_VALIDATION_SHARE = 0.1


def stratified_draw(
    labels: NDArray[np.integer], rows: RowIndices, count: int, *seed: int
) -> tuple[RowIndices, RowIndices]:
    """Draw exactly `count` of these rows, every label within one row of its share; both parts in file order.

    Rows are shuffled inside their label and taken at even steps along the labels in turn.

    Args:
        labels: label of every row of the file, -1 for none (N,).
        rows: those to draw from (n,).
        count: how many, at most n.
        seed: whole numbers; the same ones draw the same rows.

    Returns:
        Rows drawn (count,) and rows left (n - count,).
    """
    shuffled = np.random.default_rng(seed).permutation(rows)
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    steps = (np.arange(len(ordered) + 1) * count + len(ordered) // 2) // max(1, len(ordered))
    drawn = np.diff(steps) > 0
    return np.sort(ordered[drawn]), np.sort(ordered[~drawn])


def split_rows(labels: NDArray[np.integer], own: NDArray[np.integer], settings: SplitSettings) -> SplitRows:
    """Part all rows of a file.

    With the file's own split, rows that name none train; a missing validation is a tenth of train.

    Args:
        labels: label of every row, -1 for none (N,).
        own: the file's split of every row as an index into `SPLITS`, -1 for none (N,).
        settings: what the config says.
    """
    if settings.folds is not None:
        return _fold(labels, settings.folds, settings)
    if settings.own and (own >= 0).any():
        return _own(labels, own, settings)
    everything = np.arange(len(labels))
    train, *held_out = np.array(settings.ratios) / sum(settings.ratios)
    test, rest = stratified_draw(labels, everything, round(held_out[-1] * len(labels)), settings.seed, 0)
    share = _VALIDATION_SHARE if len(held_out) == 1 else held_out[0] / (train + held_out[0])
    validation, train_rows = stratified_draw(labels, rest, round(share * len(rest)), settings.seed, 1)
    return {"train": train_rows, "validation": validation, "test": test}


def _fold(labels: NDArray[np.integer], folds: int, settings: SplitSettings) -> SplitRows:
    from sklearn.model_selection import StratifiedKFold  # heavy, and few runs ask for folds

    if np.bincount(labels + 1).max(initial=0) < folds:
        most = int(np.bincount(labels + 1).max(initial=0))
        raise Fault(f"{folds} rows or more of some label for {folds} folds", f"at most {most}", "take fewer folds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class rarer than the folds is spread as far as it goes
        every = list(StratifiedKFold(folds, shuffle=True, random_state=settings.seed).split(labels, labels))
    rest, test = every[settings.fold]
    validation, train = stratified_draw(labels, rest, round(_VALIDATION_SHARE * len(rest)), settings.seed, 1)
    return {"train": train, "validation": validation, "test": test}


def _own(labels: NDArray[np.integer], own: NDArray[np.integer], settings: SplitSettings) -> SplitRows:
    train, validation, test = (np.flatnonzero(own == code) for code in range(len(SPLITS)))
    train = np.union1d(train, np.flatnonzero(own < 0))
    if settings.validation_as_test and not len(test):
        validation, test = test, validation
    if not len(validation):
        validation, train = stratified_draw(labels, train, round(_VALIDATION_SHARE * len(train)), settings.seed, 1)
    return {"train": train, "validation": validation, "test": test}


def remove_cross_split_duplicates(
    parts: SplitRows, texts: FetchTexts, threshold: float, seed: int
) -> tuple[SplitRows, dict[str, int]]:
    """Take out of train what is near a held-out text, and out of validation what is near a test text.

    Test rows never move. Near texts inside one part stay.

    Args:
        parts: rows by split.
        texts: gives the texts of rows, in their order.
        threshold: Jaccard similarity from which two texts are near.
        seed: of the hash functions.

    Returns:
        The parts that are left, and how many rows went, by pair of splits; a row near both counts under test.
    """
    index = NearDuplicateIndex[tuple[Split, int]](threshold, seed)
    index.add(_keyed("test", parts["test"], texts))
    validation, from_validation = _apart("validation", parts["validation"], texts, index)
    index.add(_keyed("validation", validation, texts))
    train, from_train = _apart("train", parts["train"], texts, index)
    gone = {f"train/{side}": from_train[side] for side in ("test", "validation")}
    gone["validation/test"] = from_validation["test"]
    return {"train": train, "validation": validation, "test": parts["test"]}, gone


def _keyed(name: Split, rows: RowIndices, texts: FetchTexts) -> Iterator[tuple[tuple[Split, int], str]]:
    return zip(((name, int(row)) for row in rows), texts(rows), strict=True)


def _apart(
    name: Split, rows: RowIndices, texts: FetchTexts, index: NearDuplicateIndex[tuple[Split, int]]
) -> tuple[RowIndices, Counter[str]]:
    """The rows near none inside the index, and how many were near a row of which split."""
    kept, gone = np.ones(len(rows), dtype=bool), Counter[str]()
    for place, (_, others) in enumerate(index.query(_keyed(name, rows, texts))):
        if others:
            kept[place] = False
            gone["test" if any(side == "test" for side, _ in others) else "validation"] += 1
    return rows[kept], gone

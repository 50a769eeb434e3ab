"""Train, validation and test rows: the file's own split, a stratified draw or a fold; no near duplicates across splits.

Rows are indices here, from 0 in the order of the file. Where several rows share one text, texts are split, not rows.
"""

import hashlib
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from experts.errors import Fault
from moe.data.dedup import NearDuplicateIndex
from moe.data.splitting.settings import SPLITS, Split, SplitSettings

RowIndices = NDArray[np.int64]
SplitRows = dict[Split, RowIndices]
FetchTexts = Callable[[RowIndices], Iterator[str]]

_VALIDATION_SHARE = 0.1


def stratified_draw(
    labels: NDArray[np.integer], rows: RowIndices, count: int, *seed: int
) -> tuple[RowIndices, RowIndices]:
    """Draw exactly `count` rows so that every label is within one row of its share; both results are in file order.

    Rows are shuffled within their label; then every n-th of the rows sorted by label is drawn.

    Args:
        labels: label of every row of the file, -1 for none (N,).
        rows: rows to draw from (n,).
        count: number of rows to draw, at most n.
        seed: integers; the same ones draw the same rows.

    Returns:
        Rows drawn (count,) and rows left (n - count,).
    """
    shuffled = np.random.default_rng(seed).permutation(rows)
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    steps = (np.arange(len(ordered) + 1) * count + len(ordered) // 2) // max(1, len(ordered))
    drawn = np.diff(steps) > 0
    return np.sort(ordered[drawn]), np.sort(ordered[~drawn])


def number_texts(texts: Iterable[str]) -> NDArray[np.int64]:
    """Return a number for each text (N,), the same for texts that differ in letter case, white space or width only."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(text_digest(text), len(numbers)) for text in texts], dtype=np.int64)


def text_digest(text: str, seed: int = 0, purpose: str = "") -> bytes:
    """Return a 64-bit hash of a text without regard to letter case, white space and width."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(plain.encode(), digest_size=8, key=f"{purpose}{seed}".encode()).digest()


def split_texts(
    labels: NDArray[np.integer], own: NDArray[np.integer], texts: NDArray[np.int64], settings: SplitSettings
) -> tuple[SplitRows, int]:
    """Split all rows of a file so that the rows of one text are on one side.

    Texts are stratified by the labels of all their rows. If the file's own split puts the rows of one text on several
    sides, those on the side that is held out most stay, and the others are removed.

    Args:
        labels: label of every row, -1 for none (N,).
        own: the file's split of every row, -1 for none (N,).
        texts: number of every row's text (N,), see `number_texts`.
        settings: how to split.

    Returns:
        the rows of each split, and the number of removed rows.

    Raises:
        Fault: if there are fewer texts of every combination of labels than folds.
    """
    if not len(labels):
        return split_rows(labels, own, settings), 0
    side = np.maximum(own, 0)  # (N,), a row without a split is for training
    text_side = np.full(texts.max() + 1, -1)  # (U,), most held-out side of each text
    np.maximum.at(text_side, texts, side if (own >= 0).any() else own)
    combinations: dict[tuple[int, ...], int] = {}
    order = np.lexsort((labels, texts))
    by_text = np.split(labels[order], np.flatnonzero(np.diff(texts[order])) + 1)
    text_labels = np.array([combinations.setdefault(tuple(group.tolist()), len(combinations)) for group in by_text])
    splits = split_rows(text_labels, text_side, settings)
    by_file = settings.folds is None and settings.own and bool((own >= 0).any())
    usable = side == text_side[texts] if by_file else np.ones(len(labels), dtype=bool)  # (N,)
    rows: SplitRows = {name: np.flatnonzero(np.isin(texts, members) & usable) for name, members in splits.items()}
    return rows, int((~usable).sum())


def split_by_hash(texts: Iterable[str], settings: SplitSettings) -> SplitRows:
    """Split rows by a hash of their text and the seed, at random but alike in every file that has the text.

    Args:
        texts: text of every row.
        settings: ratios and seed.
    """
    train, *held_out = np.array(settings.ratios) / sum(settings.ratios)
    share = _VALIDATION_SHARE if len(held_out) == 1 else held_out[0] / (train + held_out[0])
    digests = [[text_digest(text, settings.seed, purpose) for purpose in ("test", "validation")] for text in texts]
    uniform = np.array([[int.from_bytes(digest) for digest in pair] for pair in digests], float).reshape(-1, 2)
    test, validation = (uniform / 2.0**64 < (held_out[-1], share)).T  # (N,) each
    sides = {"train": ~test & ~validation, "validation": ~test & validation, "test": test}
    return {name: np.flatnonzero(sides[name]) for name in SPLITS}


def split_rows(labels: NDArray[np.integer], own: NDArray[np.integer], settings: SplitSettings) -> SplitRows:
    """Split all rows of a file.

    If the file has its own split, rows without one are for training, and a missing validation is a tenth of train.

    Args:
        labels: label of every row, -1 for none (N,).
        own: the file's split of every row as an index into `SPLITS`, -1 for none (N,).
        settings: how to split.

    Raises:
        Fault: if there are fewer rows of every label than folds.
    """
    if settings.folds is not None:
        return _split_by_fold(labels, settings.folds, settings)
    if settings.own and (own >= 0).any():
        return _split_as_in_file(labels, own, settings)
    everything = np.arange(len(labels))
    train, *held_out = np.array(settings.ratios) / sum(settings.ratios)
    test, rest = stratified_draw(labels, everything, round(held_out[-1] * len(labels)), settings.seed, 0)
    share = _VALIDATION_SHARE if len(held_out) == 1 else held_out[0] / (train + held_out[0])
    validation, train_rows = stratified_draw(labels, rest, round(share * len(rest)), settings.seed, 1)
    return {"train": train_rows, "validation": validation, "test": test}


def _split_by_fold(labels: NDArray[np.integer], folds: int, settings: SplitSettings) -> SplitRows:
    from sklearn.model_selection import StratifiedKFold  # slow to import, and rarely needed

    largest = int(np.bincount(labels + 1).max(initial=0))
    if largest < folds:
        raise Fault(f"at least {folds} rows of some label for {folds} folds", f"at most {largest}", "lower split.folds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label with fewer rows than folds is missing in some folds
        all_folds = list(StratifiedKFold(folds, shuffle=True, random_state=settings.seed).split(labels, labels))
    rest, test = all_folds[settings.fold]
    validation, train = stratified_draw(labels, rest, round(_VALIDATION_SHARE * len(rest)), settings.seed, 1)
    return {"train": train, "validation": validation, "test": test}


def _split_as_in_file(labels: NDArray[np.integer], own: NDArray[np.integer], settings: SplitSettings) -> SplitRows:
    train, validation, test = (np.flatnonzero(own == code) for code in range(len(SPLITS)))
    train = np.union1d(train, np.flatnonzero(own < 0))
    if settings.validation_as_test and not len(test):
        validation, test = test, validation
    if not len(validation):
        validation, train = stratified_draw(labels, train, round(_VALIDATION_SHARE * len(train)), settings.seed, 1)
    return {"train": train, "validation": validation, "test": test}


def remove_cross_split_duplicates(
    splits: SplitRows, texts: FetchTexts, threshold: float, seed: int, *, keep: Split = "test"
) -> tuple[SplitRows, dict[str, int]]:
    """Remove rows that are near a text of another split, so that no two splits have near duplicates.

    By default, held-out rows stay: train rows near a held-out text are removed, and validation rows near a test text.
    With `keep="train"`, for splits by time, the earlier text stays: validation rows near a train text are removed, and
    test rows near one of both. Near duplicates within a split stay.

    Args:
        splits: rows by split.
        texts: returns the texts of rows, in their order.
        threshold: Jaccard similarity from which two texts are near duplicates.
        seed: of the hash functions.
        keep: the split that loses no rows, `test` or `train`.

    Returns:
        The remaining rows, and the number of removed rows by pair of splits, the one that loses them first; a row near
        both other splits is counted under the kept one.
    """
    last: Split = "train" if keep == "test" else "test"
    index = NearDuplicateIndex[tuple[Split, int]](threshold, seed)
    index.add(_with_keys(keep, splits[keep], texts))
    validation, from_validation = _remove_near("validation", splits["validation"], texts, index, keep)
    index.add(_with_keys("validation", validation, texts))
    rest, from_last = _remove_near(last, splits[last], texts, index, keep)
    removed = {f"{last}/{split}": from_last[split] for split in (keep, "validation")}
    removed[f"validation/{keep}"] = from_validation[keep]
    remaining = {keep: splits[keep], "validation": validation, last: rest}
    return {name: remaining[name] for name in SPLITS}, removed


def _with_keys(name: Split, rows: RowIndices, texts: FetchTexts) -> Iterator[tuple[tuple[Split, int], str]]:
    return zip(((name, int(row)) for row in rows), texts(rows), strict=True)


def _remove_near(
    name: Split, rows: RowIndices, texts: FetchTexts, index: NearDuplicateIndex[tuple[Split, int]], keep: Split
) -> tuple[RowIndices, Counter[str]]:
    """Rows that are near no text in the index, and the number of removed rows by the split they were near to."""
    retained, removed = np.ones(len(rows), dtype=bool), Counter[str]()
    for position, (_, matches) in enumerate(index.query(_with_keys(name, rows, texts))):
        if matches:
            retained[position] = False
            removed[keep if any(split == keep for split, _ in matches) else "validation"] += 1
    return rows[retained], removed

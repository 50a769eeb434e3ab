"""Texts without labels: they train the router to recognize their domain, and nothing else."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from experts.errors import Fault
from moe.data.formats.readers import read_texts
from moe.data.ingest import FEATURES
from moe.data.schema import ORIGINAL

NO_LABEL = -1


def read_unlabelled(paths: Sequence[Path], domain: str, task: str, max_rows: int, seed: int) -> Dataset:
    """Read texts of a domain as training rows without label and score.

    Unreadable records are skipped, and equal texts are one row.

    Args:
        paths: files in any format that `read_texts` reads.
        task: a task of the domain, which the rows are listed under.
        max_rows: most rows, a random sample in file order.
        seed: of the sample.

    Returns:
        rows with the columns of prepared rows.

    Raises:
        Fault: if a file cannot be read, or holds no text.
    """
    texts: dict[str, tuple[str, int]] = {}
    for path in paths:
        before = len(texts)
        for record in read_texts(path):
            if not record.error:
                texts.setdefault(str(record.values["text"]), (path.stem, record.line))
        if len(texts) == before:
            raise Fault(f"texts of the domain {domain} in {path}", "none", "use another file, or remove it")
    names = list(texts)
    if len(names) > max_rows:
        chosen = np.random.default_rng(seed).choice(len(names), max_rows, replace=False)
        names = [names[i] for i in np.sort(chosen)]
    rows = [
        dict.fromkeys(FEATURES)
        | {"id": f"{texts[text][0]}-{texts[text][1]}", "text": text, "line": texts[text][1], "label": NO_LABEL}
        | {"task": task, "domain": domain, "origin": ORIGINAL, "choices": []}
        for text in names
    ]
    return Dataset.from_list(rows, features=FEATURES)

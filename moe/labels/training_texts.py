"""Which texts a model was trained on, as far as the folder of its run stores them."""

from collections.abc import Sequence

import numpy as np

from experts.errors import Fault
from experts.reused import read_sealed_json
from moe.data.prepare import load_prepared
from moe.data.splitting.splits import text_digest
from moe.data.task_reports import PREPARED
from moe.runs.layout import DATA
from moe.runs.model_ref import ModelRef


def find_trained_texts(ref: ModelRef, texts: Sequence[str]) -> np.ndarray | None:
    """Return which texts (N) are training texts of the run that a model belongs to, (N,) bool.

    A text counts without regard to letter case, white space and width. A run's folder holds the rows of all its tasks.

    Args:
        ref: a mixture in the folder of its run, or an expert in `experts/`.
        texts: of any origin.

    Returns:
        None if there are no prepared rows near the model: it was moved, downloaded, or is the ready mixture.
    """
    folders = [
        path.parent
        for parent in list(ref.folder.resolve().parents)[:2]
        for path in parent.glob(f"{DATA}/*/*/{PREPARED}")
    ]
    trained: set[bytes] = set()
    known = False
    for folder in folders:
        try:
            key = read_sealed_json(folder / PREPARED)["key"]
        except (Fault, OSError, LookupError, TypeError, ValueError):
            continue
        if isinstance(key, dict) and (prepared := load_prepared(folder, key)) is not None:
            known = True
            trained |= {text_digest(text) for text in prepared.splits["train"]["text"]}
    return np.array([text_digest(text) in trained for text in texts], dtype=bool) if known else None

"""Fewer rows of some domains: a sample that is drawn alike every time.

Why they are fewer is told where it is called.
"""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from moe.data.collator import column


def thinned(rows: Dataset, most: int, seed: int, whole: Sequence[str] = ()) -> Dataset:
    """At most so many rows of each domain, in their order.

    Args:
        whole: domains whose rows are all kept.
    """
    domains, random = column(rows, "domain").to_numpy(zero_copy_only=False), np.random.default_rng(seed)
    kept = [np.arange(0)]
    for name in dict.fromkeys(domains.tolist()):
        places = np.flatnonzero(domains == name)
        kept.append(places if name in whole or len(places) <= most else random.choice(places, most, replace=False))
    return rows.select(np.sort(np.concatenate(kept)).tolist())

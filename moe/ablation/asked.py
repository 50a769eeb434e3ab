"""The trained mixture as a row asks it: without experts, with equal gates, or merged for good.

Which rows there are is `moe.ablation.variants`'.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from moe.ablation.variants import Answered
from moe.export.selection import own_update, together
from moe.model.mixture import Mixture


@contextmanager
def asked_as(mixture: Mixture, row: Answered) -> Iterator[None]:
    """Let a mixture answer as a row says while it lasts.

    A merged row keeps equal gates for heads that are each expert's own; in the layers the merged update stands alone.
    """
    with mixture.restricted(row.without, row.alike):
        if row.merge is None:
            yield
            return
        with mixture.bank.replaced(own_update(mixture, together(mixture, row.merge, None))):
            yield

"""Numbers that give an outcome away: what was written into the log only after it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shopcast_build.data.report import Suspicion
from shopcast_build.learning.evaluation import Mask
from shopcast_build.learning.examples import Examples
from shopcast_domain.events import Outcome
from shopcast_domain.features import FEATURES

_ENOUGH = 50
_PURE = 0.95
_SHARE_TOLD = 0.2


def giveaways(examples: Examples, platforms: Sequence[str]) -> list[Suspicion]:
    """Platforms where one number tells many purchases from views, or returns from what was kept.

    Where a refund sets the price to zero, or a return is taken off the quantity, of the order that
    is in the log, the order that is being placed has neither: nothing of it is there in serving.
    """
    bought = examples.outcome != Outcome.VIEW
    asked = (
        ("ended in a purchase", bought, ~examples.at_orders),
        ("were sent back", examples.outcome == Outcome.RETURN, bought),
    )
    found = []
    for code, name in enumerate(platforms):
        for what, hit, among in asked:
            rows = among & (examples.platform == code)
            hits, size = int(hit[rows].sum()), int(rows.sum())
            if hits < _ENOUGH or 2 * hits > size:  # where most do, much tells most of them
                continue
            told = [_told(values, hit[rows]) for values in examples.features[rows].T]
            best = int(np.argmax(told))
            if told[best] < max(_ENOUGH, _SHARE_TOLD * hits):
                continue
            found.append(
                Suspicion(
                    "a number that gives the outcome away",
                    name,
                    told[best],
                    hits,
                    f"On {name} the number '{FEATURES[best]}' alone tells {told[best]:,} of the"
                    f" {hits:,} training exposures that {what}: if it is written or changed by"
                    " that, the model looks better than it is.",
                    "Give each event once, and as it was at its time: the price then paid, the"
                    " pieces then ordered.",
                )
            )
    return found


def _told(values: NDArray[np.float32], hit: Mask) -> int:
    """Hits among those whose value is below, above or equal to one that next to only hits have."""
    order = np.argsort(values)
    ends = np.flatnonzero(np.diff(values[order], append=np.inf))
    hits = np.cumsum(hit[order])[ends]
    count = ends + 1
    above = (hits[-1] - hits[:-1], count[-1] - count[:-1])
    alone = (np.diff(hits, prepend=0), np.diff(count, prepend=0))
    sides = [int(some[some >= _PURE * of].max(initial=0)) for some, of in ((hits, count), above)]
    some, of = alone
    return max(*sides, int(some[(some >= _PURE * of) & (some >= _ENOUGH)].sum()))

"""The people of a log, and links that only an outcome makes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shopcast_build.data.log import CleanLog
from shopcast_build.data.people import People, read_links, resolve_people
from shopcast_build.data.report import CleaningReport, Suspicion

TELLING_LINKS = "links that an outcome makes"
"""The name of what is suspicious of them."""
_ENOUGH_ACCOUNTS = 100
_SHARE_APART = 0.5


def find_people(log: CleanLog, links: Path | None) -> tuple[People, CleaningReport]:
    """The people of a log, and the report of the log with what is suspicious of their links.

    Raises DataError for links that cannot be read.
    """
    people = resolve_people(log.accounts, read_links(links) if links else None)
    of_links = (*people.report.suspicious, *telling_links(log, people))
    return people, replace(log.report, suspicious=(*log.report.suspicious, *of_links))


def telling_links(log: CleanLog, people: People) -> list[Suspicion]:
    """Platforms where accounts of several come to an outcome, and lone ones do not.

    Links have no times. Where a visitor is linked with a customer because of a purchase, whoever
    has a past elsewhere is one that will buy.
    """
    if people.count == len(people.person):
        return []  # nobody is linked
    linked = np.bincount(people.person, minlength=people.count)[people.person] > 1
    seen = log.events.lazy().select("account", "kind").unique().collect()

    def did(*kinds: str) -> NDArray[np.bool_]:
        found = np.zeros(len(linked), np.bool_)
        found[seen.filter(pl.col("kind").is_in(list(kinds)))["account"].to_numpy()] = True
        return found

    looked, bought, returned = did("view", "cart"), did("buy"), did("return")
    found = []
    for code, name in enumerate(log.platforms):
        here = (log.accounts["platform"] == name).to_numpy()
        cases = [(bought, returned, "sent something back")]
        if code in log.browsed:
            cases.insert(0, (looked, bought, "bought something"))
        for asked, came, what in cases:
            joined, alone = (here & asked & side for side in (linked, ~linked))
            if min(joined.sum(), alone.sum()) < _ENOUGH_ACCOUNTS:
                continue
            shares = came[joined].mean(), came[alone].mean()
            if shares[0] - shares[1] < _SHARE_APART:
                continue
            found.append(
                Suspicion(
                    TELLING_LINKS,
                    name,
                    int(joined.sum()),
                    int(joined.sum() + alone.sum()),
                    f"On {name} {shares[0]:.0%} of the accounts that are linked to others {what},"
                    f" of the rest {shares[1]:.0%}: if that is what they were linked by, links give"
                    " it away, and the model looks better than it is.",
                    "Link accounts by what is known before, or leave those links out.",
                )
            )
    return found

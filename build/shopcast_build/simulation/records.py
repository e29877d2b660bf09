"""What a block leaves behind: rows of the event logs, of the links and of the truth."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shopcast_build.simulation.catalogue import DAY_S, Catalogue
from shopcast_build.simulation.identities import Links
from shopcast_build.simulation.people import Accounts
from shopcast_build.simulation.platforms import PLATFORMS
from shopcast_build.simulation.products import Floats, Ints
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.shopping import Exposures
from shopcast_build.simulation.vocabulary import CATEGORIES
from shopcast_domain.events import EventKind, Outcome

CURRENCY = "EUR"
EVENT_COLUMNS: tuple[str, ...] = (
    "event_id", "platform", "platform_user_id", "time", "kind", "item_id", "title", "brand",
    "category", "price", "currency", "quantity",
)  # fmt: skip
LINK_COLUMNS: tuple[str, ...] = (
    "platform", "platform_user_id", "identifier_kind", "identifier_hash",
)  # fmt: skip


def _words(index: Ints, words: Sequence[str]) -> pl.Series:
    """words[index], as strings."""
    return pl.Series(words, dtype=pl.String).gather(pl.Series(index))


def _iso(settings: MarketSettings, time_s: Floats) -> pl.Series:
    """Seconds after the start of the period as 2026-03-01T09:15:02Z."""
    start_s = np.datetime64(settings.start, "s").astype(np.int64)
    seconds = pl.Series(start_s + np.floor(time_s).astype(np.int64))
    return pl.from_epoch(seconds, time_unit="s").dt.strftime("%Y-%m-%dT%H:%M:%SZ")


def record_events(
    settings: MarketSettings,
    catalogue: Catalogue,
    accounts: Accounts,
    exposures: Exposures,
    block: int,
) -> tuple[pl.DataFrame, pl.Series]:
    """The block's events by platform, then time, with EVENT_COLUMNS.

    What would happen after the period is not in the log.
    Returns the events and the event id of each exposure's view, (exposures,).
    """
    n = len(exposures.item)
    happened = {
        EventKind.VIEW: (np.ones(n, dtype=bool), exposures.time_s),
        EventKind.CART: (exposures.carted, exposures.cart_s),
        EventKind.BUY: (exposures.bought, exposures.buy_s),
        EventKind.RETURN: (exposures.sent_back, exposures.return_s),
    }
    rows = {
        kind: np.flatnonzero(mask & (time_s < settings.days * DAY_S))
        for kind, (mask, time_s) in happened.items()
    }
    source = np.concatenate(list(rows.values()))
    time_s = np.concatenate([happened[kind][1][index] for kind, index in rows.items()])
    kind = np.repeat([int(kind) for kind in rows], [len(index) for index in rows.values()])
    platform = accounts.platform[exposures.account[source]]
    order = np.lexsort((source, kind, time_s, platform))
    source, time_s, kind, platform = (a[order] for a in (source, time_s, kind, platform))

    starts = np.searchsorted(platform, np.arange(settings.platforms))
    number = pl.Series(np.arange(len(source)) - starts[platform])
    event_id = f"{block:05d}-" + number.cast(pl.String)
    views = np.empty(n, dtype=np.int64)  # every view is within the period
    views[source[kind == EventKind.VIEW]] = np.flatnonzero(kind == EventKind.VIEW)

    several = (kind != EventKind.VIEW) & (exposures.quantity[source] > 1)
    events = catalogue.table[exposures.item[source]].with_columns(
        event_id=event_id,
        platform_user_id=_words(exposures.account[source], accounts.user_id),
        time=_iso(settings, time_s),
        kind=_words(kind, [kind.name.lower() for kind in EventKind]),
        currency=pl.lit(CURRENCY),
        quantity=pl.Series(np.where(several, exposures.quantity[source], 1)),
    )
    return events.select(EVENT_COLUMNS), event_id.gather(pl.Series(views))


def record_links(accounts: Accounts, links: Links) -> pl.DataFrame:
    """The identifiers a block registered, with LINK_COLUMNS."""
    account = np.array(links.account, dtype=np.int64)
    return pl.DataFrame(
        {
            "platform": _words(accounts.platform[account], [p.name for p in PLATFORMS]),
            "platform_user_id": _words(account, accounts.user_id),
            "identifier_kind": pl.Series(links.kind, dtype=pl.String),
            "identifier_hash": pl.Series(links.digest, dtype=pl.String),
        }
    ).select(LINK_COLUMNS)


def outcomes_of(exposures: Exposures) -> NDArray[np.int64]:
    """The Outcome of each exposure, whether or not the period saw the end of it."""
    return np.select(
        [exposures.sent_back, exposures.bought], [Outcome.RETURN, Outcome.BUY], Outcome.VIEW
    ).astype(np.int64)


def record_exposures(
    settings: MarketSettings,
    catalogue: Catalogue,
    accounts: Accounts,
    exposures: Exposures,
    first_person: int,
    event_id: pl.Series,
) -> pl.DataFrame:
    """The truth about a block's exposures: probabilities and what came of each."""
    item = catalogue.table.select("platform", "item_id")[exposures.item]
    return pl.DataFrame(
        {
            "person": first_person + accounts.person[exposures.account],
            "platform": item["platform"],
            "platform_user_id": _words(exposures.account, accounts.user_id),
            "event_id": event_id,
            "need": exposures.need,
            "time": _iso(settings, exposures.time_s),
            "item_id": item["item_id"],
            "p_view": 1 - exposures.buy,
            "p_buy": exposures.buy * (1 - exposures.returned),
            "p_return": exposures.buy * exposures.returned,
            "outcome": _words(outcomes_of(exposures), [o.name.lower() for o in Outcome]),
        }
    )


def record_people(accounts: Accounts, links: Links, first_person: int) -> pl.DataFrame:
    """The truth about a block's accounts: whose they are, and their traits."""
    tastes = {
        f"taste_{c.nouns[0].replace(' ', '_').replace('-', '_')}": accounts.taste[:, index]
        for index, c in enumerate(CATEGORIES)
    }
    axes = ("natural", "bold", "modern")
    return pl.DataFrame(
        {
            "person": first_person + accounts.person,
            "platform": _words(accounts.platform, [p.name for p in PLATFORMS]),
            "platform_user_id": accounts.user_id,
            "link": links.truth,
            "activity": accounts.activity,
            "budget": accounts.budget,
            "habit_h": accounts.habit_h,
            "keenness": accounts.keenness,
            "return_proneness": accounts.return_proneness,
            "cools_everywhere": accounts.cools_everywhere,
            **{f"wish_{axis}": accounts.wish[:, i] for i, axis in enumerate(axes)},
            **tastes,
        }
    )

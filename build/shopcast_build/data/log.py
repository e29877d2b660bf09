"""A clean log: narrow columns of codes, and the tables the codes point into."""

from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from shopcast_build.data.report import CleaningReport

NAMED = (
    "event_id",
    "platform",
    "user",
    "time",
    "kind",
    "item_id",
    "title",
    "brand",
    "category",
    "price",
    "quantity",
)


@dataclass(frozen=True, slots=True)
class CleanLog:
    """A log ready to learn from; the same whatever the order of rows and files was.

    events: staging.EVENTS (time, platform, account, kind, item, price, quantity; 31 bytes a row,
    most of them in files), sorted by (time, account, kind, item, quantity, price). platform: index
    into `platforms`, sorted names. account: row of `accounts` (platform, user), sorted. item: row
    of `items` (items.ITEMS), sorted by (platform, item_id). Every account and item has an event.
    browsed: the platforms, by code, where people are asked about as they look at items
    (leads.Leads). event_ids: of every event, or None unless they were asked for.
    User ids and event ids are personal: they stay in memory, and only importing needs them.
    """

    events: pl.DataFrame = field(repr=False)
    platforms: tuple[str, ...]
    accounts: pl.DataFrame = field(repr=False)
    items: pl.DataFrame = field(repr=False)
    report: CleaningReport
    browsed: tuple[int, ...]
    event_ids: pl.Series | None = field(repr=False, default=None)

    @property
    def ends(self) -> tuple[datetime, ...]:
        """The time of each platform's last event, by code."""
        last = {one.platform: one.last_time for one in self.report.by_platform if one.last_time}
        return tuple(last[name] for name in self.platforms)

    def named(self, start: int = 0, length: int | None = None) -> pl.DataFrame:
        """A stretch of the events with names in place of codes: NAMED.

        Titles, brands and categories are those of the items. event_id is null where ids were not
        asked for.
        """
        events = self.events.slice(start, length)
        users = self.accounts["user"].gather(events["account"])
        ids = None if self.event_ids is None else self.event_ids.slice(start, length)
        described = self.items.select("platform", "item_id", "title", "brand", "category")[
            events["item"]
        ]
        return events.select(
            pl.lit(None, pl.String).alias("event_id") if ids is None else ids.alias("event_id"),
            users.alias("user"),
            *described.get_columns(),
            "time",
            "kind",
            "price",
            "quantity",
        ).select(NAMED)

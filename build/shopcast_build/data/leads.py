"""Purchases beside the views and carts that led to them: where a platform is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from shopcast_build.data.report import Suspicion
from shopcast_build.data.staging import PART_ROWS

PURCHASE_HORIZON = timedelta(days=1)
_PAIR = ("account", "item")
_ENOUGH = 10
_UNLED_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Leads:
    """One platform. views: views and carts. unled: buys that no view or cart of the same account
    and item precedes within the horizon."""

    platform: str
    views: int
    buys: int
    unled: int

    @property
    def browsed(self) -> bool:
        """Whether people are asked about as they look at items, since that leads to half of the
        purchases or more; else they are asked about as they order. Never both: what tells a view
        from an order would tell the outcome."""
        return self.views > 0 and 2 * self.unled <= self.buys


def count_leads(
    events: pl.DataFrame, platforms: Sequence[str], horizon: timedelta
) -> tuple[Leads, ...]:
    """One for each platform, in order. events: staging.EVENTS. Some accounts at a time."""
    parts = max(1, -(-len(events) // PART_ROWS))
    counts = (
        pl.concat([_counted(events, part, parts, horizon) for part in range(parts)])
        .group_by("platform")
        .sum()
        .sort("platform")
    )
    return tuple(Leads(platforms[code], *numbers) for code, *numbers in counts.iter_rows())


def unled(
    rows: pl.DataFrame, leaders: pl.DataFrame, pair: Sequence[str], horizon: timedelta
) -> pl.DataFrame:
    """The rows that no leader of the same pair precedes within the horizon. Both by time."""
    marks = leaders.select(*pair, "time", pl.lit(True).alias("led"))
    beside = rows.join_asof(
        marks,
        on="time",
        by=pair,
        strategy="backward",
        tolerance=horizon,
        check_sortedness=False,
    )
    return beside.filter(pl.col("led").is_null()).drop("led")


def suspicious_leads(leads: Sequence[Leads], horizon: timedelta) -> list[Suspicion]:
    """Platforms whose views say little of their purchases."""
    found = []
    hours = horizon.total_seconds() / 3600
    for one in leads:
        if not one.views or one.unled < _ENOUGH or one.unled <= _UNLED_SHARE * one.buys:
            continue
        fate = (
            "these are left out of what is learned and judged"
            if one.browsed
            else "so its orders are learned and judged, and its views are history only"
        )
        found.append(
            Suspicion(
                "purchases without a view",
                one.platform,
                one.unled,
                one.buys,
                f"{one.unled / one.buys:.0%} of the purchases of {one.platform} follow no view or"
                f" cart of that item by that account within {hours:g} h: {fate}.",
                "Check that views and purchases name accounts and items alike; make what records no"
                " views (a till, an app) a platform of its own.",
            )
        )
    return found


def _counted(events: pl.DataFrame, part: int, parts: int, horizon: timedelta) -> pl.DataFrame:
    """Of a part of the accounts: platform, views, buys, unled."""
    rows = (
        events.lazy()
        .filter(pl.col("account") % parts == part)
        .select("platform", *_PAIR, "time", "kind")
        .collect()
    )
    looks = rows.filter(pl.col("kind").is_in(["view", "cart"]))
    bought = rows.filter(pl.col("kind") == "buy")
    alone = unled(bought, looks, _PAIR, horizon)
    count = rows.select("platform").unique()
    for name, some in (("views", looks), ("buys", bought), ("unled", alone)):
        own = some.group_by("platform").len(name)
        count = count.join(own, on="platform", how="left")
    return count.with_columns(pl.exclude("platform").fill_null(0).cast(pl.Int64))

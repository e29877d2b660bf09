"""A clean log in numbers, platform by platform."""

from collections.abc import Iterable
from typing import Any

import polars as pl

from shopcast_build.data.leads import Leads
from shopcast_build.data.notes import DROPPED, REPAIRED, Notes
from shopcast_build.data.report import PlatformReport


def platform_reports(
    events: pl.DataFrame,
    platforms: tuple[str, ...],
    notes: Notes,
    duplicates: dict[str, int],
    currencies: pl.DataFrame,
    leads: Iterable[Leads],
) -> tuple[PlatformReport, ...]:
    """One report for each platform that a row names. events: staging.EVENTS; duplicates: by
    platform; currencies: columns platform, currency, rows."""
    leads_of = {one.platform: one for one in leads}
    month = pl.col("time").dt.year() * 100 + pl.col("time").dt.month()
    by = {
        "kinds": _counted(events, pl.col("kind").cast(pl.String), platforms),
        "months": _counted(events, month, platforms),
        "hours": _counted(events, pl.col("time").dt.hour(), platforms),
    }
    spans = {
        platforms[code]: (n, first, last)
        for code, n, first, last in events.group_by("platform")
        .agg(pl.len(), pl.col("time").min(), pl.col("time").max().alias("last"))
        .iter_rows()
    }
    unique = {
        name: {
            platforms[code]: n
            for code, n in events.lazy()
            .select("platform", name)
            .unique()
            .group_by("platform")
            .len()
            .collect(engine="streaming")
            .iter_rows()
        }
        for name in ("account", "item")
    }
    reports = []
    for name in sorted({*platforms, *notes.table()["platform"]}):
        kept, first, last = spans.get(name, (0, None, None))
        dropped = notes.rows(*DROPPED, platform=name)
        own = currencies.filter(pl.col("platform") == name).drop_nulls("currency")
        hours = by["hours"].get(name, {})
        led = leads_of.get(name, Leads(name, 0, 0, 0))
        reports.append(
            PlatformReport(
                platform=name,
                read=kept + duplicates.get(name, 0) + sum(dropped.values()),
                kept=kept,
                duplicates=duplicates.get(name, 0),
                dropped=dropped,
                repaired=notes.rows(REPAIRED, platform=name),
                kinds=by["kinds"].get(name, {}),
                accounts=unique["account"].get(name, 0),
                items=unique["item"].get(name, 0),
                currencies=dict(own.select("currency", "rows").sort("currency").iter_rows()),
                months={
                    f"{at // 100}-{at % 100:02}": n for at, n in by["months"].get(name, {}).items()
                },
                hours=tuple(hours.get(hour, 0) for hour in range(24)),
                first_time=first,
                last_time=last,
                browsed=led.browsed,
                unled=led.unled,
            )
        )
    return tuple(reports)


def _counted(
    events: pl.DataFrame, what: pl.Expr, platforms: Iterable[str]
) -> dict[str, dict[Any, int]]:
    counts = (
        events.lazy()
        .select("platform", what.alias("what"))
        .group_by("platform", "what")
        .len()
        .sort("platform", "what")
        .collect(engine="streaming")
    )
    names = tuple(platforms)
    found: dict[str, dict[Any, int]] = {}
    for code, value, n in counts.iter_rows():
        found.setdefault(names[code], {})[value] = n
    return found

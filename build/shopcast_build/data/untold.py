"""Kinds of events that tell less of their items than others do."""

import polars as pl

from shopcast_build.data.report import Suspicion
from shopcast_build.data.staging import TOLD

_ENOUGH_EVENTS = 100
_SHARE_APART = 0.5


def untold(told: pl.DataFrame, items: pl.DataFrame) -> list[Suspicion]:
    """Platforms where a kind of event tells something of its items that another kind leaves out.

    told: as Staging.told has it. items: items.ITEMS. Returns are of items that were bought.
    """
    asked = told.filter(pl.col("kind").cast(pl.String) != "return")
    platform = items["platform"].gather(asked["item"]).alias("platform")
    counts = (
        asked.with_columns(platform, pl.col("kind").cast(pl.String))
        .group_by("platform", "kind")
        .agg(pl.col("events", *(f"{name}_told" for name in TOLD)).sum())
        .filter(pl.col("events") >= _ENOUGH_EVENTS)
        .sort("platform", "kind")
    )
    found = []
    for (name,), own in counts.group_by("platform", maintain_order=True):
        for what in TOLD:
            shares = own.select("kind", "events", share=pl.col(f"{what}_told") / pl.col("events"))
            least, most = (shares.sort("share").row(at, named=True) for at in (0, -1))
            if most["share"] - least["share"] < _SHARE_APART:
                continue
            rows = round(least["events"] * (1 - least["share"]))
            found.append(
                Suspicion(
                    f"events without a {what}",
                    str(name),
                    rows,
                    least["events"],
                    f"On {name} {least['share']:.0%} of the {least['kind']} events tell a {what},"
                    f" of the {most['kind']} events {most['share']:.0%}: an item has it only from"
                    " when an event first told it.",
                    f"Give every event the {what} of its item, from the shop's catalogue.",
                )
            )
    return found

"""Returns beside their purchases: what a wrong time zone does to them."""

import math
from dataclasses import dataclass, field

import polars as pl

from shopcast_build.data.report import Suspicion
from shopcast_build.data.staging import PART_ROWS

EARLY_H = (0.25, 26.0)
"""No two clocks on Earth are further apart, and none by less than a quarter of an hour: a return
minutes before its purchase is an invoice that was written anew."""
_ENOUGH = 10
_EARLY_SHARE = 0.02
_UNKNOWN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class JudgedReturns:
    """Returns by platform name.

    returns, unknown (no purchase of that account and item in the log), single (just one). early_h:
    by how many hours a return precedes its only purchase, where clocks could be that far apart.
    """

    returns: dict[str, int]
    unknown: dict[str, int]
    single: dict[str, int]
    early_h: dict[str, pl.Series] = field(repr=False)

    @property
    def early(self) -> int:
        """Early returns of all platforms."""
        return sum(len(hours) for hours in self.early_h.values())


def judge_returns(events: pl.DataFrame, platforms: tuple[str, ...]) -> JudgedReturns:
    """Look for the purchases of returns. events: staging.EVENTS."""
    parts = max(1, -(-len(events) // PART_ROWS))
    rows = pl.concat([_matched(events, part, parts) for part in range(parts)])
    returns, unknown, single, early = {}, {}, {}, {}
    for (code,), own in sorted(rows.group_by("platform")):
        name = platforms[int(str(code))]
        once = own.filter(pl.col("buys") == 1)["late_h"]
        returns[name], unknown[name], single[name] = len(own), own["buys"].null_count(), len(once)
        early[name] = once.filter(once.is_between(*EARLY_H, closed="right")).sort()
    return JudgedReturns(returns, unknown, single, early)


def early_returns(judged: JudgedReturns) -> list[Suspicion]:
    """Platforms with returns that precede their purchases by hours, and the shift that would fix
    it."""
    found = []
    for platform, hours in judged.early_h.items():
        of = judged.single[platform]
        if len(hours) < _ENOUGH or len(hours) < _EARLY_SHARE * of:
            continue
        shift = math.ceil(round(float(hours.quantile(0.95, "nearest") or 0.0), 3))
        found.append(
            Suspicion(
                "returns before their purchases",
                platform,
                len(hours),
                of,
                f"{len(hours) / of:.0%} of the returns of {platform} come within hours before their"
                f" only purchase; reading returns {shift} h later, or purchases {shift} h earlier,"
                " would put them in order.",
                "Check the time zone of each source in the mapping ([time] zone).",
            )
        )
    return found


def unknown_purchases(judged: JudgedReturns) -> list[Suspicion]:
    """Platforms most of whose returns have no purchase in the log."""
    return [
        Suspicion(
            "returns without a purchase",
            platform,
            judged.unknown[platform],
            n,
            f"{judged.unknown[platform] / n:.0%} of the returns of {platform} have no purchase of"
            " that item by that account in the log.",
            "Check that purchases and returns name accounts and items alike, and that the log"
            " reaches back far enough.",
        )
        for platform, n in judged.returns.items()
        if n >= _ENOUGH and judged.unknown[platform] > _UNKNOWN_SHARE * n
    ]


def _matched(events: pl.DataFrame, part: int, parts: int) -> pl.DataFrame:
    """Returns of a part of the accounts: platform; buys, null for none; late_h, hours from the
    return to the first purchase."""
    rows = events.lazy().filter(pl.col("account") % parts == part)
    pair = ("account", "item")
    returns = rows.filter(pl.col("kind") == "return").select("platform", *pair, "time")
    bought = (
        rows.filter(pl.col("kind") == "buy")
        .join(returns, on=pair, how="semi")
        .group_by(pair)
        .agg(pl.len().alias("buys"), pl.col("time").min().alias("bought"))
    )
    late = (pl.col("bought") - pl.col("time")).dt.total_microseconds() / 3.6e9
    return (
        returns.join(bought, on=pair, how="left")
        .select("platform", "buys", late.alias("late_h"))
        .collect()
    )

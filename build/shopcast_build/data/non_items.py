"""Codes that stand for postage, fees or tests rather than for something to sell."""

import json
import re
from collections.abc import Sequence

import polars as pl

from shopcast_build.data.report import Suspicion

_ID = (
    r"(?i)^(post(age)?|dot(com)?|carriage|ship(ping)?|deliver(y)?|freight|fees?|bank[ _-]?charges?"
    r"|amazon[ _-]?fee|commission|adjust(ment)?\d*|correction|manual|discount|voucher|coupon|refund"
    r"|deposit|donation|cruk|pads|samples?|test\d*|dummy|gift[ _-]?(card|voucher).*|gift_\d+.*"
    r"|[a-z]\d?)$"
)
_TITLE = (
    r"(?i)\b(postage|carriage|shipping|freight|delivery (charge|cost|fee)s?|(bank|service) charges?"
    r"|fees?|commission|discount|adjust(ment)?|voucher|gift ?card|manual|bad debt|donation"
    r"|test (product|item|article)|this is a test)\b"
)
_NUMBERED = r"(?i)^([a-z])\d+$"
_NUMBERING = 20
_SPREAD = 20.0
_ENOUGH_PRICES = 10
_FLAGGED = 2
_MOST = 0.2  # of the items; a shop with more of them numbers its items so
_EXAMPLES = 5


def non_items(items: pl.DataFrame, item_column: str) -> list[Suspicion]:
    """Items that look like none, by platform, with a drop rule for them. items: items.ITEMS.

    A telling id is enough; else the title and prices that are all over the place, together.
    """
    spread = (pl.col("events") >= _ENOUGH_PRICES) & (
        pl.col("high_price") >= _SPREAD * pl.col("low_price").clip(lower_bound=0.01)
    )
    signs = (
        _FLAGGED * _odd("platform").cast(pl.Int8)
        + pl.col("title").str.contains(_TITLE).fill_null(False).cast(pl.Int8)
        + spread.fill_null(False).cast(pl.Int8)
    )
    flagged = items.filter(signs >= _FLAGGED).sort("events", "item_id", descending=[True, False])
    found = []
    for (platform,), own in sorted(flagged.group_by("platform", maintain_order=True)):
        every = items.filter(pl.col("platform") == platform)
        if len(own) > _MOST * len(every):
            continue
        shown = own.head(_EXAMPLES).select("item_id", "title", "events").iter_rows()
        found.append(
            Suspicion(
                "codes that look like no items",
                str(platform),
                int(own["events"].sum()),
                int(every["events"].sum()),
                f"{len(own):,} of the {len(every):,} item ids of {platform} look like postage, fees"
                " or tests.",
                f"If they are, leave them out: {drop_rule(own['item_id'].to_list(), item_column)}",
                tuple(f"{item_id} ({title or 'no title'}): {n:,}" for item_id, title, n in shown),
            )
        )
    return found


def ids_like_none(item_ids: pl.Series) -> list[str]:
    """Those of the distinct item ids that look like postage, fees or tests; none of them where many
    look so."""
    ids = item_ids.to_frame("item_id")
    found: list[str] = ids.filter(_odd()).sort("item_id")["item_id"].to_list()
    return found if len(found) <= _MOST * len(item_ids) else []


def _odd(*scope: str) -> pl.Expr:
    """Whether an item_id looks like none. M and C2 do, but not where a shop numbers its items so.
    scope: columns within which ids are of one shop."""
    letter = pl.col("item_id").str.extract(_NUMBERED).str.to_lowercase()
    numbering = letter.is_not_null() & (pl.len().over(letter, *scope) >= _NUMBERING)
    return pl.col("item_id").str.contains(_ID) & ~numbering


def ids_pattern(item_ids: Sequence[str]) -> str:
    """A regular expression for exactly these item ids, as a TOML string."""
    escaped = (re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", one) for one in sorted(item_ids))
    return json.dumps(f"^({'|'.join(escaped)})$", ensure_ascii=False)


def drop_rule(item_ids: Sequence[str], column: str) -> str:
    """A [[drop]] rule for exactly these item ids, as TOML on one line."""
    name = json.dumps(column, ensure_ascii=False)
    return (
        f'drop = [{{column = {name}, matches = {ids_pattern(item_ids)}, reason = "not an item"}}]'
    )

"""One description per item, from events that may describe it in many ways."""

from collections.abc import Collection

import polars as pl

from shopcast_build.data.staging import EVENTS, PART_ROWS, TOLD, Words
from shopcast_domain.events import EventKind

ITEMS: dict[str, pl.DataType] = {
    "platform": pl.String(),
    "item_id": pl.String(),
    "title": pl.String(),
    "brand": pl.String(),
    "category": pl.String(),
    "price": pl.Float64(),
    "titles": pl.Int32(),
    "events": pl.Int64(),
    "low_price": pl.Float64(),
    "high_price": pl.Float64(),
    **{f"{name}_from": EVENTS["time"] for name in TOLD},
}
"""The columns of the table of items. titles: how many different titles the item had; low_price,
high_price: a twentieth of its events were cheaper, and dearer. title_from, brand_from,
category_from, price_from: from when on this is known to who is asked about the item; null where
every event tells it, or none."""


def item_table(
    items: pl.DataFrame,
    events: pl.DataFrame,
    words: Words,
    texts: dict[str, pl.Series],
    told: pl.DataFrame,
    browsed: Collection[str],
) -> pl.DataFrame:
    """One row per item, in order: ITEMS.

    items: columns platform, item_id; row n is item n. events: columns item, price. texts: what the
    codes of the words of each name stand for. told: as Staging.told has it. browsed: platforms
    where people are asked about as they look at items.
    Texts are the most frequent ones, of equally frequent ones the first by alphabet; the price is
    the median; of the events of one kind, see _rank. Null where no event has any.
    """
    table = items.with_row_index("item").with_columns(pl.col("item").cast(pl.Int32))
    rank = _rank(items["platform"], browsed)
    table = table.join(_prices(events, rank), on="item", how="left")
    known = _known_from(told.join(table.select("item", "platform"), on="item"), browsed)
    table = table.join(known, on="item", how="left")
    for name, text in texts.items():
        usual = (
            getattr(words, name)
            .drop_nulls("text")
            .with_columns(rank)
            .sort("item", "rank", "len", "text", descending=[False, False, True, False])
            .unique("item", keep="first", maintain_order=True)
        )
        table = table.join(
            usual.select("item", text.gather(usual["text"]).alias(name)), on="item", how="left"
        )
    counts = words.title.drop_nulls("text").group_by("item").agg(titles=pl.col("text").n_unique())
    return (
        table.join(counts, on="item", how="left")
        .with_columns(pl.col("titles").fill_null(0).cast(pl.Int32))
        .sort("item")
        .select(*ITEMS)
    )


def _rank(platform_of: pl.Series, browsed: Collection[str]) -> pl.Expr:
    """Whose words are taken of the events of an item, from columns item, kind: the lowest that has
    any. platform_of: names by item.

    Where orders call an item otherwise than views do, a mix of both would tell that it was bought.
    So those come first that people are asked at, and what becomes of them last.
    """
    kind = pl.col("kind").to_physical().cast(pl.Int8)
    at_orders = pl.lit(~platform_of.is_in(list(browsed))).gather(pl.col("item"))
    bought_first = at_orders & (kind == EventKind.BUY)
    return pl.when(bought_first).then(pl.lit(-1, pl.Int8)).otherwise(kind).alias("rank")


def _known_from(told: pl.DataFrame, browsed: Collection[str]) -> pl.DataFrame:
    """Columns item, and each of TOLD as NAME_from.

    From when an event first tells it, where it is one that opens an exposure; else after that: an
    outcome tells nothing of the item that was met.
    """
    kind = pl.col("kind").cast(pl.String)
    looks = pl.col("platform").is_in(list(browsed))
    opens = pl.when(looks).then(kind.is_in(["view", "cart"])).otherwise(kind == "buy")
    found = []
    for name in TOLD:
        first, opened = pl.col(name).min(), pl.col(name).filter(opens).min()
        always = pl.col(f"{name}_told").sum() == pl.col("events").sum()
        after = first.dt.offset_by("1us")
        moment = pl.when(opened == first).then(first).otherwise(after)
        found.append(pl.when(~always).then(moment).alias(f"{name}_from"))
    return told.group_by("item").agg(found)


def _prices(events: pl.DataFrame, rank: pl.Expr) -> pl.DataFrame:
    """Columns item, price, events, low_price, high_price.

    Some items at a time: a median needs all of an item's prices at once.
    """
    parts = max(1, -(-len(events) // PART_ROWS))
    priced = pl.when(pl.col("price").is_not_null()).then("rank")
    found = [
        events.lazy()
        .filter(pl.col("item") % parts == part)
        .with_columns(rank)
        .group_by("item")
        .agg(
            pl.col("price").filter(priced == priced.min()).median(),
            pl.len().cast(pl.Int64).alias("events"),
            pl.col("price").quantile(0.05, "nearest").alias("low_price"),
            pl.col("price").quantile(0.95, "nearest").alias("high_price"),
        )
        .collect()
        for part in range(parts)
    ]
    return pl.concat(found)

"""One description per item, from events that may describe it in many ways."""

import polars as pl

_ITEM = ("platform", "item_id")


def item_table(events: pl.DataFrame) -> pl.DataFrame:
    """One row per (platform, item_id), sorted: title, brand, category and price of the item.

    Texts are the most frequent ones, of equally frequent ones the first by alphabet; the price is
    the median. Null where no event has any.
    """
    items = events.group_by(_ITEM).agg(pl.col("price").median()).sort(_ITEM)
    for name in ("title", "brand", "category"):
        usual = (
            events.drop_nulls(name)
            .group_by(*_ITEM, name)
            .len()
            .sort(*_ITEM, pl.col("len"), name, descending=[False, False, True, False])
            .unique(_ITEM, keep="first", maintain_order=True)
        )
        items = items.join(usual.drop("len"), on=_ITEM, how="left", maintain_order="left")
    return items.select(*_ITEM, "title", "brand", "category", "price")

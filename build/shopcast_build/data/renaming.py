"""Items that are called otherwise once they came back."""

import polars as pl

from shopcast_build.data.report import Suspicion

_ENOUGH_ITEMS = 50
_SHARE_RENAMED = 0.1


def renamed_by_returns(
    events: pl.DataFrame, items: pl.DataFrame, titles: pl.DataFrame
) -> list[Suspicion]:
    """Platforms where the title that describes items was first told after their first return,
    though they had another before.

    An item has one title, its usual one, at any time (docs/decisions/0006), also before it got it.
    events: staging.EVENTS. items: items.ITEMS. titles: columns item, text, first.
    """
    returned = events.filter(pl.col("kind") == "return").group_by("item")
    back = returned.agg(pl.col("time").min().alias("back"))
    usual = items.select("platform", "title").with_row_index("item").cast({"item": pl.Int32})
    told = titles.join(back, on="item").join(usual, on="item")
    later = (pl.col("first") > pl.col("back")) & (pl.col("text") == pl.col("title"))
    renamed = told.group_by("platform", "item").agg(
        (later.any() & (pl.col("first") < pl.col("back")).any()).alias("renamed")
    )
    counts = renamed.group_by("platform").agg(pl.len(), pl.col("renamed").sum())
    return [
        Suspicion(
            "titles that a return gives",
            platform,
            n,
            every,
            f"Of {every:,} items of {platform} that came back {n:,} are described by a title that"
            " they got only afterwards: if a return gives it, it tells beforehand that they will"
            " come back, and the model looks better than it is.",
            "Give items that are sold again as used an id of their own, or their first title.",
        )
        for platform, every, n in counts.sort("platform").iter_rows()
        if n >= max(_ENOUGH_ITEMS, _SHARE_RENAMED * every)
    ]

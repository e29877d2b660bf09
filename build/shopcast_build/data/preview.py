"""What a mapping would make of a log, shown before anything is built."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from shopcast_build.data.counting import counted
from shopcast_build.data.fields import SCHEMA, canonical_rows
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.notes import HIDDEN
from shopcast_build.data.reading import Progress, Source, collect

_SHOWN_FIELDS = ("kind", "item_id", "title", "price", "quantity")


@dataclass(frozen=True, slots=True)
class Preview:
    """What a mapping makes of the first rows of a file.

    rows: how many were looked at. kinds, dropped: counts. first: canonical events, user ids hidden.
    """

    rows: int
    kinds: dict[str, int]
    dropped: dict[str, int]
    first: pl.DataFrame


def preview(
    sources: Sequence[Source],
    mapping: Mapping,
    *,
    rows: int,
    shown: int = 5,
    progress: Progress = lambda done, total: None,
) -> Preview:
    """Apply a mapping to the first rows of every source. progress: takes how many of them."""
    looked_at = 0
    kinds, dropped = Counter[str](), Counter[str]()
    first = pl.DataFrame(schema=SCHEMA)
    for number, source in enumerate(sources):
        head = replace(source, rows=source.rows.head(rows))
        wanted = canonical_rows(head, mapping.of(source.path), mapping.currencies)
        found = collect(head, wanted.select(*SCHEMA, "reason"))
        good = found.filter(pl.col("reason").is_null())
        looked_at += len(found)
        kinds.update(dict(counted(good, pl.col("kind").cast(pl.String)).iter_rows()))
        dropped.update(dict(counted(found.drop_nulls("reason"), "reason").iter_rows()))
        first = pl.concat([first, good.head(shown - len(first)).select(*SCHEMA)])
        progress(number + 1, len(sources))
    return Preview(
        looked_at,
        dict(sorted(kinds.items())),
        dict(sorted(dropped.items(), key=lambda one: (-one[1], one[0]))),
        first.select("time", "platform", pl.lit(HIDDEN).alias("user"), *_SHOWN_FIELDS),
    )

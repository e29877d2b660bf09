"""What a mapping would make of a log, shown before anything is built."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from shopcast_build.data.fields import SCHEMA, canonical_rows
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.notes import HIDDEN
from shopcast_build.data.reading import Source, collect

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


def preview(sources: Sequence[Source], mapping: Mapping, *, rows: int, shown: int = 5) -> Preview:
    """Apply a mapping to the first rows of every source."""
    parts = [pl.DataFrame(schema={**SCHEMA, "reason": pl.String()})]
    for source in sources:
        head = replace(source, rows=source.rows.head(rows))
        found = canonical_rows(head, mapping.of(source.path), mapping.currencies)
        parts.append(collect(head, found.select(*SCHEMA, "reason")))
    found_rows = pl.concat(parts)
    good = found_rows.filter(pl.col("reason").is_null())
    dropped = found_rows.drop_nulls("reason").group_by("reason").len()
    kinds = good.group_by(pl.col("kind").cast(pl.String)).len().sort("kind")
    return Preview(
        len(found_rows),
        dict(kinds.iter_rows()),
        dict(dropped.sort("len", "reason", descending=[True, False]).iter_rows()),
        good.head(shown).select("time", "platform", pl.lit(HIDDEN).alias("user"), *_SHOWN_FIELDS),
    )

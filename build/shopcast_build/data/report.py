"""What cleaning a log found and did."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from shopcast_build.data.reading import ROW

HIDDEN = "(not shown)"
_EXAMPLES = 3
_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class CleaningReport:
    """Counts of rows. read = kept + duplicates + the sum of dropped.

    files: names of the files read, in order. dropped, repaired: by reason; a repaired row is kept.
    duplicates: rows whose event id was there before. examples: up to three per reason, as
    'row N of FILE: VALUE', never with a user id. first_time, last_time: of the events kept.
    """

    files: tuple[str, ...]
    read: int
    kept: int
    dropped: Mapping[str, int]
    repaired: Mapping[str, int]
    duplicates: int
    platforms: Mapping[str, int]
    kinds: Mapping[str, int]
    items: int
    accounts: int
    first_time: datetime
    last_time: datetime
    examples: Mapping[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        """The report as a dict of JSON types; times in ISO 8601."""
        return asdict(self) | {
            "files": list(self.files),
            "first_time": self.first_time.isoformat(),
            "last_time": self.last_time.isoformat(),
            "examples": {reason: list(shown) for reason, shown in self.examples.items()},
        }


def count_reasons(notes: pl.DataFrame) -> dict[str, int]:
    """Rows per reason, most frequent first. notes: columns reason, file, ROW, value."""
    counts = notes.group_by("reason").len().sort("len", "reason", descending=[True, False])
    return dict(counts.iter_rows())


def pick_examples(notes: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """The first few notes of every reason, as 'row N of FILE: VALUE'.

    Of a value that looks like an e-mail address, slipped in from another column, nothing is shown.
    """
    value = pl.col("value")
    shown = (
        pl.when(value.str.contains("@", literal=True))
        .then(pl.lit(f": {HIDDEN}"))
        .otherwise(": " + value.str.slice(0, _SHOWN_CHARS))
        .fill_null("")
    )
    first = notes.group_by("reason", maintain_order=True).head(_EXAMPLES)
    texts = first.select("reason", pl.format("row {} of {}{}", ROW, "file", shown).alias("text"))
    by_reason = texts.group_by("reason", maintain_order=True).agg("text")
    return {reason: tuple(shown) for reason, shown in by_reason.sort("reason").iter_rows()}

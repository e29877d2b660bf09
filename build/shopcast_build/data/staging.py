"""A log on its way from rows to sorted codes, through a folder, so that memory stays bounded.

Only codes, numbers and keyed digests are written; the texts behind the codes stay in memory.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from shopcast_build.data.coding import SEPARATOR, Interner, Ranked
from shopcast_build.data.disk import writing
from shopcast_build.data.fields import KIND
from shopcast_build.data.notes import DEFECT, NOTE_COLUMNS
from shopcast_build.data.reading import ROW

CONFLICTING_ID = "event id of another event"
PART_ROWS = 4_000_000
"""Rows that are worked on at once."""

_GROUP_ROWS = 16_384
"""Rows of a group in a file: of sorted rows, most groups are skipped unread."""

_DIGEST = "digest"
_SHARE = "share"
_ALL_SHARES = 2**64
_WORDS = ("title", "brand", "category")
TOLD = (*_WORDS, "price")
"""What events may tell of their items."""
_CODED = ("account", "item", *_WORDS, "event_id")
_NOTES = dict.fromkeys(NOTE_COLUMNS, pl.String) | {ROW: pl.get_index_type()}
_ORDER = ("time", "account", "kind", "item", "quantity", "price")
EVENTS: dict[str, pl.DataType] = {
    "time": pl.Datetime("us", "UTC"),
    "platform": pl.Int16(),
    "account": pl.Int32(),
    "kind": KIND,
    "item": pl.Int32(),
    "price": pl.Float64(),
    "quantity": pl.Int32(),
}
"""The columns of a clean log's events. platform, account and item are codes; the physical value of
a kind is that of EventKind; a price is in major units, null where unknown."""


@dataclass(frozen=True, slots=True)
class Words:
    """How often events of a kind describe an item by each text, and since when: columns item, kind,
    text, len, first; text may be null."""

    title: pl.DataFrame
    brand: pl.DataFrame
    category: pl.DataFrame

    def moved(self, place: pl.Series) -> "Words":
        """The same of items that went elsewhere. place: from an item's code to its new one."""
        names = ("title", "brand", "category")
        return Words(
            *(
                words.with_columns(place.gather(words["item"]).alias("item"))
                for words in (getattr(self, name) for name in names)
            )
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """What is left after equal ids are told apart.

    duplicates: by platform. conflicts: NOTE_COLUMNS. rows: events that are left.
    """

    duplicates: dict[str, int]
    conflicts: pl.DataFrame
    rows: int


class Staging:
    """Takes good rows batch by batch, then settles and sorts them part by part."""

    def __init__(self, folder: Path, *, keep_ids: bool) -> None:
        self._taken, self._first = (folder / name for name in ("taken", "first"))
        for stage in (self._taken, self._first):
            with writing():
                stage.mkdir()
        self._keep_ids = keep_ids
        self._interners = {name: Interner() for name in _CODED if keep_ids or name != "event_id"}
        self._key = secrets.randbits(63)
        self._batches = self._rows = 0
        self.ranked: dict[str, Ranked] = {}

    def take(self, file: int, rows: pl.DataFrame) -> None:
        """Write good rows as codes. rows: fields.SCHEMA and ROW; file: the number of their file."""
        scope = pl.col("platform") + SEPARATOR
        rows = rows.with_columns(
            account=scope + pl.col("user"),
            item=scope + pl.col("item_id"),
            digest=(scope + pl.col("event_id")).hash(self._key),
        )
        # The digest of a null is a number like any other.
        digest = pl.when(pl.col("event_id").is_not_null()).then(pl.col(_DIGEST)).alias(_DIGEST)
        coded = rows.select(
            pl.lit(file, pl.Int32).alias("file"),
            ROW,
            digest,
            pl.coalesce(digest, pl.col(ROW).hash(self._key)).alias(_SHARE),
            "time",
            "kind",
            "price",
            pl.col("quantity").cast(pl.Int32),
            *(interner.codes(rows[name]) for name, interner in self._interners.items()),
        )
        _write(coded.sort(_SHARE), self._taken / f"{self._batches:06}.parquet")
        self._batches += 1
        self._rows += len(rows)

    def settle(self, files: list[str]) -> Settled:
        """Keep the first event of every id. files: names by number.

        First means earliest, then by every other field, so that the order of rows plays no part.
        """
        self.ranked = {name: interner.ranked() for name, interner in self._interners.items()}
        self._interners.clear()
        platform_of = self.ranked["account"].scoped("user")["platform"]
        parts = -(-self._rows // PART_ROWS)
        taken = pl.scan_parquet(self._taken / "*.parquet") if self._batches else None
        duplicates: dict[str, int] = {}
        conflicts: list[pl.DataFrame] = []
        left = 0
        for part in range(parts if taken is not None else 0):
            low, high = (_ALL_SHARES * at // parts for at in (part, part + 1))
            share = pl.col(_SHARE).is_between(low, high - 1)
            rows = taken.filter(share).collect(engine="streaming")  # type: ignore[union-attr]
            rows = rows.with_columns(self.ranked[name].of(rows[name]) for name in self.ranked)
            first, repeats, unlike = _tell_apart(rows)
            del rows
            settled = first.drop("file", ROW, _DIGEST, _SHARE).sort("time")
            _write(settled, self._first / f"{part:06}.parquet")
            left += len(first)
            for platform, n in _by_platform(repeats, platform_of).items():
                duplicates[platform] = duplicates.get(platform, 0) + n
            conflicts.append(_conflict_notes(unlike, files, platform_of))
        for file in self._taken.iterdir():
            file.unlink()
        found = pl.concat([pl.DataFrame(schema=_NOTES), *conflicts]).sort("file", ROW)
        return Settled(duplicates, found, left)

    def words(self) -> Words:
        """The descriptions of the settled events, as codes into `ranked`."""
        rows = pl.scan_parquet(self._first / "*.parquet")
        return Words(
            *(
                rows.group_by("item", "kind", pl.col(name).alias("text"))
                .agg(pl.len(), pl.col("time").min().alias("first"))
                .collect(engine="streaming")
                for name in _WORDS
            )
        )

    def told(self) -> pl.DataFrame:
        """What settled events of each kind tell of each item: columns item (a code into `ranked`),
        kind, events; and for each of TOLD how many of them, as NAME_told, and the first time."""
        rows = pl.scan_parquet(self._first / "*.parquet")
        counts = (pl.col(name).count().cast(pl.Int64).alias(f"{name}_told") for name in TOLD)
        times = (
            pl.when(pl.col(name).is_not_null()).then("time").min().alias(name) for name in TOLD
        )
        found = rows.group_by("item", "kind").agg(pl.len().alias("events"), *counts, *times)
        return found.collect(engine="streaming")

    def used(self, name: str) -> pl.Series:
        """The codes of a column that settled events have, sorted."""
        rows = pl.scan_parquet(self._first / "*.parquet")
        return rows.select(pl.col(name).unique()).collect(engine="streaming")[name].sort()

    def events(self) -> Iterator[pl.DataFrame]:
        """The settled events part by part: account, item (places in `ranked`) and the rest of
        EVENTS but for the platform, and event_id where ids are kept; sorted by time, then by
        everything else."""
        columns = [*_ORDER, *(["event_id"] if self._keep_ids else [])]
        rows = pl.scan_parquet(self._first / "*.parquet").select(columns)
        for first, last in _day_spans(rows):
            inside = (pl.col("time") >= _midnight(first)) & (pl.col("time") < _midnight(last + 1))
            yield rows.filter(inside).collect(engine="streaming").sort(columns)


def _tell_apart(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Rows that are the first with their id or have none, the others, and of these those that are
    no copies of the first."""
    again = pl.col(_DIGEST).is_duplicated() & pl.col(_DIGEST).is_not_null()
    rows = rows.with_columns(again.alias("again"))
    alone = rows.filter(~pl.col("again")).drop("again")
    # Sorting takes memory, and few rows need it.
    several = rows.filter("again").drop("again").sort(*_ORDER, *_WORDS)
    is_first = several[_DIGEST].is_first_distinct()
    first, repeats = several.filter(is_first), several.filter(~is_first)
    same = ("account", "kind", "item")
    known = repeats.join(first.select(_DIGEST, *same), on=_DIGEST, suffix="_of_first", how="left")
    unlike = known.filter(
        pl.any_horizontal(pl.col(name) != pl.col(f"{name}_of_first") for name in same)
    )
    return pl.concat([alone, first]), repeats, unlike


def _by_platform(rows: pl.DataFrame, platform_of: pl.Series) -> dict[str, int]:
    names = platform_of.gather(rows["account"]).alias("platform").to_frame()
    return dict(names.group_by("platform").len().iter_rows())


def _conflict_notes(rows: pl.DataFrame, files: list[str], platform_of: pl.Series) -> pl.DataFrame:
    return rows.select(
        pl.Series("file", [files[number] for number in rows["file"]], pl.String),
        ROW,
        platform_of.gather(rows["account"]).alias("platform"),
        pl.lit(DEFECT).alias("cause"),
        pl.lit(CONFLICTING_ID).alias("reason"),
        pl.lit(None, pl.String).alias("value"),
    ).select(NOTE_COLUMNS)


def _write(rows: pl.DataFrame, file: Path) -> None:
    with writing():
        rows.write_parquet(file, compression="lz4", row_group_size=_GROUP_ROWS)


def _midnight(day: int) -> datetime:
    """The beginning of a day, counted from 1970, UTC."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)


def _day_spans(rows: pl.LazyFrame) -> Iterator[tuple[int, int]]:
    """Spans of days, both ends included, of at most PART_ROWS rows wherever a day has no more."""
    days = (
        rows.group_by(pl.col("time").dt.epoch("d").alias("day"))
        .len()
        .collect(engine="streaming")
        .sort("day")
    )
    first: int | None = None
    last = held = 0
    for day, n in days.iter_rows():
        if first is not None and held + n > PART_ROWS:
            yield first, last
            first = None
        if first is None:
            first, held = day, 0
        last, held = day, held + n
    if first is not None:
        yield first, last

"""From event logs as they are to clean, canonical events."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from shopcast_build.data import fields
from shopcast_build.data.errors import DataError
from shopcast_build.data.event_ids import with_event_ids
from shopcast_build.data.fields import DEFECT, REPAIRS, RULE, SCHEMA, canonical_rows
from shopcast_build.data.items import item_table
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.reading import ROW, collect, scan
from shopcast_build.data.report import CleaningReport, count_reasons, pick_examples

CONFLICTING_ID = "event id of another event"
_REPAIRED = "repaired"
_TIME_ADVICE = "say how times are written with --mapping ([time] format)"
_ADVICE = {
    fields.UNREADABLE_TIME: _TIME_ADVICE,
    fields.IMPOSSIBLE_TIME: _TIME_ADVICE,
    fields.UNKNOWN_KIND: "map the kind with --mapping ([kind.synonyms] or [[kind.rules]])",
    fields.BAD_PLATFORM: "name the platform with --mapping ([platform]) in a-z, 0-9, '_', '-', '.'",
    fields.ID_TOO_LONG: "name the right columns with --mapping",
    CONFLICTING_ID: "give --mapping an event_id column that tells all events apart",
}


@dataclass(frozen=True, slots=True)
class CleanLog:
    """A log ready to learn from.

    events: fields.SCHEMA, sorted by (time, platform, user, event_id), whatever the order of rows
    and files was. items: see items.item_table.
    """

    events: pl.DataFrame = field(repr=False)
    items: pl.DataFrame = field(repr=False)
    report: CleaningReport


def clean(paths: Sequence[Path], mapping: Mapping, *, max_bad_share: float = 0.01) -> CleanLog:
    """Read, map, check and repair event logs.

    max_bad_share: rows with defects (a time, kind, platform or id that cannot be used) are dropped
    up to this share of the rows that the mapping's own drop rules leave.
    Raises DataError when there are more, when a file cannot be read, or when nothing is left.
    """
    sources = scan(paths)
    good, noted, read = [], [], 0
    for source in sources:
        rows = collect(source, canonical_rows(source, mapping)).with_columns(
            pl.lit(source.path.name).alias("file")
        )
        read += len(rows)
        good.append(rows.filter(pl.col("reason").is_null()).drop("reason", "cause", "value"))
        noted.append(_notes(rows, good[-1]))
    first, repeats, conflicts = _tell_apart(pl.concat(good).drop(REPAIRS))
    notes = pl.concat([*noted, conflicts])
    _check_defects(notes, read, max_bad_share)
    if first.is_empty():
        raise DataError(_nothing_left(read, notes))
    events = first.select(*SCHEMA).sort("time", "platform", "user", "event_id")
    items = item_table(events)
    dropped = notes.filter(pl.col("cause") != _REPAIRED)
    report = CleaningReport(
        files=tuple(source.path.name for source in sources),
        read=read,
        kept=len(events),
        dropped=count_reasons(dropped),
        repaired=count_reasons(notes.filter(pl.col("cause") == _REPAIRED)),
        duplicates=len(repeats) - len(conflicts),
        platforms=dict(events.group_by("platform").len().sort("platform").iter_rows()),
        kinds=dict(events.group_by("kind").len().sort("kind").iter_rows()),
        items=len(items),
        accounts=events.select("platform", "user").n_unique(),
        first_time=events.item(0, "time"),
        last_time=events.item(-1, "time"),
        examples=pick_examples(notes),
    )
    return CleanLog(events, items, report)


def _notes(rows: pl.DataFrame, good: pl.DataFrame) -> pl.DataFrame:
    """What happened to rows: columns file, ROW, reason, cause, value."""
    columns = ("file", ROW, "reason", "cause", "value")
    repairs = [
        good.filter(pl.col(reason).is_not_null()).select(
            "file",
            ROW,
            pl.lit(reason).alias("reason"),
            pl.lit(_REPAIRED).alias("cause"),
            pl.col(reason).alias("value"),
        )
        for reason in REPAIRS
    ]
    return pl.concat([rows.filter(pl.col("reason").is_not_null()).select(columns), *repairs])


def _tell_apart(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Events that are the first with their id, the others, and notes on those that are no copies.

    First means earliest, then by every other field, so that the order of the rows plays no part.
    """
    order = ("time", *(name for name in SCHEMA if name != "time"))
    events = with_event_ids(rows.sort(order))
    is_first = events.select(pl.struct("platform", "event_id").is_first_distinct()).to_series()
    first, repeats = events.filter(is_first), events.filter(~is_first)
    copied = repeats.join(first, on=["platform", "event_id"], suffix="_of_first")
    same = ("user", "kind", "item_id")
    conflicts = copied.filter(
        pl.any_horizontal(pl.col(name) != pl.col(f"{name}_of_first") for name in same)
    ).select(
        "file",
        ROW,
        pl.lit(CONFLICTING_ID).alias("reason"),
        pl.lit(DEFECT).alias("cause"),
        pl.lit(None, pl.String).alias("value"),
    )
    return first, repeats, conflicts.sort("file", ROW)


def _check_defects(notes: pl.DataFrame, read: int, max_bad_share: float) -> None:
    defects = notes.filter(pl.col("cause") == DEFECT)
    examined = read - len(notes.filter(pl.col("cause") == RULE))
    if len(defects) <= max_bad_share * examined:
        return
    reason, count = next(iter(count_reasons(defects).items()))
    example = pick_examples(defects)[reason][0]
    raise DataError(
        f"{len(defects)} of {examined} rows ({len(defects) / examined:.1%}) cannot be used, more "
        f"than the {max_bad_share:.1%} allowed, {count} of them for {reason} (first at {example}); "
        f"fix the log, or {_ADVICE[reason]}."
    )


def _nothing_left(read: int, notes: pl.DataFrame) -> str:
    if not read:
        return "The event log has no rows; check that the export is complete."
    why = ", ".join(f"{count} for {reason}" for reason, count in count_reasons(notes).items())
    return f"None of the {read} rows of the event log is left ({why}); check the log and --mapping."

"""Times of a log as UTC timestamps."""

import re
from dataclasses import dataclass, field
from datetime import timedelta

import polars as pl

from shopcast_build.data.mapping import TimeSource

_DAY = timedelta(days=1)
_EPOCH_UNITS_US = {"epoch_s": 1_000_000, "epoch_ms": 1_000}
_DIGITS_BELOW_S = {"epoch_s": 0, "epoch_ms": 3}
_POWER = r"(?i)^\d(?:\.(\d*))?e\+?(\d+)$"  # 1.76723E+12, as spreadsheets show large numbers
_USUAL_ISO = "%Y-%m-%dT%H:%M:%S%.f%#z"
_ABSOLUTE = re.compile(r"%(?:[:#]*z|\+|s)")
"""What of a strftime pattern tells a moment whatever the zone: an offset, or seconds since 1970."""
_TIME, _SKIPPED = "time", "skipped"
_READ = pl.Struct({_TIME: pl.Datetime("us", "UTC"), _SKIPPED: pl.Boolean()})
_CLOCK = r"(\d\d)(?:(:\d\d)(:\d\d(?:\.\d+)?)?)?"
_OFFSET = r"Z|z|UTC|[+-][01]\d(?::?[0-5]\d)?"
_ISO = rf"^(\d{{4}}-\d\d-\d\d)(?:[T ]{_CLOCK})?\s*({_OFFSET})?$"


@dataclass(frozen=True, slots=True)
class TimeExpressions:
    """time: Datetime (us, UTC), null where unreadable. skipped: no clock showed it. rounded: it has
    too few digits to tell the second."""

    time: pl.Expr
    skipped: pl.Expr
    rounded: pl.Expr = field(default_factory=lambda: pl.lit(False))


def time_expressions(source: TimeSource, dtype: pl.DataType) -> TimeExpressions:
    """How to read the time column of the given type.

    A local time that occurs twice, when clocks go back, is the first of the two. One that clocks
    skipped is read with the offset from before the change, as Python's datetime does (PEP 495).
    """
    column = pl.col(source.column)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return _in_utc(column.dt.cast_time_unit("us").dt.convert_time_zone("UTC"))
    if isinstance(dtype, (pl.Datetime, pl.Date)):
        return _localised(column.cast(pl.Datetime("us")), source.zone)
    text = column.cast(pl.String, strict=False).str.strip_chars()
    if source.format in _EPOCH_UNITS_US:
        micros = text.cast(pl.Float64, strict=False) * _EPOCH_UNITS_US[source.format]
        time = micros.round().cast(pl.Int64, strict=False).cast(pl.Datetime("us", "UTC"))
        return TimeExpressions(time, pl.lit(False), _rounded(text, source.format))
    if source.format == "iso":
        read = text.map_batches(
            lambda column: _read_iso(column, source.zone), return_dtype=_READ, is_elementwise=True
        )
        return TimeExpressions(read.struct.field(_TIME), read.struct.field(_SKIPPED))
    absolute = _ABSOLUTE.search(source.format.replace("%%", "")) is not None
    parsed = text.str.to_datetime(
        source.format, time_unit="us", time_zone="UTC" if absolute else None, strict=False
    )
    return _in_utc(parsed) if absolute else _localised(parsed, source.zone)


def _rounded(text: pl.Expr, epoch: str) -> pl.Expr:
    power = text.str.extract_groups(_POWER).struct
    told = power.field("1").fill_null("").str.len_chars().cast(pl.Int64)
    wanted = power.field("2").cast(pl.Int64, strict=False) - _DIGITS_BELOW_S[epoch]
    return (told < wanted).fill_null(False)


def _in_utc(time: pl.Expr) -> TimeExpressions:
    return TimeExpressions(time, pl.lit(False))


def _read_iso(column: pl.Series, zone: str) -> pl.Series:
    """Times with an offset by the library's own parser, and only the others piece by piece: the
    pieces cost six times as much."""
    time = column.str.to_datetime(_USUAL_ISO, time_unit="us", time_zone="UTC", strict=False)
    rows = pl.DataFrame({"text": column, _TIME: time})
    other = rows["text"].is_not_null() & rows[_TIME].is_null()
    if not other.any():
        return rows.select(pl.struct(_TIME, pl.lit(False).alias(_SKIPPED))).to_series()
    pieces = _iso(pl.col("text"), zone)
    read = rows.filter(other).select(pieces.time.alias(_TIME), pieces.skipped.alias(_SKIPPED))
    at = other.arg_true()
    skipped = pl.repeat(False, len(rows), eager=True).scatter(at, read[_SKIPPED])
    return pl.struct(
        rows[_TIME].scatter(at, read[_TIME]).alias(_TIME), skipped.alias(_SKIPPED), eager=True
    )


def _iso(text: pl.Expr, zone: str) -> TimeExpressions:
    part = text.str.extract_groups(_ISO).struct
    clock = part.field("2").fill_null("00")
    for finer in ("3", "4"):
        clock = clock + part.field(finer).fill_null(":00")
    naive = (part.field("1") + "T" + clock).str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False
    )
    offset = part.field("5").str.replace(r"^(Z|z|UTC)$", "+00")
    digits = offset.str.replace(":", "", literal=True).str.slice(1)
    minutes = (
        digits.str.slice(0, 2).cast(pl.Int64) * 60
        + digits.str.slice(2).str.pad_end(2, "0").cast(pl.Int64)
    ) * pl.when(offset.str.starts_with("-")).then(-1).otherwise(1)
    with_offset = (naive - pl.duration(minutes=minutes)).dt.replace_time_zone("UTC")
    local = _localised(naive, zone)
    return TimeExpressions(
        pl.when(offset.is_null()).then(local.time).otherwise(with_offset),
        offset.is_null() & local.skipped,
    )


def _localised(naive: pl.Expr, zone: str) -> TimeExpressions:
    def utc(local: pl.Expr) -> pl.Expr:
        there = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        return there.dt.convert_time_zone("UTC")

    time = utc(naive)
    return TimeExpressions(
        # No clock skips more than a day: the day before has the offset from before the change.
        pl.coalesce(time, utc(naive - _DAY) + _DAY),
        naive.is_not_null() & time.is_null(),
    )

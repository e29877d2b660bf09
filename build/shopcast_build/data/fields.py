"""One file's rows as canonical fields, with what is wrong with each row beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from shopcast_build.data.columns import (
    NOTHING,
    condition_holds,
    decimal_of,
    field_id,
    field_id_rounded,
    field_label,
    field_number,
    field_text,
    looked_up,
    read_number,
    text,
)
from shopcast_build.data.mapping import Currencies, FieldSource, KindSource, SourceMapping
from shopcast_build.data.notes import DEFECT, GAP, HIDDEN, RULE
from shopcast_build.data.reading import ROW, Source, check_columns
from shopcast_build.data.times import time_expressions
from shopcast_domain.events import EventKind

KIND = pl.Enum([kind.name.lower() for kind in EventKind])
SCHEMA: dict[str, pl.DataType] = {
    "event_id": pl.String(),
    "platform": pl.String(),
    "user": pl.String(),
    "time": pl.Datetime("us", "UTC"),
    "kind": KIND,
    "item_id": pl.String(),
    "title": pl.String(),
    "brand": pl.String(),
    "category": pl.String(),
    "price": pl.Float64(),
    "currency": pl.String(),
    "quantity": pl.Int64(),
}
"""The canonical event: columns and types, in order."""

UNREADABLE_TIME = "unreadable time"
EARLY_TIME = "time before the year 2000"
FUTURE_TIME = "time in the future"
ROUNDED_TIME = "time rounded by a spreadsheet"
UNKNOWN_KIND = "unknown kind"
BAD_PLATFORM = "bad platform name"
ID_TOO_LONG = "id too long"
ROUNDED_ID = "id rounded by a spreadsheet, or as a float"
MISSING_USER = "missing user"
MISSING_ITEM = "missing item"
SKIPPED_TIME = "local time skipped by a clock change (read with the offset from before it)"
BAD_PRICE = "impossible price (removed)"
UNKNOWN_CURRENCY = "price in a currency without a rate (removed)"
BAD_QUANTITY = "quantity not a whole number from 1 to 1,000,000 (set to 1)"
REPAIRS = (SKIPPED_TIME, BAD_PRICE, UNKNOWN_CURRENCY, BAD_QUANTITY)

_OPTIONAL = ("event_id", "title", "brand", "category", "price", "currency", "quantity")
PLATFORM = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_MAX_PRICE = 1e9
_MAX_QUANTITY = 1_000_000
_MAX_CHARS = {"title": 1000, "brand": 200, "category": 300, "currency": 16}
_MAX_ID_CHARS = {"event_id": 128, "user": 256, "item_id": 256}


@dataclass(frozen=True, slots=True)
class _Flaw:
    """A reason to drop a row. cause: one of RULE, DEFECT, GAP. value: what an example shows."""

    cause: str
    reason: str
    holds: pl.Expr
    value: pl.Expr


def canonical_rows(
    source: Source, mapping: SourceMapping, currencies: Currencies | None = None
) -> pl.LazyFrame:
    """The rows of one file as SCHEMA, with these columns beside them.

    With currencies, prices are in the base currency, and a price in no known one is removed.

    ROW; reason: why the row is to be dropped, or null; cause: RULE, DEFECT or GAP, or null; value:
    what was found there, never a user id; each of REPAIRS: the text that was repaired, or null.
    Raises DataError when the file lacks a column that the mapping names.
    """
    _check(source, mapping)
    time = time_expressions(mapping.time, source.schema[mapping.time.column])
    drop = [
        _Flaw(
            RULE,
            rule.reason,
            condition_holds(source, rule, mapping.decimal),
            NOTHING if rule.is_null else _shown(source, mapping, rule.column),
        )
        for rule in mapping.drop
    ]
    optional = {name: _optional(source, mapping, name) for name in _OPTIONAL}
    ids = optional["event_id"], mapping.platform_user_id, mapping.item_id
    rows = source.rows.select(
        ROW,
        field_id(source, optional["event_id"]).alias("event_id"),
        field_text(source, mapping.platform).str.to_lowercase().alias("platform"),
        field_id(source, mapping.platform_user_id).alias("user"),
        field_id(source, mapping.item_id).alias("item_id"),
        pl.any_horizontal(field_id_rounded(source, one) for one in ids).alias("rounded_id"),
        time.time.alias("time"),
        time.skipped.alias("skipped"),
        time.rounded.alias("rounded_time"),
        _shown(source, mapping, mapping.time.column).alias("time_text"),
        _kind(source, mapping).alias("kind"),
        _shown(source, mapping, _kind_column(mapping.kind)).alias("kind_text"),
        *(
            field_label(source, optional[name]).str.slice(0, n).alias(name)
            for name, n in _MAX_CHARS.items()
        ),
        *(
            field_number(source, optional[name]).alias(f"{name}_text")
            for name in ("price", "quantity")
        ),
        *_first(drop, "rule_"),
    )
    numbers = []
    for name in ("price", "quantity"):
        column = None if (field := optional[name]) is None else field.column
        decimal = decimal_of(source, column, mapping.decimal)
        numbers.append(read_number(pl.col(f"{name}_text"), decimal).alias(name))
    return _judged(rows.with_columns(numbers), mapping.absolute_quantity, currencies).select(
        ROW, *SCHEMA, "reason", "cause", "value", *REPAIRS
    )


def _judged(
    rows: pl.LazyFrame, absolute_quantity: bool, currencies: Currencies | None
) -> pl.LazyFrame:
    price = pl.col("price")
    price_holds = price.is_finite() & price.is_between(0, _MAX_PRICE)
    pieces = pl.col("quantity").abs() if absolute_quantity else pl.col("quantity")
    pieces_hold = (pieces == pieces.floor()) & pieces.is_between(1, _MAX_QUANTITY)
    time, platform = pl.col("time"), pl.col("platform")
    too_long = [pl.col(name).str.len_chars() > n for name, n in _MAX_ID_CHARS.items()]
    currency = pl.col("currency").str.to_uppercase()
    rate: pl.Expr = pl.lit(1.0)
    if currencies is not None:
        rate = looked_up(currency, currencies.factors, pl.Float64())
    flaws = [
        _Flaw(DEFECT, UNREADABLE_TIME, time.is_null(), pl.col("time_text")),
        _Flaw(DEFECT, ROUNDED_TIME, pl.col("rounded_time"), pl.col("time_text")),
        _Flaw(DEFECT, EARLY_TIME, time < _EARLIEST, pl.col("time_text")),
        _Flaw(DEFECT, FUTURE_TIME, time > datetime.now(UTC), pl.col("time_text")),
        _Flaw(DEFECT, UNKNOWN_KIND, pl.col("kind").is_null(), pl.col("kind_text")),
        _Flaw(DEFECT, BAD_PLATFORM, ~platform.fill_null("").str.contains(PLATFORM), platform),
        _Flaw(DEFECT, ID_TOO_LONG, pl.any_horizontal(too_long), NOTHING),
        _Flaw(DEFECT, ROUNDED_ID, pl.col("rounded_id"), NOTHING),
        _Flaw(GAP, MISSING_USER, pl.col("user").is_null(), NOTHING),
        _Flaw(GAP, MISSING_ITEM, pl.col("item_id").is_null(), NOTHING),
    ]
    by_rule = pl.col("rule_reason").is_not_null()

    def verdict(part: str) -> pl.Expr:
        return pl.when(by_rule).then(f"rule_{part}").otherwise(f"flaw_{part}").alias(part)

    def repaired(name: str, holds: pl.Expr) -> pl.Expr:
        return pl.when(~holds.fill_null(False)).then(f"{name}_text")

    return rows.with_columns(_first(flaws, "flaw_")).with_columns(
        pl.when(price_holds).then(price * rate).alias("price"),
        pl.when(pieces_hold).then(pieces).otherwise(1).cast(pl.Int64).alias("quantity"),
        currency,
        *(verdict(part) for part in ("reason", "cause", "value")),
        repaired("time", ~pl.col("skipped")).alias(SKIPPED_TIME),
        repaired("price", price_holds).alias(BAD_PRICE),
        pl.when(price_holds & rate.is_null())
        .then(pl.col("currency").fill_null("no currency"))
        .alias(UNKNOWN_CURRENCY),
        repaired("quantity", pieces_hold).alias(BAD_QUANTITY),
    )


def _first(flaws: Sequence[_Flaw], prefix: str) -> list[pl.Expr]:
    """The first flaw that holds, as columns <prefix>reason, <prefix>cause and <prefix>value."""

    def of_first(values: list[pl.Expr]) -> pl.Expr:
        found = NOTHING
        for flaw, value in zip(reversed(flaws), reversed(values), strict=True):
            found = pl.when(flaw.holds).then(value).otherwise(found)
        return found

    return [
        of_first([pl.lit(flaw.reason) for flaw in flaws]).alias(f"{prefix}reason"),
        of_first([pl.lit(flaw.cause) for flaw in flaws]).alias(f"{prefix}cause"),
        of_first([flaw.value for flaw in flaws]).alias(f"{prefix}value"),
    ]


def _check(source: Source, mapping: SourceMapping) -> None:
    fields = (getattr(mapping, name) for name in type(mapping).model_fields)
    named = [field.column for field in fields if isinstance(field, FieldSource) and field.column]
    rules = [rule.column for rule in (*mapping.kind.rules, *mapping.drop)]
    by_name = [name for name in _OPTIONAL if name in source.schema and not getattr(mapping, name)]
    kind = filter(None, [_kind_column(mapping.kind)])
    wanted = [mapping.time.column, *kind, *named, *rules, *by_name]
    check_columns(
        source,
        wanted,
        "name the columns of your log in a mapping file (`platform data inspect` proposes one) and"
        " pass it with --mapping",
    )


def _optional(source: Source, mapping: SourceMapping, name: str) -> FieldSource | None:
    own = FieldSource(column=name) if name in source.schema else None
    return getattr(mapping, name) or own


def _kind_column(kind: KindSource) -> str | None:
    """Without a default somebody has to say what an event is: the column named kind."""
    return kind.column or (None if kind.default else "kind")


def _kind(source: Source, mapping: SourceMapping) -> pl.Expr:
    kind = mapping.kind
    decided = pl.lit(kind.default, pl.String)
    column = _kind_column(kind)
    if column is not None:
        word = text(source, column).str.to_lowercase()
        known = {name: name for name in KIND.categories} | kind.synonyms
        decided = pl.coalesce(looked_up(word, known, pl.String()), decided)
    for rule in reversed(kind.rules):
        holds = condition_holds(source, rule, mapping.decimal)
        decided = pl.when(holds).then(pl.lit(rule.kind)).otherwise(decided)
    return decided.cast(KIND)


def _shown(source: Source, mapping: SourceMapping, column: str | None) -> pl.Expr:
    """What an example may show of a column: nothing of user ids."""
    if column is None:
        return NOTHING
    return pl.lit(HIDDEN) if column == mapping.platform_user_id.column else text(source, column)

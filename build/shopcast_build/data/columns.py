"""Columns of a file as text, whatever their type, and what a mapping makes of them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from shopcast_build.data.errors import DataError
from shopcast_build.data.mapping import Condition, FieldSource
from shopcast_build.data.reading import Source

NOTHING = pl.lit(None, pl.String)
_COMMA_NUMBER = r"^[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?$"
_DOT_NUMBER = r"^[+-]?\d{1,3}(,\d{3})+\.\d+$"
_ROUNDED = r"(?i)^-?\d(\.\d+)?e\+\d{2,}$"  # 4.91512E+12: several ids have become one
_EXACT: dict[pl.DataType, float] = {pl.Float32(): 2.0**24, pl.Float64(): 2.0**53}
"""Up to where floats tell all whole numbers apart."""
_HEX_HASH = r"^[0-9A-Fa-f]{32,128}$"
_BASE64_HASH = r"^[0-9A-Za-z+/_-]{22,88}={0,2}$"


def text(source: Source, name: str) -> pl.Expr:
    """A column as text: no blanks around it, '' and NaN are null, whole floats lose their .0."""
    column, dtype = pl.col(name), source.schema[name]
    if not dtype.is_float():
        return _stripped(column)
    whole = column.cast(pl.Int64, strict=False)
    shown = pl.when(column == whole).then(whole.cast(pl.String)).otherwise(column.cast(pl.String))
    return pl.when(column.is_not_nan()).then(shown)


def id_text(source: Source, name: str) -> pl.Expr:
    """A column as ids: text where 13085.0, as tables with gaps write whole numbers, is 13085."""
    return text(source, name).str.replace(r"^(-?\d+)\.0$", "${1}")


def id_rounded(source: Source, name: str) -> pl.Expr:
    """Whether an id of a column may stand for several, which a spreadsheet or floats made one."""
    by_form = text(source, name).str.contains(_ROUNDED)
    exact = _EXACT.get(source.schema[name])
    if exact is None:
        return by_form
    return by_form | (pl.col(name).abs() >= exact) & pl.col(name).is_not_nan()


def check_ids(path: Path, rounded: pl.Series) -> None:
    """Raise DataError where ids of a file may stand for several. rounded: of each row."""
    if n := int(rounded.sum()):
        raise DataError(
            f"{path} has {n:,} rows with an id that a spreadsheet rounded, such as 4.91512E+12, or"
            " that is too large for a float: several accounts would become one. Export it again"
            " without opening it in a spreadsheet, or with ids as text."
        )


def field_text(source: Source, field: FieldSource | None) -> pl.Expr:
    """A field as text; null where no source is given."""
    return _field(field) if field is None or field.column is None else text(source, field.column)


def field_id(source: Source, field: FieldSource | None) -> pl.Expr:
    """A field as ids."""
    return _field(field) if field is None or field.column is None else id_text(source, field.column)


def field_id_rounded(source: Source, field: FieldSource | None) -> pl.Expr:
    """Whether an id of a field may stand for several."""
    if field is None or field.column is None:
        return pl.lit(False)
    return id_rounded(source, field.column)


def field_label(source: Source, field: FieldSource | None) -> pl.Expr:
    """A field as text for reading: blanks and control characters folded into single spaces."""
    return field_text(source, field).map_batches(
        lambda texts: by_distinct(texts, _folded), return_dtype=pl.String(), is_elementwise=True
    )


def field_number(source: Source, field: FieldSource | None) -> pl.Expr:
    """A field as the text of a number, NaN included, so that what is no number can be shown."""
    if field is None or field.column is None:
        return _field(field)
    return _stripped(pl.col(field.column))


def read_number(text: pl.Expr, decimal: str) -> pl.Expr:
    """Texts as Float64, null where they are no number. decimal: the mark before fractions; where it
    is a comma, dots stand between thousands and nowhere else. Where it is a dot, commas do before
    a fraction alone: 1,234 may be a whole number or one and a fraction."""
    if decimal == ",":
        plain = text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
        text = pl.when(text.str.contains(_COMMA_NUMBER)).then(plain)
    else:
        plain = text.str.replace_all(",", "", literal=True)
        text = pl.when(text.str.contains(_DOT_NUMBER)).then(plain).otherwise(text)
    return text.cast(pl.Float64, strict=False)


def decimal_of(source: Source, column: str | None, decimal: str) -> str:
    """The mark before fractions in a column: what a mapping says of it is of text alone."""
    written = column is not None and source.schema[column] == pl.String
    return decimal if written and column not in source.numbers else "."


def condition_holds(source: Source, rule: Condition, decimal: str) -> pl.Expr:
    """Whether a rule's condition holds: boolean, null counts as false."""
    found = text(source, rule.column)
    if rule.is_null:
        return found.is_null()
    if rule.starts_with is not None:
        return found.str.starts_with(rule.starts_with)
    if rule.matches is not None:
        return found.str.contains(rule.matches)
    if rule.at_most is not None:
        return read_number(found, decimal_of(source, rule.column, decimal)) <= rule.at_most
    return found == rule.equals


def looked_up(words: pl.Expr, table: Mapping[str, object], dtype: pl.DataType) -> pl.Expr:
    """What a table says of words; null where it says nothing.

    The library's own look-up takes whole columns, and would hold a file in memory for it.
    """
    return words.map_batches(
        lambda batch: batch.replace_strict(table, default=None, return_dtype=dtype),
        return_dtype=dtype,
        is_elementwise=True,
    )


def hash_text(value: pl.Expr) -> pl.Expr:
    """A hash of 16 to 64 bytes in base64 or hex, whose letters mean the same in either case and
    become small; null where it is none."""
    return (
        pl.when(value.str.contains(_HEX_HASH))
        .then(value.str.to_lowercase())
        .when(value.str.contains(_BASE64_HASH))
        .then(value)
    )


def by_distinct(texts: pl.Series, change: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """What a change makes of texts that repeat, worked out once for each distinct one."""
    distinct = texts.unique()
    if 2 * len(distinct) > len(texts):
        return change(texts)
    return texts.replace_strict(distinct, change(distinct))


def _folded(texts: pl.Series) -> pl.Series:
    folded = texts.str.replace_all(r"[\s\p{C}]+", " ").str.strip_chars()
    return folded.set(folded == "", None)


def _field(field: FieldSource | None) -> pl.Expr:
    return NOTHING if field is None else pl.lit(str(field.constant))


def _stripped(column: pl.Expr) -> pl.Expr:
    stripped = column.cast(pl.String, strict=False).str.strip_chars()
    return pl.when(stripped != "").then(stripped)

"""Attributes in one spelling, so that what is left to differ are people and typing errors."""

from collections.abc import Iterable

import polars as pl

from shopcast_build.data.columns import hash_text

_PLACEHOLDERS = ("n a", "none", "null", "unknown")
_PHONE_DIGITS = 9
"""So many last digits are compared: what comes before is a country's or a trunk's prefix."""
_MIN_PHONE_DIGITS = 6
_NUMBER_FIRST, _NUMBER_LAST = r"^(\d+[a-z]?)\s", r"\s(\d+[a-z]?)$"


def normalised(names: Iterable[str]) -> dict[str, pl.Expr]:
    """Expressions by attribute, from text columns of the attributes' own names."""
    made = {
        "given_name": words("given_name"),
        "surname": words("surname"),
        "date_of_birth": date_digits("date_of_birth"),
        "street": _street_words(),
        "street_number": _street_number(),
        "city": words("city"),
        "postcode": _filled(pl.col("postcode").str.to_lowercase().str.replace_all(r"\W", "")),
        "state": words("state"),
        "email": email("email"),
        "phone": phone("phone"),
    }
    return {name: made[name] for name in names}


def words(column: str) -> pl.Expr:
    """Lower-case letters and digits without accents, a blank between words."""
    folded = (
        pl.col(column)
        .str.normalize("NFKD")
        .str.replace_all("[\u0300-\u036f'\u2019]", "")
        .str.to_lowercase()
        .str.replace_all("ß", "ss")
        .str.replace_all(r"[^\p{L}\p{M}\p{N}]+", " ")
        .str.strip_chars()
    )
    return pl.when(~folded.is_in(_PLACEHOLDERS)).then(_filled(folded))


def date_digits(column: str) -> pl.Expr:
    """Year, month, day as eight digits, whether such a day exists or not; null where unreadable.

    Read are year first, with or without separators, and day first; month first only where the
    second number is above 12.
    """
    shown = pl.col(column).str.extract(r"^([0-9./\s-]+?)(?:[T\s]\d\d:.*)?$").str.strip_chars()
    parts = shown.str.extract_groups(r"^(\d{1,2})[./\s-]+(\d{1,2})[./\s-]+(\d{4})$")
    first, second, year = (parts.struct[n].str.zfill(2) for n in range(3))
    month_first = (second > "12") & (first <= "12")
    day = pl.when(month_first).then(second).otherwise(first)
    month = pl.when(month_first).then(first).otherwise(second)
    year_first = shown.str.extract_groups(r"^(\d{4})[./\s-]+(\d{1,2})[./\s-]+(\d{1,2})$")
    separated = pl.concat_str(year_first.struct[n].str.zfill(2) for n in range(3))
    plain = shown.str.extract(r"^(\d{8})$")
    return pl.coalesce(plain, separated, pl.concat_str(year, month, day))


def email(column: str) -> pl.Expr:
    """An address in lower case, or a hash as it is (hex in lower case); else null."""
    value = pl.col(column)
    plain = pl.when(value.str.contains("@")).then(value.str.to_lowercase())
    return pl.coalesce(plain, hash_text(value))


def phone(column: str) -> pl.Expr:
    """The last digits of a number, or a hash as it is (hex in lower case); else null."""
    value = pl.col(column)
    digits = value.str.replace_all(r"\D", "")
    number = pl.when(digits.str.len_chars() >= _MIN_PHONE_DIGITS).then(
        digits.str.tail(_PHONE_DIGITS)
    )
    return pl.coalesce(hash_text(value), number)


def _street_words() -> pl.Expr:
    """The street without a house number at either end."""
    street = words("street")
    bare = street.str.replace(_NUMBER_FIRST, "").str.replace(_NUMBER_LAST, "")
    return _filled(bare)


def _street_number() -> pl.Expr:
    """The house number, from the street where no column tells it."""
    street = words("street")
    return pl.coalesce(
        words("street_number"), street.str.extract(_NUMBER_FIRST), street.str.extract(_NUMBER_LAST)
    )


def _filled(value: pl.Expr) -> pl.Expr:
    return pl.when(value != "").then(value)

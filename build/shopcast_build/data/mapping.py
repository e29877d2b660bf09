"""How the columns of a source become the fields of an event: a TOML file, checked before use."""

import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import polars as pl
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from shopcast_build.data.errors import DataError

Kind = Literal["view", "cart", "buy", "return"]


def _known_zone(zone: str) -> str:
    try:
        pl.Series([datetime(2000, 1, 1)]).dt.replace_time_zone(zone)
    except pl.exceptions.PolarsError:
        raise ValueError("should be an IANA time zone such as Europe/London") from None
    return zone


def _valid_regex(pattern: str) -> str:
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.PolarsError:
        raise ValueError("should be a regular expression without look-around") from None
    return pattern


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldSource(_Table):
    """Where a field comes from: a column, or one value for every row."""

    column: str | None = None
    constant: str | int | float | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.column is None) == (self.constant is None):
            raise ValueError("give either column or constant")
        return self


class TimeSource(_Table):
    """Where the time comes from.

    format: "iso" (ISO 8601), "epoch_s", "epoch_ms", or a strftime pattern; a column that already
    holds timestamps needs none. zone: of times that carry no offset of their own.
    """

    column: str = "time"
    format: str = "iso"
    zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"


class Condition(_Table):
    """A test of one column's value, read as text without surrounding blanks.

    matches: a regular expression, found anywhere unless anchored. at_most: compares as a number.
    """

    column: str
    starts_with: str | None = None
    equals: str | None = None
    matches: Annotated[str, AfterValidator(_valid_regex)] | None = None
    at_most: float | None = None
    is_null: Literal[True] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        tests = (self.starts_with, self.equals, self.matches, self.at_most, self.is_null)
        if sum(test is not None for test in tests) != 1:
            raise ValueError("give one of starts_with, equals, matches, at_most or is_null")
        return self


class KindRule(Condition):
    """Rows that meet the condition are of this kind."""

    kind: Kind


class DropRule(Condition):
    """Rows that meet the condition are left out, and counted under the reason."""

    reason: Annotated[str, Field(min_length=1, max_length=80)]


class KindSource(_Table):
    """What an event is: the first rule that holds, else the column's word, else the default.

    synonyms: the source's words (in any case) for the four kinds. Without a default a row that
    nothing decides is a defect.
    """

    column: str | None = None
    rules: tuple[KindRule, ...] = ()
    synonyms: dict[str, Kind] = {}
    default: Kind | None = None

    @field_validator("synonyms")
    @classmethod
    def _fold_case(cls, synonyms: dict[str, Kind]) -> dict[str, Kind]:
        return {word.strip().lower(): kind for word, kind in synonyms.items()}


class Mapping(_Table):
    """From a source's columns to an event's fields.

    A field that is not named here is read from the column of its own name: always for platform,
    platform_user_id, time, kind and item_id, where there is such a column for the others.
    drop: tried in order before anything else. absolute_quantity: quantities lose their sign.
    """

    event_id: FieldSource | None = None
    platform: FieldSource = FieldSource(column="platform")
    platform_user_id: FieldSource = FieldSource(column="platform_user_id")
    time: TimeSource = TimeSource()
    kind: KindSource = KindSource()
    item_id: FieldSource = FieldSource(column="item_id")
    title: FieldSource | None = None
    brand: FieldSource | None = None
    category: FieldSource | None = None
    price: FieldSource | None = None
    currency: FieldSource | None = None
    quantity: FieldSource | None = None
    drop: tuple[DropRule, ...] = ()
    absolute_quantity: bool = False


IDENTITY = Mapping()
"""For logs whose columns have the canonical names."""


def load_mapping(path: Path) -> Mapping:
    """Read and check a mapping. Raises DataError naming the key that is wrong."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"The mapping {path} cannot be read ({error.strerror}); check the path."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"The mapping {path} is not valid TOML: {error}; correct it.") from None
    try:
        return Mapping.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "no such key"
        raise DataError(
            f"The mapping {path} is wrong at {key}: {message[0].lower()}{message[1:]}; correct it."
        ) from None

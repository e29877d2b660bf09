"""How the columns of sources become the fields of an event: a TOML file, checked before use."""

import re
import tomllib
from datetime import datetime
from pathlib import Path, PurePath
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
from shopcast_build.data.limits import Limits
from shopcast_build.data.reading import Layout

Kind = Literal["view", "cart", "buy", "return"]
_DIRECTIVE = re.compile(r"%%|\.%f|%f|%Z")


def _known_zone(zone: str) -> str:
    try:
        pl.Series([datetime(2000, 1, 1)]).dt.replace_time_zone(zone)
    except pl.exceptions.PolarsError:
        raise ValueError("should be an IANA time zone such as Europe/London") from None
    return zone


def _readable_format(pattern: str) -> str:
    """The pattern as it is read: %f is nanoseconds there, in place of Python's microseconds."""
    found = _DIRECTIVE.findall(pattern)
    if "%Z" in found:
        raise ValueError(
            "should be without %Z, which names a zone and moves no time: write %z for an offset, or"
            " the name itself where it is always the same, and give zone"
        )
    if "%f" in found:
        raise ValueError(
            "should have %f after a dot only: write %3f, %6f or %9f for a fraction of so many"
            " digits"
        )
    return _DIRECTIVE.sub(lambda one: "%.f" if one[0] == ".%f" else one[0], pattern)


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
    holds timestamps needs none; .%f is a fraction of a second of any length, and %Z is refused.
    zone: of times that carry no offset of their own.
    """

    column: str = "time"
    format: Annotated[str, AfterValidator(_readable_format)] = "iso"
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


class Currencies(_Table):
    """Prices in one currency. rates: what one unit of a currency is worth in units of `base`."""

    base: Annotated[str, Field(min_length=1, max_length=16)]
    rates: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}

    @field_validator("base")
    @classmethod
    def _upper_base(cls, base: str) -> str:
        return base.strip().upper()

    @field_validator("rates")
    @classmethod
    def _upper_rates(cls, rates: dict[str, float]) -> dict[str, float]:
        return {name.strip().upper(): rate for name, rate in rates.items()}

    @property
    def factors(self) -> dict[str, float]:
        """What to multiply a price of each known currency with."""
        return self.rates | {self.base: 1.0}


class SourceMapping(_Table):
    """From the columns of one kind of file to an event's fields.

    A field that is not named here is read from the column of its own name: always for platform,
    platform_user_id, time, kind and item_id, where there is such a column for the others.
    drop: tried in order before anything else. absolute_quantity: quantities lose their sign.
    decimal: the mark before fractions in numbers that are written as text. separator, encoding: of
    CSV files. columns: the names of those of CSV files and sheets without a header row. sheet: the
    one sheet of a workbook to read; all otherwise.
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
    decimal: Literal[".", ","] = "."
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    encoding: Literal["utf-8", "utf-16", "latin-1", "cp1252"] = "utf-8"
    columns: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    sheet: str | None = None

    @model_validator(mode="after")
    def _only_users_are_read_from_ids(self) -> Self:
        """What the other fields hold is shown: in reports, and as names of platforms and items."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        reads = {
            name: field.column for name, field in fields.items() if isinstance(field, FieldSource)
        }
        users = reads.pop("platform_user_id")
        shown = sorted(name for name, column in reads.items() if column and column == users)
        if shown:
            raise ValueError(f"{', '.join(shown)} and platform_user_id are read from one column")
        return self

    @property
    def layout(self) -> Layout:
        """How the files lie on disk."""
        return Layout(self.separator, self.encoding, self.sheet, self.columns)


class FileMapping(SourceMapping):
    """The mapping of the files that match one of the patterns.

    files: such as "shop_a/*.csv"; compared with the end of a file's path, part by part.
    """

    files: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]

    def covers(self, path: PurePath) -> bool:
        """Whether a file is one of these."""
        return any(path.match(pattern) for pattern in self.files)


class Mapping(SourceMapping):
    """A mapping file: one mapping for every file, or a [[source]] table for each kind of file.

    currencies, limits: of the whole log.
    """

    source: tuple[FileMapping, ...] = ()
    currencies: Currencies | None = None
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _one_place_for_fields(self) -> Self:
        outside = sorted(self.model_fields_set & set(SourceMapping.model_fields))
        if self.source and outside:
            raise ValueError(f"move {', '.join(outside)} into the [[source]] tables")
        return self

    def of(self, path: Path) -> SourceMapping:
        """The mapping of one file. Raises DataError when no [[source]] or several cover it."""
        if not self.source:
            return self
        found = [source for source in self.source if source.covers(path.resolve())]
        if len(found) == 1:
            return found[0]
        if not found:
            raise DataError(
                f"No [[source]] of the mapping covers {path}; add a pattern that matches it to the"
                " `files` of one, or leave the file out of --events."
            )
        patterns = " and ".join(", ".join(source.files) for source in found)
        raise DataError(
            f"{len(found)} [[source]] tables of the mapping cover {path} ({patterns}); make their"
            " `files` exclude each other."
        )


IDENTITY = Mapping()
"""For logs whose columns have the canonical names."""


def load_mapping(path: Path) -> Mapping:
    """Read and check a mapping. Raises DataError naming the key that is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"The mapping {path} cannot be read ({error.strerror}); check the path."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"The mapping {path} is not valid TOML: {error}; correct it.") from None
    return parse_mapping(text, f"mapping {path}")


def parse_mapping(text: str, name: str) -> Mapping:
    """Check the text of a mapping file; `name` is what an error calls it."""
    try:
        return Mapping.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"The {name} is not valid TOML: {error}; correct it.") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "no such key"
        said = f"{message[0].lower()}{message[1:]}"
        raise DataError(f"The {name} is wrong at {key or 'the top'}: {said}; correct it.") from None

"""The personal attributes of accounts, read from files and made comparable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from shopcast_build.data.columns import check_ids, id_rounded, id_text, text
from shopcast_build.data.errors import DataError
from shopcast_build.data.reading import Source, collect, scan
from shopcast_build.linking.normalising import normalised

ATTRIBUTES = (
    "given_name",
    "surname",
    "date_of_birth",
    "street",
    "street_number",
    "city",
    "postcode",
    "state",
    "email",
    "phone",
)
"""What may be known of a person, by the names of the columns that are read without being told."""

MIN_ACCOUNTS = 100
"""Fewer accounts than this do not show how often attributes agree by chance."""

_ROUNDED = "rounded"
_ACCOUNT = ("platform", "platform_user_id")
_OTHER_NAMES = {"city": ("suburb",)}
_IDENTIFIERS = ("email", "phone")
_OF_A_FORM = ("date_of_birth", *_IDENTIFIERS)  # what cannot be read has another
# One kind of evidence each. Which people match cannot be learned from fewer than three.
_EVIDENCE = (
    ("given_name",),
    ("surname",),
    ("date_of_birth",),
    ("street",),
    ("city", "postcode", "state"),
    ("email",),
    ("phone",),
)
_MIN_EVIDENCE = 3
_PERSONAL = ("given_name", "date_of_birth", "email")
# A date of birth is nobody's own with so many times the accounts of other dates, and this share.
_MAX_CROWDING = 10
_MAX_SHARE = 1e-3


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is known of each account.

    accounts: columns platform, platform_user_id, sorted, each account once. values: text columns,
    those of ATTRIBUTES that two platforms (or the only one) tell, normalised, row by row with
    accounts.
    incomplete: rows without platform or user id. repeated: further rows of an account; the fullest
    row speaks for it. shared: e-mails and phones of too many accounts, which were left out.
    placeholders: dates of birth of far more accounts than chance gives one, left out as well.
    unreadable: rows by attribute whose date, e-mail or phone is in no form that is known.
    """

    accounts: pl.DataFrame = field(repr=False)
    values: pl.DataFrame = field(repr=False)
    incomplete: int
    repeated: int
    shared: int
    placeholders: int
    unreadable: Mapping[str, int]


def parse_columns(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Columns by attribute from ATTRIBUTE=COLUMN texts; an attribute may come several times.

    >>> parse_columns(["surname=last_name", "street=line_1", "street=line_2"])
    {'surname': ('last_name',), 'street': ('line_1', 'line_2')}
    """
    found: dict[str, tuple[str, ...]] = {}
    for one in texts:
        name, separator, column = (part.strip() for part in one.partition("="))
        if name not in (*_ACCOUNT, *ATTRIBUTES) or not (separator and column):
            raise DataError(
                f"The column {one!r} is not of the form ATTRIBUTE=COLUMN; attributes are"
                f" {', '.join((*_ACCOUNT, *ATTRIBUTES))}."
            )
        found[name] = (*found.get(name, ()), column)
    return found


def read_attributes(
    paths: Sequence[Path], columns: Mapping[str, Sequence[str]], *, max_accounts: int
) -> Attributes:
    """Read attribute files: CSV, Parquet, JSONL or XLSX with a row per account.

    columns: by attribute, where its name is not the column's; of several columns a file's texts
    are joined in their order. max_accounts: an e-mail or phone of more accounts is left out.

    Raises DataError for files that cannot be read, for columns that no file has, and where too
    little is known to link by.
    """
    sources = scan(paths)
    known = {column for source in sources for column in source.schema}
    for name, wanted in columns.items():
        if missing := [column for column in wanted if column not in known]:
            raise DataError(
                f"No file has the column {missing[0]} that --column names for {name}; check the"
                " first lines of the files."
            )
    read = pl.concat([_rows(source, columns) for source in sources])
    lost = read.select(pl.col(_unread(name)).sum().alias(name) for name in _OF_A_FORM)
    rows = read.drop(map(_unread, _OF_A_FORM))
    whole = rows.drop_nulls(_ACCOUNT)
    empty = pl.sum_horizontal(pl.col(ATTRIBUTES).is_null())
    best = whole.sort(*_ACCOUNT, empty, *ATTRIBUTES).unique(
        _ACCOUNT, keep="first", maintain_order=True
    )
    holders = {name: pl.len().over(name) for name in _IDENTIFIERS}
    shared = sum(
        best.filter(holders[name] > max_accounts)[name].drop_nulls().n_unique()
        for name in _IDENTIFIERS
    )
    best = best.with_columns(
        pl.when(holders[name] <= max_accounts).then(name).alias(name) for name in _IDENTIFIERS
    )
    stand_ins = _stand_ins(best["date_of_birth"], max_accounts)
    best = best.with_columns(
        date_of_birth=pl.when(~pl.col("date_of_birth").is_in(stand_ins)).then("date_of_birth")
    )
    told = best.group_by("platform").agg(pl.col(ATTRIBUTES).is_not_null().any())
    comparable = told.select(pl.col(ATTRIBUTES).sum() >= min(2, len(told))).row(0, named=True)
    values = best.select(name for name in ATTRIBUTES if comparable[name])
    _check(best, values)
    return Attributes(
        accounts=best.select(_ACCOUNT),
        values=values,
        incomplete=len(rows) - len(whole),
        repeated=len(whole) - len(best),
        shared=shared,
        placeholders=len(stand_ins),
        unreadable={name: n for name, n in lost.row(0, named=True).items() if n},
    )


def _stand_ins(births: pl.Series, max_accounts: int) -> list[str]:
    """Dates that stand for none, such as 1900-01-01: that many people are not born on one day.

    Compared with the other dates, since where only years are known, or all are of one age, there
    are few dates and each is many people's.
    """
    dates = births.drop_nulls().value_counts()
    n = pl.col("count").cast(pl.Float64)
    others = (n.sum() - n) / pl.max_horizontal(pl.len() - 1, 1)
    crowded = pl.max_horizontal(_MAX_CROWDING * others, _MAX_SHARE * n.sum(), max_accounts) < n
    return dates.filter(crowded)["date_of_birth"].to_list()


def _rows(source: Source, columns: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Text columns _ACCOUNT and ATTRIBUTES, normalised; null where the file has no such column.
    Then whether something is told that cannot be read, for each of _OF_A_FORM."""
    wanted = {name: columns.get(name, (name, *_OTHER_NAMES.get(name, ()))) for name in ATTRIBUTES}
    account = {name: columns.get(name, (name,))[0] for name in _ACCOUNT}
    for name, column in account.items():
        if column not in source.schema:
            # What there is instead stays unsaid: a file without a header begins with a person.
            raise DataError(
                f"{source.path} has no column {column}; name the one that holds it with --column"
                f" {name}=COLUMN."
            )
    joined = {
        name: pl.concat_str(
            [text(source, column) for column in among if column in source.schema] or [pl.lit(None)],
            separator=" ",
            ignore_nulls=True,
        )
        for name, among in wanted.items()
    }
    raw = source.rows.select(
        text(source, account["platform"]).str.to_lowercase().alias("platform"),
        id_text(source, account["platform_user_id"]).alias("platform_user_id"),
        id_rounded(source, account["platform_user_id"]).alias(_ROUNDED),
        **joined,
    )
    spelled = normalised(ATTRIBUTES)
    unread = {
        _unread(name): (pl.col(name).str.strip_chars() != "").fill_null(value=False)
        & spelled[name].is_null()
        for name in _OF_A_FORM
    }
    rows = collect(source, raw.select(*_ACCOUNT, _ROUNDED, **spelled, **unread))
    check_ids(source.path, rows.drop_in_place(_ROUNDED))
    return rows


def _unread(name: str) -> str:
    return f"{name} unread"


def _check(accounts: pl.DataFrame, values: pl.DataFrame) -> None:
    """Raise DataError where there is too little to link by."""
    if len(accounts) < MIN_ACCOUNTS:
        raise DataError(
            f"The files hold {len(accounts)} accounts; at least {MIN_ACCOUNTS} are needed to learn"
            " how often attributes agree by chance."
        )
    evidence = [names for names in _EVIDENCE if set(names) & set(values.columns)]
    if len(evidence) < _MIN_EVIDENCE:
        raise DataError(
            f"The platforms tell {', '.join(values.columns) or 'nothing'} of people in common; at"
            f" least {_MIN_EVIDENCE} are needed of"
            f" {', '.join('/'.join(names) for names in _EVIDENCE)}: name the columns with --column"
            " ATTRIBUTE=COLUMN."
        )
    if not set(_PERSONAL) & set(values.columns):
        raise DataError(
            "The platforms tell nothing that differs within a household; one of"
            f" {', '.join(_PERSONAL)} is needed: name its column with --column ATTRIBUTE=COLUMN."
        )

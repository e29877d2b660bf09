"""Which accounts belong to one person, from identifiers that they share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from shopcast_build.data.columns import id_text, text
from shopcast_build.data.errors import DataError
from shopcast_build.data.reading import check_columns, collect, scan

IDENTIFIER_KINDS = ("login", "hashed_email", "hashed_phone", "device", "probabilistic")
_HASHED = r"^[0-9A-Fa-f]{32,128}$|^[0-9A-Za-z+/_-]{22,88}={0,2}$"  # 16 to 64 bytes
_SHORT_KINDS = {"email": "hashed_email", "phone": "hashed_phone"}
_ACCOUNT = ("platform", "user")
_IDENTIFIER = ("identifier_kind", "identifier_hash")
_COLUMNS = ("platform", "platform_user_id", *_IDENTIFIER)
_NO_LINKS = pl.DataFrame(schema=dict.fromkeys(_COLUMNS, pl.String()))


@dataclass(frozen=True, slots=True)
class PeopleReport:
    """Counts. accounts, people and accounts_per_person speak of those with events.

    accounts_per_person: number of people by number of accounts. links: rows of the links file that
    are complete and told apart; links_incomplete: rows with an empty cell; links_used: links by an
    identifier that joins accounts; links_without_events: links of accounts that have no event.
    identifiers_ignored: identifiers that more accounts share than one person has.
    """

    accounts: int
    people: int
    accounts_per_person: Mapping[int, int]
    links: int
    links_incomplete: int
    links_used: int
    links_without_events: int
    identifiers_ignored: int

    def to_json(self) -> dict[str, Any]:
        """The report as a dict of JSON types."""
        return asdict(self) | {
            "accounts_per_person": {str(n): count for n, count in self.accounts_per_person.items()}
        }


@dataclass(frozen=True, slots=True)
class People:
    """The people behind the accounts.

    person: int32 (accounts,), 0 .. count - 1, in the order of each person's first account.
    pairs: columns platform, user, other_platform, other_user, kind: links to import, sorted.
    """

    person: NDArray[np.int32] = field(repr=False)
    count: int
    pairs: pl.DataFrame = field(repr=False)
    report: PeopleReport


def read_links(path: Path) -> pl.DataFrame:
    """Identity links: text columns platform, platform_user_id, identifier_kind, identifier_hash.

    identifier_kind: one of IDENTIFIER_KINDS; email and phone stand for the hashed ones.
    Raises DataError for files that cannot be read, columns that are missing, unknown kinds of
    identifier, and identifiers that are not hashed.
    """
    parts = []
    for source in scan([path]):
        check_columns(source, _COLUMNS, f"links need the columns {', '.join(_COLUMNS)}")
        rows = source.rows.select(
            text(source, "platform").str.to_lowercase(),
            id_text(source, "platform_user_id"),
            text(source, "identifier_kind").str.to_lowercase().replace(_SHORT_KINDS),
            text(source, "identifier_hash"),
        )
        parts.append(collect(source, rows))
    links = pl.concat(parts)
    unknown = links.filter(~pl.col("identifier_kind").is_in(IDENTIFIER_KINDS))
    if len(unknown):
        raise DataError(
            f"{path} has {len(unknown)} links of an unknown identifier_kind; use one of "
            f"{', '.join(IDENTIFIER_KINDS)}."
        )
    if not links["identifier_hash"].str.contains(_HASHED).all():
        raise DataError(
            f"{path} holds an identifier_hash that is no hash of 16 to 64 bytes in hex or base64;"
            " hash identifiers, with SHA-256 for example, before linking."
        )
    return links


def resolve_people(
    accounts: pl.DataFrame, links: pl.DataFrame | None, *, max_accounts_per_identifier: int = 10
) -> People:
    """Join accounts that share an identifier, directly or through other accounts, into people.

    accounts: columns platform, user; those with events, in any order. links: as read_links gives
    them; None makes every account a person. An identifier of more than max_accounts_per_identifier
    accounts (a shop's own address, a family computer) is ignored.
    """
    seen = accounts.select(_ACCOUNT).unique()
    raw = _NO_LINKS if links is None else links.select(_COLUMNS)
    told = raw.rename({"platform_user_id": "user"}).drop_nulls().unique()
    every = pl.concat([seen, told.select(_ACCOUNT)]).unique().sort(_ACCOUNT)
    every = every.with_row_index("account")
    told = told.join(every, on=_ACCOUNT)
    holders = pl.len().over(_IDENTIFIER)
    shared = told.filter(holders > 1, holders <= max_accounts_per_identifier)
    edges = shared.select(
        pl.col("account").min().over(_IDENTIFIER),
        pl.col("account").alias("other"),
        pl.col("identifier_kind").alias("kind"),
    )
    edges = edges.filter(pl.col("account") != pl.col("other")).unique().sort(pl.all())
    every = every.with_columns(pl.Series("group", _components(edges, len(every))))
    known = every.join(seen, on=_ACCOUNT, how="semi", maintain_order="left")
    # Ordinal of the group among those with events, in the order of their first account.
    groups = known.select(pl.col("group").unique(maintain_order=True)).with_row_index("person")
    known = known.join(groups, on="group", maintain_order="left")
    person = accounts.select(_ACCOUNT).join(known, on=_ACCOUNT, how="left", maintain_order="left")
    sizes = known.group_by("person").len().group_by("len").len("people").sort("len")
    ignored = told.filter(holders > max_accounts_per_identifier)
    report = PeopleReport(
        accounts=len(known),
        people=len(groups),
        accounts_per_person=dict(sizes.iter_rows()),
        links=len(told),
        links_incomplete=len(raw) - len(raw.drop_nulls()),
        links_used=len(shared),
        links_without_events=len(told.join(seen, on=_ACCOUNT, how="anti")),
        identifiers_ignored=ignored.select(_IDENTIFIER).n_unique(),
    )
    codes = person["person"].to_numpy().astype(np.int32)
    return People(codes, len(groups), _named(edges, every), report)


def _components(edges: pl.DataFrame, n: int) -> NDArray[np.int64]:
    """The connected component of each of n accounts: int64 (n,)."""
    ends = edges["account"].to_numpy(), edges["other"].to_numpy()
    graph = coo_array((np.ones(len(edges), np.int8), ends), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    return labels.astype(np.int64)


def _named(edges: pl.DataFrame, accounts: pl.DataFrame) -> pl.DataFrame:
    names = accounts.select("account", *_ACCOUNT)
    others = names.rename({"account": "other", "platform": "other_platform", "user": "other_user"})
    return (
        edges.join(names, on="account")
        .join(others, on="other")
        .sort("account", "other", "kind")
        .select(*_ACCOUNT, "other_platform", "other_user", "kind")
    )

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

from shopcast_build.data.coding import SEPARATOR, Interner
from shopcast_build.data.columns import id_text, text
from shopcast_build.data.errors import DataError
from shopcast_build.data.reading import check_columns, collect, scan

IDENTIFIER_KINDS = ("login", "hashed_email", "hashed_phone", "device", "probabilistic")
_HASHED = r"^[0-9A-Fa-f]{32,128}$|^[0-9A-Za-z+/_-]{22,88}={0,2}$"  # 16 to 64 bytes
_SHORT_KINDS = {"email": "hashed_email", "phone": "hashed_phone"}
_COLUMNS = ("platform", "platform_user_id", "identifier_kind", "identifier_hash")
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
    raw = _NO_LINKS if links is None else links.select(_COLUMNS)
    whole = raw.drop_nulls().rename({"platform_user_id": "user"})
    incomplete = len(raw) - len(whole)
    names = Interner()
    seen, linked = (names.codes(_scoped(rows)) for rows in (accounts, whole))
    ranked = names.ranked()
    place = ranked.of(seen).to_numpy()
    told = _coded(whole, ranked.of(linked))
    del raw, whole, links, seen, linked, names
    every = ranked.scoped("user")
    holders = pl.len().over("identifier")
    shared = told.filter(holders > 1, holders <= max_accounts_per_identifier)
    ignored = told.filter(holders > max_accounts_per_identifier)["identifier"]
    edges = shared.select(
        pl.col("account").min().over("identifier"), pl.col("account").alias("other"), "kind"
    )
    edges = edges.filter(pl.col("account") != pl.col("other")).unique().sort(pl.all())
    group = _components(edges, len(every))
    known = np.zeros(len(every), np.bool_)
    known[place] = True
    # Ordinal of the group among those with events, in the order of their first account.
    groups, first = np.unique(group[known], return_index=True)
    person_of_group = np.full(len(every), -1, np.int32)
    person_of_group[groups[first.argsort()]] = np.arange(len(groups), dtype=np.int32)
    sizes = np.unique(np.bincount(person_of_group[group[known]]), return_counts=True)
    report = PeopleReport(
        accounts=int(known.sum()),
        people=len(groups),
        accounts_per_person={int(n): int(people) for n, people in zip(*sizes, strict=True)},
        links=len(told),
        links_incomplete=incomplete,
        links_used=len(shared),
        links_without_events=int((~known[told["account"].to_numpy()]).sum()),
        identifiers_ignored=ignored.n_unique(),
    )
    return People(person_of_group[group[place]], len(groups), _named(edges, every), report)


def _scoped(rows: pl.DataFrame) -> pl.Series:
    return rows.select(pl.concat_str("platform", "user", separator=SEPARATOR)).to_series()


def _coded(links: pl.DataFrame, account: pl.Series) -> pl.DataFrame:
    """Links as numbers, each once: columns account, identifier, kind (an Enum in its order)."""
    kind = links["identifier_kind"]
    kind = kind.cast(pl.Enum(kind.unique().sort()))
    number = Interner().codes(links["identifier_hash"]).cast(pl.Int64)
    # One hash of two kinds is two identifiers.
    identifier = number * len(IDENTIFIER_KINDS) + kind.to_physical().cast(pl.Int64)
    return pl.DataFrame({"account": account, "identifier": identifier, "kind": kind}).unique()


def _components(edges: pl.DataFrame, n: int) -> NDArray[np.int64]:
    """The connected component of each of n accounts: int64 (n,)."""
    ends = edges["account"].to_numpy(), edges["other"].to_numpy()
    graph = coo_array((np.ones(len(edges), np.int8), ends), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    return labels.astype(np.int64)


def _named(edges: pl.DataFrame, accounts: pl.DataFrame) -> pl.DataFrame:
    first, other = (accounts[edges[name]] for name in ("account", "other"))
    return first.hstack(
        [
            other["platform"].alias("other_platform"),
            other["user"].alias("other_user"),
            edges["kind"].cast(pl.String),
        ]
    )

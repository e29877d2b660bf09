"""Which accounts belong to one person, from identifiers that they share and pairs once found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from shopcast_build.data.coding import SEPARATOR, Interner
from shopcast_build.data.errors import DataError
from shopcast_build.data.links import (
    IDENTIFIER_COLUMNS,
    IDENTIFIER_KINDS,
    PAIR_COLUMNS,
    read_links,
)
from shopcast_build.data.report import Suspicion

__all__ = ["People", "PeopleReport", "check_links", "read_links", "resolve_people"]

_MOST_IDENTIFIERS, _MOST_DEVICES = 10, 100
"""Logins, e-mails or phones, each, and devices of one person; browsers forget who they are."""

MIN_CONFIDENCE = 0.95
"""Of pairs that make two accounts one person's."""

_NO_LINKS = dict.fromkeys(IDENTIFIER_COLUMNS, pl.String())
_NO_PAIRS = dict.fromkeys((*PAIR_COLUMNS, "source"), pl.String()) | {"confidence": pl.Float64()}


@dataclass(frozen=True, slots=True)
class PeopleReport:
    """Counts. accounts, people and accounts_per_person speak of those with events.

    accounts_per_person: number of people by number of accounts. links: rows of the links file that
    are complete and told apart; links_incomplete: rows with an empty cell; links_used: links by an
    identifier that joins accounts; links_without_events: links of accounts that have no event.
    identifiers_ignored: identifiers that more accounts share than one person has. accounts_ignored:
    accounts with more identifiers or pairs than one person has.
    pairs: pairs of accounts that are complete, told apart and certain enough; pairs_uncertain:
    those that are not. links_incomplete counts pairs with an empty cell too. linked: accounts with
    events that links or pairs name.
    """

    accounts: int
    people: int
    accounts_per_person: Mapping[int, int]
    links: int
    links_incomplete: int
    links_used: int
    links_without_events: int
    identifiers_ignored: int
    pairs: int = 0
    pairs_uncertain: int = 0
    linked: int = 0
    accounts_ignored: int = 0

    @property
    def unmatched(self) -> str | None:
        """What to say where none of the links is of an account with events."""
        given = self.links + self.pairs + self.pairs_uncertain
        if self.linked or not given:
            return None
        return (
            f"None of the {given:,} links names an account that has events: write platforms and"
            " user ids as the log does (spreadsheets take zeros from the front of numbers)."
        )

    @property
    def suspicious(self) -> tuple[Suspicion, ...]:
        """Accounts that many people share, whose links join nobody."""
        n = self.accounts_ignored
        if not n:
            return ()
        few, many = _MOST_IDENTIFIERS, _MOST_DEVICES
        have = "account of the links has" if n == 1 else "accounts of the links have"
        found = Suspicion(
            "accounts that many share",
            None,
            n,
            self.accounts,
            f"{n:,} {have} more than {few} logins, e-mails or phones, {many} devices or {few} pairs"
            " with one platform, as one that all guests share: such links join nobody.",
            "Leave such accounts out of the links, and give guests ids of their own.",
        )
        return (found,)

    def to_json(self) -> dict[str, Any]:
        """The report as a dict of JSON types."""
        return asdict(self) | {
            "accounts_per_person": {str(n): count for n, count in self.accounts_per_person.items()}
        }


@dataclass(frozen=True, slots=True)
class People:
    """The people behind the accounts.

    person: int32 (accounts,), 0 .. count - 1, in the order of each person's first account.
    pairs: columns platform, user, other_platform, other_user, kind, confidence, source: links to
    import, sorted. Who share an identifier have confidence 1 and no source.
    """

    person: NDArray[np.int32] = field(repr=False)
    count: int
    pairs: pl.DataFrame = field(repr=False)
    report: PeopleReport


def resolve_people(
    accounts: pl.DataFrame,
    links: pl.DataFrame | None,
    *,
    max_accounts_per_identifier: int = 10,
    min_confidence: float = MIN_CONFIDENCE,
) -> People:
    """Join accounts that share an identifier or are a pair, also through others, into people.

    accounts: columns platform, user; those with events, in any order. links: as read_links gives
    them; None makes every account a person. An identifier of more than max_accounts_per_identifier
    accounts (a shop's own address, a family computer) is ignored, and so are a pair of less than
    min_confidence and all links of an account with more of them than a person has (that of guests).
    """
    whole, pairs, incomplete = _split(links)
    names = Interner()
    seen, linked, first_end, other_end = (
        names.codes(_scoped(rows))
        for rows in (
            accounts,
            whole,
            pairs,
            pairs.select(platform="other_platform", user="other_user"),
        )
    )
    ranked = names.ranked()
    place = ranked.of(seen).to_numpy()
    told = _coded(whole, ranked.of(linked))
    found = _told_pairs(pairs, ranked.of(first_end), ranked.of(other_end))
    del links, whole, pairs, seen, linked, first_end, other_end, names
    every = ranked.scoped("user")
    certain = found.filter(pl.col("confidence") >= min_confidence)
    crowded = _crowded(told, certain, every["platform"])
    of_people = told.filter(~pl.col("account").is_in(crowded.implode()))
    holders = pl.len().over("identifier")
    shared = of_people.filter(holders > 1, holders <= max_accounts_per_identifier)
    ignored = of_people.filter(holders > max_accounts_per_identifier)["identifier"]
    of_crowded = (pl.col(end).is_in(crowded.implode()) for end in ("account", "other"))
    certain = certain.filter(~pl.any_horizontal(of_crowded))
    edges = pl.concat([_shared_edges(shared), certain]).sort(pl.all())
    group = _components(edges, len(every))
    known = np.zeros(len(every), np.bool_)
    known[place] = True
    # Ordinal of the group among those with events, in the order of their first account.
    groups, first = np.unique(group[known], return_index=True)
    person_of_group = np.full(len(every), -1, np.int32)
    person_of_group[groups[first.argsort()]] = np.arange(len(groups), dtype=np.int32)
    sizes = np.unique(np.bincount(person_of_group[group[known]]), return_counts=True)
    named = np.concatenate([told["account"], found["account"], found["other"]])
    report = PeopleReport(
        accounts=int(known.sum()),
        people=len(groups),
        accounts_per_person={int(n): int(people) for n, people in zip(*sizes, strict=True)},
        links=len(told),
        links_incomplete=incomplete,
        links_used=len(shared),
        links_without_events=int((~known[told["account"].to_numpy()]).sum()),
        identifiers_ignored=ignored.n_unique(),
        pairs=len(certain),
        pairs_uncertain=len(found) - len(certain),
        linked=int(known[np.unique(named)].sum()),
        accounts_ignored=len(crowded),
    )
    return People(person_of_group[group[place]], len(groups), _named(edges, every), report)


def check_links(report: PeopleReport) -> None:
    """Raise DataError when there are links, and none is of an account with events."""
    if report.unmatched is not None:
        raise DataError(report.unmatched)


def _split(links: pl.DataFrame | None) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Complete identifiers, complete pairs with their source, and how many rows are neither."""
    raw = pl.DataFrame(schema=_NO_LINKS) if links is None else links
    whole, pairs = pl.DataFrame(schema=_NO_LINKS), pl.DataFrame(schema=_NO_PAIRS)
    # Where rows of both sorts lie together, those of one have nothing in the columns of the other.
    if "identifier_hash" in raw.columns:
        whole = raw.select(IDENTIFIER_COLUMNS).drop_nulls()
    if "confidence" in raw.columns:
        pairs = raw.select(*PAIR_COLUMNS, "source").drop_nulls(PAIR_COLUMNS)
    incomplete = len(raw) - len(whole) - len(pairs)
    ends = {"platform_user_id": "user", "other_platform_user_id": "other_user"}
    return whole.rename({"platform_user_id": "user"}), pairs.rename(ends), incomplete


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


def _shared_edges(shared: pl.DataFrame) -> pl.DataFrame:
    """Each holder of an identifier with the first of them: account, other, kind, ... of _named."""
    edges = shared.select(
        pl.col("account").min().over("identifier"),
        pl.col("account").alias("other"),
        pl.col("kind").cast(pl.String),
    )
    edges = edges.filter(pl.col("account") != pl.col("other")).unique()
    return edges.with_columns(confidence=pl.lit(1.0), source=pl.lit(None, pl.String))


def _crowded(told: pl.DataFrame, pairs: pl.DataFrame, platform: pl.Series) -> pl.Series:
    """Accounts with more identifiers of a kind, or pairs with accounts of one platform, than a
    person has. platform: of each account."""
    of_devices = pl.col("kind").cast(pl.String) == "device"
    most = pl.when(of_devices).then(_MOST_DEVICES).otherwise(_MOST_IDENTIFIERS)
    busy = told.group_by("account", "kind").len().filter(pl.col("len") > most)["account"]
    ends = ("account", "other")
    both = pl.concat(
        [
            pairs.select(pl.col(a).alias("account"), pl.col(b).alias("far"))
            for a, b in (ends, ends[::-1])
        ]
    ).unique()
    there = platform.gather(both["far"]).alias("platform")
    paired = both.with_columns(there).group_by("account", "platform").len()
    return pl.concat([busy, paired.filter(pl.col("len") > _MOST_IDENTIFIERS)["account"]]).unique()


def _told_pairs(pairs: pl.DataFrame, first: pl.Series, other: pl.Series) -> pl.DataFrame:
    """Pairs as numbers, account before other, each once and at its highest confidence."""
    ends = pairs.select("kind", "confidence", "source").with_columns(first=first, other=other)
    told = ends.select(
        pl.min_horizontal("first", "other").alias("account"),
        pl.max_horizontal("first", "other").alias("other"),
        *("kind", "confidence", "source"),
    )
    told = told.filter(pl.col("account") != pl.col("other"))
    told = told.sort("confidence", "source", descending=[True, False], nulls_last=True)
    return told.unique(["account", "other", "kind"], keep="first", maintain_order=True)


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
            edges["kind"],
            edges["confidence"],
            edges["source"],
        ]
    )

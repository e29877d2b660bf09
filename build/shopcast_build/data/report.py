"""What cleaning a log found and did."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Something that is kept as it is and looks wrong.

    name: of the check. platform: where, or None for the whole log. rows: how many of `of` events,
    accounts, items or files it concerns. sentence: what was found. advice: what to do. examples:
    without user ids.
    """

    name: str
    platform: str | None
    rows: int
    of: int
    sentence: str
    advice: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlatformReport:
    """One platform's rows. read = kept + duplicates + the sum of dropped.

    dropped, repaired: by reason. kinds, months ("2010-01"): events by each; hours: events by hour
    of the day in UTC, 24 of them; currencies: rows with a price by currency as they came.
    browsed: whether people are asked about as they look at items, else as they order; unled: buys
    that no view or cart precedes, which are left out where it is browsed.
    first_time, last_time: of the events kept, None where none was.
    """

    platform: str
    read: int
    kept: int
    duplicates: int
    dropped: Mapping[str, int]
    repaired: Mapping[str, int]
    kinds: Mapping[str, int]
    accounts: int
    items: int
    currencies: Mapping[str, int]
    months: Mapping[str, int]
    hours: tuple[int, ...]
    first_time: datetime | None
    last_time: datetime | None
    browsed: bool
    unled: int

    @property
    def asked(self) -> str:
        """What is learned here, in a few words."""
        if not self.browsed:
            return "asked at orders"
        what = "purchase" if self.unled == 1 else "purchases"
        left_out = f"; {self.unled:,} {what} without a view left out" if self.unled else ""
        return f"asked at views and carts{left_out}"


@dataclass(frozen=True, slots=True)
class CleaningReport:
    """Counts of rows. read = kept + duplicates + the sum of dropped.

    files: names of the files and sheets read, in order. dropped, repaired: by reason; a repaired
    row is kept. bad: those dropped because they cannot be used, by reason; ruled: rows that a rule
    of the mapping drops.
    duplicates: rows whose event id was there before. examples: up to three per reason, as
    'row N of FILE: VALUE', never with a user id. first_time, last_time: of the events kept.
    largest_account: events of the account that has most. early_returns, judged_returns: returns
    hours before their only purchase, and returns with one purchase.
    """

    files: tuple[str, ...]
    read: int
    kept: int
    dropped: Mapping[str, int]
    repaired: Mapping[str, int]
    bad: Mapping[str, int]
    ruled: int
    duplicates: int
    platforms: Mapping[str, int]
    kinds: Mapping[str, int]
    items: int
    accounts: int
    first_time: datetime
    last_time: datetime
    examples: Mapping[str, tuple[str, ...]]
    largest_account: int
    early_returns: int
    judged_returns: int
    by_platform: tuple[PlatformReport, ...]
    suspicious: tuple[Suspicion, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as a dict of JSON types; times in ISO 8601."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value.isoformat() if isinstance(value, datetime) else value

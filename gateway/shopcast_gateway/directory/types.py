"""What a directory is asked and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import Account, EventKind
from shopcast_domain.features import Candidates, Window

Vector = NDArray[np.float32]


class LinkKind(StrEnum):
    """How it is known that two accounts belong to one person."""

    LOGIN = "login"
    HASHED_EMAIL = "hashed_email"
    HASHED_PHONE = "hashed_phone"
    DEVICE = "device"
    PROBABILISTIC = "probabilistic"
    OPERATOR = "operator"


class Purpose(StrEnum):
    """What a person's events may be used for. Allowed until it is refused."""

    PREDICTION = "prediction"
    RECOMMENDATION = "recommendation"
    MARKETING = "marketing"
    RISK = "risk"
    RESEARCH = "research"


class EventStatus(Enum):
    """What became of one event. A quarantined one is kept, and feeds nothing."""

    RECORDED = "recorded"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class RecordResult:
    """What became of a batch of events, one status per event in their order."""

    statuses: tuple[EventStatus, ...]

    def count(self, status: EventStatus) -> int:
        """How many events have a status."""
        return self.statuses.count(status)

    @property
    def recorded(self) -> int:
        """Events that are new and count from now on."""
        return self.count(EventStatus.RECORDED)

    @property
    def duplicates(self) -> int:
        """Events whose id had been recorded before, or stands twice in the batch."""
        return self.count(EventStatus.DUPLICATE)

    @property
    def quarantined(self) -> int:
        """Events that no person can have caused."""
        return self.count(EventStatus.QUARANTINED)


@dataclass(frozen=True, slots=True)
class LinkStatement:
    """That two accounts belong to one person. confidence: over 0, at most 1. source: who says so,
    64 characters at most, no personal data."""

    account: Account
    other: Account
    kind: LinkKind
    confidence: float = 1.0
    source: str = ""


@dataclass(frozen=True, slots=True)
class LinkResult:
    """The person two accounts now belong to, whether two persons became one, and whether the link
    was surer before."""

    person_id: str
    merged: bool
    weakened: bool = False


@dataclass(frozen=True, slots=True)
class UnlinkResult:
    """The person of either account after a link has gone. removed: links that were there.
    split: whether one person became two."""

    person_id: str
    other_person_id: str
    removed: int
    split: bool


@dataclass(frozen=True, slots=True)
class Person:
    """A person and their accounts.

    person_id: "p_" and 32 hex digits. accounts: (platform, pseudonym of 32 hex digits), sorted.
    """

    person_id: str
    accounts: tuple[tuple[str, str], ...] = field(repr=False)


class ChangeKind(StrEnum):
    """What changed in who is who."""

    LINKED = "linked"
    UNLINKED = "unlinked"
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Change:
    """An entry of the journal.

    number: rises with every entry of a directory, not by one. at_s: seconds since the epoch.
    person_id: of whoever the change is about, after it. other_person_id: the id that now leads to
    person_id where two persons became one, that of the person restored where one became two, else
    None. link_kind, confidence, source: of the link; None for an erased person.
    """

    number: int
    at_s: float
    kind: ChangeKind
    person_id: str
    other_person_id: str | None = None
    link_kind: LinkKind | None = None
    confidence: float | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """An event as it is shown to people. Times: seconds since the epoch. price: of one piece.

    confidence: how sure it is that the event is the person's, over the account that was asked for.
    """

    platform: str
    account_pseudonym: str
    kind: EventKind
    item_id: str
    title: str | None
    price: float | None
    quantity: int
    time_s: float
    recorded_s: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Reading:
    """All one prediction needs, from one consistent read.

    person_known: the account has been seen. window: the person's newest events over all platforms
    that may be used; where some of them are less than certain, the newest certain ones too, up to
    as many more. window_texts: item text per event of the window, '' where there is none.
    window_platforms: platform name per event of the window. window_confidence: float64 per event,
    over 0 to 1: how sure it is that the event is the person's. candidates: the asked-for items with
    what the directory knows filled in. candidate_texts: item text per candidate, '' where neither
    request nor directory has any. candidate_categories: as match_name gives them, '' where unknown.
    candidate_known: whether an event of the directory names the item. suppressed: names of the
    platforms that the person does not allow, sorted.
    """

    person_known: bool
    window: Window
    window_texts: tuple[str, ...]
    window_platforms: tuple[str, ...]
    window_confidence: NDArray[np.float64]
    candidates: Candidates
    candidate_texts: tuple[str, ...]
    candidate_categories: tuple[str, ...]
    candidate_known: tuple[bool, ...]
    suppressed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was removed with a person. Counts of accounts, events (quarantined ones too), links,
    entries of the journal. at_s: seconds since the epoch."""

    person_id: str
    at_s: float
    platforms: tuple[str, ...]
    accounts: int
    events: int
    links: int
    journal_entries: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts. accounts_by_key: accounts by the age of the key their pseudonym was made with, 0 for
    the newest. size_bytes: on disk, or in memory where the store lives there."""

    accounts: int
    people: int
    links: int
    events: int
    quarantined: int
    items: int
    vectors: int
    changes: int
    accounts_by_key: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept. max_age_s: of an event, by its own time. max_events: per person, the newest
    ones. None keeps all. Counts of items, categories and platforms stay as they are."""

    max_age_s: float | None = None
    max_events: int | None = None


@dataclass(frozen=True, slots=True)
class FloodRules:
    """What one account can do; what goes beyond is quarantined. By the events' own times.

    looks_per_second, looks_per_minute: views and carts. orders_per_minute: lines bought or
    returned, of which a large order has a thousand in one second.
    """

    looks_per_second: int = 50
    looks_per_minute: int = 600
    orders_per_minute: int = 2_000


FLOODS = FloodRules()
"""The usual rules."""

Consents = Mapping[str, Mapping[Purpose, bool]]
"""By platform, whether a purpose is allowed there: for none of its accounts is it refused."""

PersonData = dict[str, Any]
"""Everything about a person, as JSON types."""

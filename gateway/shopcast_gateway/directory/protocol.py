"""The seam between the gateway's core and whatever keeps accounts, events and items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import Account, Event, Item
from shopcast_domain.features import Candidates, Window

Vector = NDArray[np.float32]


class LinkKind(StrEnum):
    """How it is known that two accounts belong to one person."""

    LOGIN = "login"
    HASHED_EMAIL = "hashed_email"
    HASHED_PHONE = "hashed_phone"
    DEVICE = "device"
    PROBABILISTIC = "probabilistic"


@dataclass(frozen=True, slots=True)
class RecordResult:
    """What became of a batch of events: recorded + duplicates = events sent."""

    recorded: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class LinkResult:
    """The person two accounts now belong to, and whether two persons became one."""

    person_id: str
    merged: bool


@dataclass(frozen=True, slots=True)
class Person:
    """A person and their accounts.

    person_id: "p_" and 32 hex digits. accounts: (platform, pseudonym of 32 hex digits), sorted.
    """

    person_id: str
    accounts: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reading:
    """All one prediction needs, from one consistent read.

    person_known: the account has been seen. window: the person's newest events over all platforms.
    window_texts: item text per event of the window, '' where there is none.
    window_platforms: platform name per event of the window.
    candidates: the asked-for items with what the directory knows filled in.
    candidate_texts: item text per candidate, '' where neither request nor directory has any.
    candidate_known: whether an event of the directory names the item.
    """

    person_known: bool
    window: Window
    window_texts: tuple[str, ...]
    window_platforms: tuple[str, ...]
    candidates: Candidates
    candidate_texts: tuple[str, ...]
    candidate_known: tuple[bool, ...]


class Directory(Protocol):
    """A store. Methods may be called concurrently; each raises Unavailable when it is away."""

    async def record(self, events: Sequence[Event]) -> RecordResult:
        """Keep events, all or none; on disk when this returns. Known event ids change nothing."""
        ...

    async def link(
        self, account: Account, other: Account, *, kind: LinkKind, confidence: float
    ) -> LinkResult:
        """Make two accounts one person's, creating accounts never seen. Twice changes nothing."""
        ...

    async def resolve(self, account: Account) -> Person | None:
        """The person behind an account, or None when the account has never been seen."""
        ...

    async def read(
        self, account: Account, items: Sequence[Item], *, before_s: float, limit: int
    ) -> Reading:
        """The person's newest `limit` events before `before_s`, and the candidates' tallies.

        items: candidates on the account's platform; attributes they carry win over the directory's.
        """
        ...

    async def vectors(self, encoder: str, digests: Sequence[bytes]) -> Mapping[bytes, Vector]:
        """The vectors kept for text digests under an encoder version; absent ones are left out."""
        ...

    async def keep_vectors(self, encoder: str, vectors: Mapping[bytes, Vector]) -> None:
        """Keep vectors (float32 (d,) each) for an encoder version."""
        ...

    async def close(self) -> None:
        """Finish what is being written, then let go of the store."""
        ...

"""The seam between the gateway's core and whatever keeps accounts, events and items."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from shopcast_domain.events import Account, Event, Item
from shopcast_gateway.directory.types import (
    Change,
    Consents,
    HistoryEvent,
    LinkKind,
    LinkResult,
    LinkStatement,
    Person,
    PersonData,
    Purpose,
    Reading,
    Receipt,
    RecordResult,
    Retention,
    Stats,
    UnlinkResult,
    Vector,
)

Progress = Callable[[int, int], None]
"""Is told what is done, and of how much."""


class Directory(Protocol):
    """A store. Methods may be called concurrently; each raises Unavailable when it is away.

    A person is the accounts that links connect. Their id is that of the account seen first, which
    it keeps for ever: after a merge the younger person's id leads to the older one, and when the
    link goes, it is theirs again.
    """

    # Events and items

    async def record(self, events: Sequence[Event]) -> RecordResult:
        """Keep events, all or none; on disk when this returns. Known event ids change nothing, and
        what breaks the flood rules is kept apart."""
        ...

    async def read(
        self,
        account: Account,
        items: Sequence[Item],
        *,
        before_s: float,
        limit: int,
        purpose: Purpose = Purpose.PREDICTION,
        min_confidence: float = 0.0,
    ) -> Reading:
        """The person's newest `limit` events before `before_s`, and the candidates' tallies.

        items: candidates on the account's platform; attributes they carry win over the directory's.
        min_confidence: events of accounts that are less surely the person's are left out.
        """
        ...

    async def history(
        self,
        account: Account,
        *,
        before_s: float,
        limit: int,
        as_of_s: float | None = None,
        purpose: Purpose | None = None,
    ) -> tuple[HistoryEvent, ...]:
        """The person's newest events before `before_s`, newest first, ties in a fixed order.

        as_of_s: the person and the events as they were known then. purpose: leaves out what may not
        be used for it; None leaves out nothing.
        """
        ...

    # Who is who

    async def resolve(self, account: Account, *, as_of_s: float | None = None) -> Person | None:
        """The person behind an account, now or as it was then; None when the account had never been
        seen."""
        ...

    async def resolve_many(self, accounts: Sequence[Account]) -> tuple[Person | None, ...]:
        """As `resolve`, in their order, of one moment."""
        ...

    async def find(self, person_id: str) -> Person | None:
        """The person an id leads to, be it theirs or that of a person who became theirs; None where
        nobody ever had it, or they were erased."""
        ...

    async def link(
        self,
        account: Account,
        other: Account,
        *,
        kind: LinkKind,
        confidence: float,
        source: str = "",
    ) -> LinkResult:
        """Make two accounts one person's, creating accounts never seen.

        The same again changes nothing; another confidence or source of the same kind replaces the
        one before. source: who says so, 64 characters at most, no personal data.
        """
        ...

    async def link_many(self, statements: Sequence[LinkStatement]) -> Sequence[LinkResult]:
        """As `link`, one after the other; thousands at once are what makes an import fast."""
        ...

    async def unlink(
        self, account: Account, other: Account, *, kind: LinkKind | None = None
    ) -> UnlinkResult:
        """Take the links between two accounts away, those of one kind or all.

        Raises NotFound when either account has never been seen.
        """
        ...

    async def split(self, account: Account) -> UnlinkResult:
        """Take all links of an account away, so that it is a person by itself.

        `other_person_id` is that of the rest; the account's own where there is none. Raises
        NotFound.
        """
        ...

    async def undo(self, number: int) -> Change:
        """Take a change of the journal back, which is a change too: a link goes, or returns as it
        was. Nothing to take back is no error: the newest change of that link is returned.

        Raises NotFound when there is no such change, or it cannot be taken back.
        """
        ...

    async def changes(self, after: int, *, limit: int) -> Sequence[Change]:
        """The journal's entries with a number above `after`, oldest first.

        Raises ChangesLost where the newest has a lower one.
        """
        ...

    # Privacy

    async def set_consent(
        self, account: Account, purposes: Mapping[Purpose, bool], *, everywhere: bool = False
    ) -> Consents:
        """Allow or refuse the use of an account's events, or of all the person's. Creates accounts
        never seen, whose events of later are under it too. Returns what holds for the person."""
        ...

    async def consents(self, account: Account) -> Consents:
        """What may be done with the person's events; empty when the account has never been seen."""
        ...

    async def export(self, account: Account) -> PersonData | None:
        """Everything kept about a person, None when the account has never been seen."""
        ...

    async def export_found(self, person_id: str) -> PersonData | None:
        """As `export`, of the person an id leads to (`find`)."""
        ...

    async def people(self, cursor: str, *, limit: int) -> tuple[Sequence[PersonData], str]:
        """Everything about some people, and the cursor to go on with; '' begins and ends. Whoever
        is there all the time is told once, in the order in which people were first seen; but of who
        was joined or parted in between (`changes` tells), accounts may be missing or told twice:
        `export_found` has them."""
        ...

    async def erase(self, account: Account) -> Receipt | None:
        """Remove a person: accounts, events, links, and the journal but for one entry that names
        their id. None when the account has never been seen. Counts of items stay as they are."""
        ...

    # Vectors

    async def vectors(self, encoder: str, digests: Sequence[bytes]) -> Mapping[bytes, Vector]:
        """The vectors kept for text digests under an encoder version; absent ones are left out."""
        ...

    async def keep_vectors(self, encoder: str, vectors: Mapping[bytes, Vector]) -> None:
        """Keep vectors (float32 (d,) each) for an encoder version."""
        ...

    # Upkeep

    async def stats(self) -> Stats:
        """What is in it."""
        ...

    async def compact(
        self,
        retention: Retention,
        *,
        encoders: Collection[str] | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Remove events beyond what is kept, and vectors of encoders that are not named; give room
        back. Returns how many events went. progress: is told how far the accounts have been gone
        through, in their order, and how far that goes."""
        ...

    async def close(self) -> None:
        """Finish what is being written, then let go of the store."""
        ...

"""Calls about who is who."""

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from shopcast.v1 import identity_service_pb2
from shopcast_client.building import built, timestamp
from shopcast_client.calls import Caller
from shopcast_client.messages import (
    account_message,
    identity_change,
    link_kind_value,
    person,
)
from shopcast_client.types import (
    Account,
    IdentityChange,
    LinkKind,
    LinkResult,
    Person,
    UnlinkResult,
)


class PeopleCalls(Caller):
    """Joining accounts to people, taking them apart, and looking people up.

    What changes something is sent once: where it raises Unavailable or DeadlineExceeded it may have
    been done, so look before you ask again.
    """

    async def link_accounts(
        self,
        account: Account,
        other: Account,
        *,
        kind: LinkKind,
        confidence: float = 1.0,
        source: str = "",
    ) -> LinkResult:
        """State that two accounts belong to one person; their histories are read as one from then.

        confidence: greater than 0, at most 1; what is read through the link counts by it. source:
        who says so, up to 64 characters. Linking twice changes nothing. Raises a ShopcastError.
        """
        request = built(
            identity_service_pb2.LinkAccountsRequest,
            account=account_message(account),
            other=account_message(other, "other"),
            kind=link_kind_value(kind),
            confidence=confidence,
            source=source,
        )
        response = await self._call(self._connection.identity.LinkAccounts, request)
        return LinkResult(response.person_id, response.merged)

    async def merge_people(
        self, account: Account, other: Account, *, source: str = ""
    ) -> LinkResult:
        """Make the people behind two accounts one, by decision. Raises a ShopcastError."""
        request = built(
            identity_service_pb2.MergePeopleRequest,
            account=account_message(account),
            other=account_message(other, "other"),
            source=source,
        )
        response = await self._call(self._connection.identity.MergePeople, request)
        return LinkResult(response.person_id, response.merged)

    async def unlink_accounts(
        self, account: Account, other: Account, *, kind: LinkKind | None = None
    ) -> UnlinkResult:
        """Take the links between two accounts away, those of one kind or all.

        Raises NotFound for accounts never seen, and other ShopcastErrors.
        """
        request = identity_service_pb2.UnlinkAccountsRequest(
            account=account_message(account),
            other=account_message(other, "other"),
            kind=identity_service_pb2.LINK_KIND_UNSPECIFIED
            if kind is None
            else link_kind_value(kind),
        )
        response = await self._call(self._connection.identity.UnlinkAccounts, request)
        return UnlinkResult(response.person_id, response.other_person_id, response.removed)

    async def split_account(self, account: Account) -> UnlinkResult:
        """Take all links of an account away, so that it is a person by itself.

        Raises NotFound for an account never seen, and other ShopcastErrors.
        """
        request = identity_service_pb2.SplitAccountRequest(account=account_message(account))
        response = await self._call(self._connection.identity.SplitAccount, request)
        return UnlinkResult(response.person_id, response.other_person_id, response.removed)

    async def undo_change(self, number: int) -> IdentityChange:
        """Take a change back: a link goes, or returns as it was.

        Raises NotFound where there is no such change, and other ShopcastErrors.
        """
        request = built(identity_service_pb2.UndoChangeRequest, number=number)
        response = await self._call(self._connection.identity.UndoChange, request)
        return identity_change(response.change)

    async def resolve_person(
        self, *, platform: str, user_id: str, as_of: datetime | None = None
    ) -> Person | None:
        """The person behind an account, now or as of a time; None when it had never been seen.

        Raises a ShopcastError.
        """
        request = identity_service_pb2.ResolvePersonRequest(
            account=account_message(Account(platform, user_id)), as_of=timestamp(as_of, "as_of")
        )
        response = await self._call(self._connection.identity.ResolvePerson, request)
        return person(response)

    async def resolve_people(self, accounts: Sequence[Account]) -> tuple[Person | None, ...]:
        """The person behind each of 1 to 1,000 accounts, in their order. Raises a ShopcastError."""
        request = identity_service_pb2.BatchResolvePeopleRequest(
            accounts=[account_message(one, f"accounts[{n}]") for n, one in enumerate(accounts)]
        )
        response = await self._call(self._connection.identity.BatchResolvePeople, request)
        return tuple(map(person, response.people))

    async def find_person(self, person_id: str) -> Person | None:
        """The person an id leads to: theirs, or that of one who became part of them.

        Raises a ShopcastError.
        """
        request = built(identity_service_pb2.FindPersonRequest, person_id=person_id)
        return person((await self._call(self._connection.identity.FindPerson, request)).person)

    async def watch_changes(self, *, after: int = 0) -> AsyncIterator[IdentityChange]:
        """Every change of who is who with a number above `after`, and those to come.

        Ends when the server drains: call again with the number of the last one. Raises ChangesLost
        where the journal ends before `after`, and other ShopcastErrors.
        """
        request_id = uuid.uuid4().hex
        request = built(identity_service_pb2.WatchChangesRequest, after=after)
        async with self._errors(request_id):
            call = self._connection.identity.WatchChanges(
                request, metadata=self._metadata(request_id)
            )
            try:
                async for response in call:
                    yield identity_change(response.change)
            finally:
                call.cancel()

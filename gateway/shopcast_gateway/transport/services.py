"""The services of events, identities and privacy: convert, ask, convert back."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from shopcast.v1 import (
    event_service_pb2,
    event_service_pb2_grpc,
    identity_service_pb2,
    identity_service_pb2_grpc,
    privacy_service_pb2,
    privacy_service_pb2_grpc,
)
from shopcast_domain.events import Event
from shopcast_gateway.core.intake import Intake
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.types import LinkResult, RecordResult
from shopcast_gateway.errors import DeadlineExpired
from shopcast_gateway.transport import convert_events, convert_people, convert_privacy
from shopcast_gateway.transport.interceptor import CALL, Context, Deadlines

_LOOK_S = 0.5
_CHANGES = 500


@contextmanager
def _then(withdrawn: Callable[[], None]) -> Iterator[None]:
    """Say so afterwards, also where the call failed: it may have done its work."""
    try:
        yield
    finally:
        withdrawn()


class EventService(event_service_pb2_grpc.EventServiceServicer):
    """What shoppers do, and have done."""

    def __init__(self, directory: Directory, intake: Intake, deadlines: Deadlines) -> None:
        self._directory, self._intake = directory, intake
        self._deadlines = deadlines

    async def RecordEvents(  # noqa: N802
        self, request: event_service_pb2.RecordEventsRequest, context: Context
    ) -> event_service_pb2.RecordEventsResponse:
        """Records events; each has a status of its own."""
        response: event_service_pb2.RecordEventsResponse = await self._record(
            event_service_pb2.RecordEventsResponse,
            request.events,
            self._deadlines.left_s(context, CALL.get()),
        )
        return response

    async def StreamEvents(  # noqa: N802
        self,
        requests: AsyncIterator[event_service_pb2.StreamEventsRequest],
        context: Context,
    ) -> AsyncIterator[event_service_pb2.StreamEventsResponse]:
        """Records batch by batch; the next one is read once one is on disk."""
        async for request in requests:
            try:
                async with asyncio.timeout(self._deadlines.max_s):
                    response = await self._record(
                        event_service_pb2.StreamEventsResponse,
                        request.events,
                        self._deadlines.max_s,
                    )
            except TimeoutError:
                raise DeadlineExpired("the directory took too long") from None
            yield response

    async def GetHistory(  # noqa: N802
        self, request: event_service_pb2.GetHistoryRequest, context: Context
    ) -> event_service_pb2.GetHistoryResponse:
        """Tells what a person has done."""
        query = convert_events.history_query(request)
        found = await self._directory.history(
            query.account,
            before_s=query.before_s,
            limit=query.limit,
            as_of_s=query.as_of_s,
            purpose=query.purpose,
        )
        return convert_events.history_response(found)

    async def _record(
        self, kind: type[Any], events: Sequence[event_service_pb2.Event], timeout_s: float
    ) -> Any:
        checked = convert_events.events(events, now_s=time.time())
        valid = [one for one in checked if isinstance(one, Event)]
        result = RecordResult(())
        if valid:
            result = await self._intake.record(valid, timeout_s=timeout_s)
        return convert_events.record_response(kind, checked, result)


class IdentityService(identity_service_pb2_grpc.IdentityServiceServicer):
    """Which accounts belong to one person. draining: set when no new work is taken. withdrawn:
    called when accounts may no longer be the person's, or less surely."""

    def __init__(
        self, directory: Directory, draining: asyncio.Event, withdrawn: Callable[[], None]
    ) -> None:
        self._directory = directory
        self._draining = draining
        self._withdrawn = withdrawn

    async def LinkAccounts(  # noqa: N802
        self, request: identity_service_pb2.LinkAccountsRequest, context: Context
    ) -> identity_service_pb2.LinkAccountsResponse:
        """States that two accounts belong to one person."""
        made = await self._link(convert_people.link_query(request))
        return identity_service_pb2.LinkAccountsResponse(
            person_id=made.person_id, merged=made.merged
        )

    async def MergePeople(  # noqa: N802
        self, request: identity_service_pb2.MergePeopleRequest, context: Context
    ) -> identity_service_pb2.MergePeopleResponse:
        """Makes two people one."""
        made = await self._link(convert_people.merge_query(request))
        return identity_service_pb2.MergePeopleResponse(
            person_id=made.person_id, merged=made.merged
        )

    async def UnlinkAccounts(  # noqa: N802
        self, request: identity_service_pb2.UnlinkAccountsRequest, context: Context
    ) -> identity_service_pb2.UnlinkAccountsResponse:
        """Takes links between two accounts away."""
        account, other, kind = convert_people.unlink_query(request)
        with _then(self._withdrawn):
            gone = await self._directory.unlink(account, other, kind=kind)
        return identity_service_pb2.UnlinkAccountsResponse(
            person_id=gone.person_id,
            other_person_id=gone.other_person_id,
            removed=gone.removed,
            split=gone.split,
        )

    async def SplitAccount(  # noqa: N802
        self, request: identity_service_pb2.SplitAccountRequest, context: Context
    ) -> identity_service_pb2.SplitAccountResponse:
        """Takes all links of an account away."""
        with _then(self._withdrawn):
            gone = await self._directory.split(convert_people.account_of(request))
        return identity_service_pb2.SplitAccountResponse(
            person_id=gone.person_id, other_person_id=gone.other_person_id, removed=gone.removed
        )

    async def UndoChange(  # noqa: N802
        self, request: identity_service_pb2.UndoChangeRequest, context: Context
    ) -> identity_service_pb2.UndoChangeResponse:
        """Takes a change back."""
        with _then(self._withdrawn):
            made = await self._directory.undo(request.number)
        return identity_service_pb2.UndoChangeResponse(change=convert_people.change(made))

    async def ResolvePerson(  # noqa: N802
        self, request: identity_service_pb2.ResolvePersonRequest, context: Context
    ) -> identity_service_pb2.ResolvePersonResponse:
        """Tells which person an account belongs to, or belonged to."""
        account, as_of_s = convert_people.resolve_query(request)
        person = await self._directory.resolve(account, as_of_s=as_of_s)
        response = identity_service_pb2.ResolvePersonResponse()
        convert_people.fill(response, person)
        return response

    async def BatchResolvePeople(  # noqa: N802
        self, request: identity_service_pb2.BatchResolvePeopleRequest, context: Context
    ) -> identity_service_pb2.BatchResolvePeopleResponse:
        """Tells which person each account belongs to."""
        accounts = convert_people.batch_resolve_query(request)
        return convert_people.batch_resolve_response(await self._directory.resolve_many(accounts))

    async def FindPerson(  # noqa: N802
        self, request: identity_service_pb2.FindPersonRequest, context: Context
    ) -> identity_service_pb2.FindPersonResponse:
        """Tells whom a person id leads to."""
        response = identity_service_pb2.FindPersonResponse()
        response.person.SetInParent()
        convert_people.fill(response.person, await self._directory.find(request.person_id))
        return response

    async def WatchChanges(  # noqa: N802
        self, request: identity_service_pb2.WatchChangesRequest, context: Context
    ) -> AsyncIterator[identity_service_pb2.WatchChangesResponse]:
        """Tells every change of who is who, and goes on."""
        after = request.after
        while not self._draining.is_set():
            made = await self._directory.changes(after, limit=_CHANGES)
            for one in made:
                yield identity_service_pb2.WatchChangesResponse(change=convert_people.change(one))
                after = one.number
            if not made:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._draining.wait(), _LOOK_S)

    async def _link(self, query: convert_people.LinkQuery) -> LinkResult:
        made = await self._directory.link(
            query.account,
            query.other,
            kind=query.kind,
            confidence=query.confidence,
            source=query.source,
        )
        if made.weakened:
            self._withdrawn()
        return made


class PrivacyService(privacy_service_pb2_grpc.PrivacyServiceServicer):
    """What people have a say in. model_versions: those that are published. withdrawn: called when
    a person's events may be used for less."""

    def __init__(
        self,
        directory: Directory,
        model_versions: Callable[[], Awaitable[Sequence[str]]],
        withdrawn: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._withdrawn = withdrawn
        self._model_versions = model_versions

    async def SetConsent(  # noqa: N802
        self, request: privacy_service_pb2.SetConsentRequest, context: Context
    ) -> privacy_service_pb2.SetConsentResponse:
        """Allows or refuses purposes."""
        account, said = convert_privacy.consent_query(request)
        with _then(self._withdrawn):
            now = await self._directory.set_consent(account, said, everywhere=request.all_platforms)
        return privacy_service_pb2.SetConsentResponse(platforms=convert_privacy.platforms(now))

    async def GetConsent(  # noqa: N802
        self, request: privacy_service_pb2.GetConsentRequest, context: Context
    ) -> privacy_service_pb2.GetConsentResponse:
        """Tells what is allowed."""
        now = await self._directory.consents(convert_people.account_of(request))
        return privacy_service_pb2.GetConsentResponse(platforms=convert_privacy.platforms(now))

    async def ExportPerson(  # noqa: N802
        self, request: privacy_service_pb2.ExportPersonRequest, context: Context
    ) -> privacy_service_pb2.ExportPersonResponse:
        """Gives everything kept about a person."""
        data = await self._directory.export(convert_people.account_of(request))
        return await asyncio.to_thread(convert_privacy.export_response, data)

    async def ErasePerson(  # noqa: N802
        self, request: privacy_service_pb2.ErasePersonRequest, context: Context
    ) -> privacy_service_pb2.ErasePersonResponse:
        """Removes a person."""
        account = convert_people.account_of(request)
        versions = await self._model_versions()  # first: what is gone must be receipted
        with _then(self._withdrawn):
            receipt = await self._directory.erase(account)
        return convert_privacy.erase_response(receipt, versions)

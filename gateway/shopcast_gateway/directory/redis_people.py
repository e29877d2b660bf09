"""What the scripts answer about who is who, consent and what is kept of a person."""

from collections.abc import Sequence
from typing import Any

from shopcast_gateway.directory.person_data import (
    ExportedAccount,
    ExportedLink,
    QuarantinedEvent,
    person_data,
)
from shopcast_gateway.directory.pseudonym import person_id
from shopcast_gateway.directory.purposes import allowed_by_platform
from shopcast_gateway.directory.redis_packing import text_of_bytes, unpack_event, unpack_number
from shopcast_gateway.directory.redis_reading import history_of
from shopcast_gateway.directory.types import (
    Change,
    ChangeKind,
    Consents,
    LinkKind,
    Person,
    PersonData,
    Receipt,
    UnlinkResult,
)

_CHANGES = {1: ChangeKind.LINKED, 2: ChangeKind.UNLINKED, 3: ChangeKind.ERASED}


def person_of(reply: Sequence[bytes]) -> Person | None:
    """A person, None for nobody."""
    if not reply:
        return None
    accounts = zip(map(text_of_bytes, reply[1::2]), (one.hex() for one in reply[2::2]), strict=True)
    return Person(person_id(reply[0]), tuple(sorted(accounts)))


def unlink_result(reply: Sequence[Any]) -> UnlinkResult:
    """What became of a link that was taken away."""
    code, other_code, removed, split = reply
    return UnlinkResult(person_id(code), person_id(other_code), removed, bool(split))


def change_of(reply: Sequence[Any]) -> Change:
    """An entry of the journal."""
    number, kind, at_us, code, *link = reply
    if not link:
        return Change(number, at_us / 1e6, _CHANGES[kind], person_id(code))
    other_code, link_kind, confidence, source = link
    return Change(
        number=number,
        at_s=at_us / 1e6,
        kind=_CHANGES[kind],
        person_id=person_id(code),
        other_person_id=person_id(other_code) if other_code else None,
        link_kind=LinkKind(link_kind.decode()),
        confidence=unpack_number(confidence),
        source=text_of_bytes(source),
    )


def consents_of(reply: Sequence[Any]) -> Consents:
    """What is allowed, by platform."""
    return allowed_by_platform(zip(map(text_of_bytes, reply[::2]), reply[1::2], strict=True))


def receipt_of(reply: Sequence[Any]) -> Receipt:
    """What erase.lua removed."""
    code, at_us, events, links, entries, *platforms = reply
    return Receipt(
        person_id=person_id(code),
        at_s=at_us / 1e6,
        platforms=tuple(sorted(set(map(text_of_bytes, platforms)))),
        accounts=len(platforms),
        events=events,
        links=links,
        journal_entries=entries,
    )


def data_of(reply: Sequence[Any]) -> PersonData:
    """A person whole."""
    code, owners, links, events, quarantined, changes = reply
    accounts = [
        ExportedAccount(text_of_bytes(platform), pseudonym.hex(), created_us, mask)
        for platform, pseudonym, created_us, mask in zip(
            owners[::4], owners[1::4], owners[2::4], owners[3::4], strict=True
        )
    ]
    return person_data(
        person_id(code),
        accounts,
        (
            ExportedLink(
                account=accounts[one].pseudonym,
                other=accounts[other].pseudonym,
                kind=kind.decode(),
                confidence=unpack_number(confidence),
                source=text_of_bytes(source),
                linked_us=linked_us,
            )
            for one, other, kind, confidence, source, linked_us in links
        ),
        history_of(events),
        (_quarantined(accounts[place], *event) for *event, place in quarantined),
        map(change_of, changes),
    )


def _quarantined(account: ExportedAccount, time_us: int, packed: bytes) -> QuarantinedEvent:
    event = unpack_event(packed)
    return QuarantinedEvent(
        account=account,
        kind=event.kind,
        item_id=event.item_id,
        price=event.price,
        quantity=event.quantity,
        time_us=time_us,
        recorded_us=event.recorded_us,
    )

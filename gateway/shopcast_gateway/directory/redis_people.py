"""What the scripts answer about who is who, consent and what is kept of a person."""

from collections.abc import Sequence
from typing import Any

from shopcast_domain.events import EventKind
from shopcast_gateway.directory.pseudonym import person_id
from shopcast_gateway.directory.redis_packing import text_of_bytes, unpack_event, unpack_number
from shopcast_gateway.directory.redis_reading import history_of, refused
from shopcast_gateway.directory.types import (
    Change,
    ChangeKind,
    Consents,
    LinkKind,
    Person,
    PersonData,
    Purpose,
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
    masks: dict[str, int] = {}
    for name, mask in zip(map(text_of_bytes, reply[::2]), reply[1::2], strict=True):
        masks[name] = masks.get(name, 0) | mask
    return {
        platform: {purpose: purpose not in refused(mask) for purpose in Purpose}
        for platform, mask in sorted(masks.items())
    }


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


def person_data(reply: Sequence[Any]) -> PersonData:
    """A person whole, as JSON types; times are seconds since the epoch."""
    code, owners, links, events, quarantined, changes = reply
    accounts = [
        (text_of_bytes(platform), pseudonym.hex(), created_us, mask)
        for platform, pseudonym, created_us, mask in zip(
            owners[::4], owners[1::4], owners[2::4], owners[3::4], strict=True
        )
    ]
    return {
        "person_id": person_id(code),
        "accounts": [
            {
                "platform": platform,
                "pseudonym": pseudonym,
                "first_seen": created_us / 1e6,
                "refused": [purpose.value for purpose in refused(mask)],
            }
            for platform, pseudonym, created_us, mask in sorted(accounts)
        ],
        "links": [
            {
                "account": accounts[one][1],
                "other": accounts[other][1],
                "kind": kind.decode(),
                "confidence": unpack_number(confidence),
                "source": text_of_bytes(source),
                "time": linked_us / 1e6,
            }
            for one, other, kind, confidence, source, linked_us in links
        ],
        "events": [
            {
                "platform": event.platform,
                "account": event.account_pseudonym,
                "kind": event.kind.name.lower(),
                "item_id": event.item_id,
                "title": event.title,
                "price": event.price,
                "quantity": event.quantity,
                "time": event.time_s,
                "recorded": event.recorded_s,
            }
            for event in history_of(events)
        ],
        "quarantined": [_quarantined(accounts[place], *event) for *event, place in quarantined],
        "journal": [
            {
                "number": change.number,
                "time": change.at_s,
                "change": change.kind.value,
                "person_id": change.person_id,
                "other_person_id": change.other_person_id,
                "link_kind": change.link_kind,
                "confidence": change.confidence,
                "source": change.source,
            }
            for change in map(change_of, changes)
        ],
    }


def _quarantined(account: tuple[Any, ...], time_us: int, packed: bytes) -> dict[str, Any]:
    event = unpack_event(packed)
    return {
        "platform": account[0],
        "account": account[1],
        "kind": EventKind(event.kind).name.lower(),
        "item_id": event.item_id,
        "price": event.price,
        "quantity": event.quantity,
        "time": time_us / 1e6,
        "recorded": event.recorded_us / 1e6,
    }

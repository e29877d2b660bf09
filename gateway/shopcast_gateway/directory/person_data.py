"""What an export of a person looks like, whatever store it comes from.

Times are seconds since the epoch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shopcast_domain.events import EventKind
from shopcast_gateway.directory.purposes import purposes_of
from shopcast_gateway.directory.types import Change, HistoryEvent, PersonData


@dataclass(frozen=True, slots=True)
class ExportedAccount:
    """refused: mask of purposes."""

    platform: str
    pseudonym: str
    created_us: int
    refused: int


@dataclass(frozen=True, slots=True)
class ExportedLink:
    """account, other: pseudonyms."""

    account: str
    other: str
    kind: str
    confidence: float
    source: str
    linked_us: int


@dataclass(frozen=True, slots=True)
class QuarantinedEvent:
    """account: of whom it is said to be."""

    account: ExportedAccount
    kind: int
    item_id: str
    price: float | None
    quantity: int
    time_us: int
    recorded_us: int


def person_data(
    person_id: str,
    accounts: Iterable[ExportedAccount],
    links: Iterable[ExportedLink],
    events: Iterable[HistoryEvent],
    quarantined: Iterable[QuarantinedEvent],
    journal: Iterable[Change],
) -> PersonData:
    """Everything about a person, as JSON types."""
    return {
        "person_id": person_id,
        "accounts": [
            {
                "platform": one.platform,
                "pseudonym": one.pseudonym,
                "first_seen": one.created_us / 1e6,
                "refused": [purpose.value for purpose in purposes_of(one.refused)],
            }
            for one in sorted(accounts, key=lambda one: (one.platform, one.pseudonym))
        ],
        "links": [
            {
                "account": link.account,
                "other": link.other,
                "kind": link.kind,
                "confidence": link.confidence,
                "source": link.source,
                "time": link.linked_us / 1e6,
            }
            for link in links
        ],
        "events": [
            _event(event.platform, event.account_pseudonym, event.kind, event)
            | {"title": event.title, "time": event.time_s, "recorded": event.recorded_s}
            for event in events
        ],
        "quarantined": [
            _event(event.account.platform, event.account.pseudonym, event.kind, event)
            | {"time": event.time_us / 1e6, "recorded": event.recorded_us / 1e6}
            for event in quarantined
        ],
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
            for change in journal
        ],
    }


def _event(
    platform: str, account: str, kind: int, event: HistoryEvent | QuarantinedEvent
) -> dict[str, Any]:
    return {
        "platform": platform,
        "account": account,
        "kind": EventKind(kind).name.lower(),
        "item_id": event.item_id,
        "price": event.price,
        "quantity": event.quantity,
    }

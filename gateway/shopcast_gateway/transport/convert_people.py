"""Who is who: protos to domain objects and back. A request converts whole or is a BadRequest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shopcast.v1 import identity_service_pb2
from shopcast_domain.events import Account
from shopcast_gateway.directory.types import Change, ChangeKind, LinkKind, Person
from shopcast_gateway.errors import BadRequest
from shopcast_gateway.transport.checks import LINK_KINDS, MAX_EVENTS, Checks
from shopcast_gateway.transport.convert_events import timestamp

_MOST_ACCOUNTS = 20_000  # that a response tells of: a little over a megabyte
_LINK_KINDS = {kind: value for value, kind in LINK_KINDS.items()}
_CHANGES = {
    ChangeKind.LINKED: identity_service_pb2.IDENTITY_CHANGE_KIND_LINKED,
    ChangeKind.UNLINKED: identity_service_pb2.IDENTITY_CHANGE_KIND_UNLINKED,
    ChangeKind.ERASED: identity_service_pb2.IDENTITY_CHANGE_KIND_ERASED,
}


@dataclass(frozen=True, slots=True)
class LinkQuery:
    """Two different accounts stated to be one person's. confidence: over 0, at most 1."""

    account: Account
    other: Account
    kind: LinkKind
    confidence: float
    source: str


def link_query(request: identity_service_pb2.LinkAccountsRequest) -> LinkQuery:
    """Raises BadRequest."""
    checks = Checks()
    account, other = checks.accounts(request)
    kind = checks.kind(LINK_KINDS, request.kind, "kind")
    confidence = request.confidence if request.HasField("confidence") else 1.0
    if not 0 < confidence <= 1:  # NaN fails too
        checks.fail("confidence", "must be greater than 0 and at most 1")
    source = checks.source(request.source)
    checks.finish()
    return LinkQuery(account, other, kind, confidence, source)


def merge_query(request: identity_service_pb2.MergePeopleRequest) -> LinkQuery:
    """Raises BadRequest."""
    checks = Checks()
    account, other = checks.accounts(request)
    source = checks.source(request.source)
    checks.finish()
    return LinkQuery(account, other, LinkKind.OPERATOR, 1.0, source)


def unlink_query(
    request: identity_service_pb2.UnlinkAccountsRequest,
) -> tuple[Account, Account, LinkKind | None]:
    """Raises BadRequest."""
    checks = Checks()
    account, other = checks.accounts(request)
    kind = checks.kind(LINK_KINDS, request.kind, "kind") if request.kind else None
    checks.finish()
    return account, other, kind


def account_of(request: Any) -> Account:
    """The `account` of a request that has nothing else. Raises BadRequest."""
    checks = Checks()
    account = checks.account(request.account, "account", given=request.HasField("account"))
    checks.finish()
    return account


def resolve_query(
    request: identity_service_pb2.ResolvePersonRequest,
) -> tuple[Account, float | None]:
    """Raises BadRequest."""
    checks = Checks()
    account = checks.account(request.account, "account", given=request.HasField("account"))
    as_of_s = checks.moment(request, "as_of")
    checks.finish()
    return account, as_of_s


def batch_resolve_query(
    request: identity_service_pb2.BatchResolvePeopleRequest,
) -> list[Account]:
    """Raises BadRequest."""
    checks = Checks()
    batch = checks.batch(request.accounts, "accounts", most=MAX_EVENTS)
    accounts = [checks.account(one, f"accounts[{i}]", given=True) for i, one in enumerate(batch)]
    checks.finish()
    return accounts


def fill(message: Any, person: Person | None) -> Any:
    """Fill what speaks of a person: known, person_id, accounts. None: nobody."""
    if person is not None:
        message.known = True
        message.person_id = person.person_id
        message.accounts.extend(
            identity_service_pb2.LinkedAccount(platform=platform, account_pseudonym=pseudonym)
            for platform, pseudonym in person.accounts
        )
    return message


def batch_resolve_response(
    people: Sequence[Person | None],
) -> identity_service_pb2.BatchResolvePeopleResponse:
    """One person per account. Raises BadRequest when they have too many accounts in all."""
    if sum(len(person.accounts) for person in people if person) > _MOST_ACCOUNTS:
        raise BadRequest(
            "accounts", f"belong to people with more than {_MOST_ACCOUNTS:,} accounts in all"
        )
    return identity_service_pb2.BatchResolvePeopleResponse(
        people=[fill(identity_service_pb2.ResolvedPerson(), person) for person in people]
    )


def change(made: Change) -> identity_service_pb2.IdentityChange:
    """An entry of the journal as the contract has it."""
    return identity_service_pb2.IdentityChange(
        number=made.number,
        time=timestamp(made.at_s),
        kind=_CHANGES[made.kind],
        person_id=made.person_id,
        other_person_id=made.other_person_id or "",
        link_kind=_LINK_KINDS[made.link_kind] if made.link_kind else 0,  # type: ignore[arg-type]
        confidence=made.confidence or 0.0,
        source=made.source or "",
    )

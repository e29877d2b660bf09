"""The limits of shopcast.v1, field by field, as the comments of the protos state them.

A problem's text says what a field must be and never what the caller sent.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from shopcast.v1 import event_service_pb2, identity_service_pb2, types_pb2
from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.directory.types import LinkKind, Purpose
from shopcast_gateway.errors import BadRequest, Violation

MAX_EVENTS = 1_000
"""Events of one request."""
MAX_REQUESTS = 100
"""Predictions of one batch."""
MAX_VIOLATIONS = 20
"""Problems reported of one request: enough to mend it, and within gRPC's limit on metadata."""
MAX_ITEM_ID = 256
"""Characters."""
MAX_PRICE = 1e9
MAX_QUANTITY = 1_000_000
CLOCK_SKEW_S = 300
EARLIEST_S = 946_684_800  # 2000-01-01T00:00:00Z
LATEST_S = 253_402_300_799  # 9999-12-31T23:59:59Z
MAX_DURATION_S = 315_576_000_000  # 10,000 years, as google.protobuf.Duration has it

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

MAX_SOURCE = 64
"""Characters of who says so."""
MAX_CORRELATION_ID = 64
"""Characters of what a caller calls one request of a stream."""

EVENT_KINDS: Mapping[int, EventKind] = {
    types_pb2.EVENT_KIND_VIEW: EventKind.VIEW,
    types_pb2.EVENT_KIND_CART: EventKind.CART,
    types_pb2.EVENT_KIND_BUY: EventKind.BUY,
    types_pb2.EVENT_KIND_RETURN: EventKind.RETURN,
}

LINK_KINDS: Mapping[int, LinkKind] = {
    identity_service_pb2.LINK_KIND_LOGIN: LinkKind.LOGIN,
    identity_service_pb2.LINK_KIND_HASHED_EMAIL: LinkKind.HASHED_EMAIL,
    identity_service_pb2.LINK_KIND_HASHED_PHONE: LinkKind.HASHED_PHONE,
    identity_service_pb2.LINK_KIND_DEVICE: LinkKind.DEVICE,
    identity_service_pb2.LINK_KIND_PROBABILISTIC: LinkKind.PROBABILISTIC,
    identity_service_pb2.LINK_KIND_OPERATOR: LinkKind.OPERATOR,
}
PURPOSES: Mapping[int, Purpose] = {
    types_pb2.PURPOSE_PREDICTION: Purpose.PREDICTION,
    types_pb2.PURPOSE_RECOMMENDATION: Purpose.RECOMMENDATION,
    types_pb2.PURPOSE_MARKETING: Purpose.MARKETING,
    types_pb2.PURPOSE_RISK: Purpose.RISK,
    types_pb2.PURPOSE_RESEARCH: Purpose.RESEARCH,
}

_PLATFORM = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_REQUIRED = "is required"

T = TypeVar("T")


class Checks:
    """Converts field by field and gathers what is wrong, so that a caller can mend it all at once.

    Once anything has failed, what the methods return is meaningless and `finish` raises.
    """

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def fail(self, field: str, problem: str) -> None:
        """Note a problem; those beyond MAX_VIOLATIONS are dropped."""
        if len(self._violations) < MAX_VIOLATIONS:
            self._violations.append(Violation(field, problem))

    def finish(self) -> None:
        """Raise one BadRequest with everything noted, if anything was."""
        if self._violations:
            first, *others = self._violations
            raise BadRequest(first.field, first.problem, others)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Everything noted."""
        return tuple(self._violations)

    def batch(self, messages: Sequence[T], path: str, *, most: int) -> Sequence[T]:
        """The messages, or none of them when there are too few or too many."""
        if 1 <= len(messages) <= most:
            return messages
        self.fail(path, f"must hold 1 to {most:,}, not {len(messages):,}")
        return ()

    def account(self, message: types_pb2.Account, path: str, *, given: bool) -> Account:
        """given: whether the field was set at all."""
        if not given:
            self.fail(path, _REQUIRED)
        else:
            if not _PLATFORM.fullmatch(message.platform):
                self.fail(
                    f"{path}.platform",
                    "must be 1 to 64 characters of a-z, 0-9, '_', '-', '.', "
                    "starting with a letter or digit",
                )
            self._id(message.platform_user_id, f"{path}.platform_user_id", 256)
        return Account(message.platform, message.platform_user_id)

    def accounts(self, request: Any) -> tuple[Account, Account]:
        """The `account` and the `other` of a request, which must differ."""
        account = self.account(request.account, "account", given=request.HasField("account"))
        other = self.account(request.other, "other", given=request.HasField("other"))
        if request.HasField("other") and account == other:
            self.fail("other", "must differ from account")
        return account, other

    def source(self, text: str) -> str:
        """Who says so."""
        if len(text) > MAX_SOURCE or not text.isprintable():
            self.fail("source", f"must be at most {MAX_SOURCE} printable characters")
        return text

    def moment(self, request: Any, field: str) -> float | None:
        """A time of a request, seconds since the epoch; None where it is unset."""
        if not request.HasField(field):
            return None
        time: Timestamp = getattr(request, field)
        if not 0 <= time.nanos < 1_000_000_000:
            self.fail(field, "must have nanos from 0 to 999,999,999")
        if not 0 <= time.seconds <= LATEST_S:
            self.fail(field, "must be from 1970 to 9999")
        return time.seconds + time.nanos / 1e9

    def duration(self, request: Any, field: str) -> float | None:
        """A duration of a request, seconds; None where it is unset."""
        if not request.HasField(field):
            return None
        duration: Duration = getattr(request, field)
        if not (0 <= duration.seconds <= MAX_DURATION_S and 0 <= duration.nanos < 1_000_000_000):
            self.fail(field, "must be 0 to 10,000 years, with nanos from 0 to 999,999,999")
        return duration.seconds + duration.nanos / 1e9

    def item(self, message: types_pb2.Item, path: str) -> Item:
        """An item that was given."""
        item = _item(message)
        for field, problem in _problems(item):
            self.fail(f"{path}.{field}", problem)
        return item

    def items(self, messages: Sequence[types_pb2.Item], path: str) -> tuple[Item, ...]:
        """Items that were given, each of which must have an id of its own."""
        items = tuple(map(_item, messages))
        for number, item in enumerate(items):
            for field, problem in _problems(item):
                self.fail(f"{path}[{number}].{field}", problem)
        if len({item.item_id for item in items}) < len(items):
            first: dict[str, int] = {}
            for number, item in enumerate(items):
                if item.item_id and first.setdefault(item.item_id, number) != number:
                    repeated = f"{path}[{first[item.item_id]}].item_id"
                    self.fail(f"{path}[{number}].item_id", f"repeats {repeated}")
        return items

    def event(self, message: event_service_pb2.Event, path: str, now_s: float) -> Event:
        """now_s: the server's clock, seconds since the epoch."""
        self._id(message.event_id, f"{path}.event_id", 128)
        account = self.account(
            message.account, f"{path}.account", given=message.HasField("account")
        )
        kind = self.kind(EVENT_KINDS, message.kind, f"{path}.kind")
        if message.HasField("time"):
            time_s = self._time(message.time, f"{path}.time", now_s)
        else:
            time_s = 0.0
            self.fail(f"{path}.time", _REQUIRED)
        if message.HasField("item"):
            item = self.item(message.item, f"{path}.item")
        else:
            item = Item("")
            self.fail(f"{path}.item", _REQUIRED)
        quantity = message.quantity if message.HasField("quantity") else 1
        self.quantity(quantity, f"{path}.quantity")
        return Event(message.event_id, account, kind, time_s, item, quantity)

    def quantity(self, pieces: int, path: str) -> None:
        """Pieces of an item."""
        if not 1 <= pieces <= MAX_QUANTITY:
            self.fail(path, "must be 1 to 1,000,000")

    def kind(self, kinds: Mapping[int, T], value: int, path: str) -> T:
        """What an open enum's number stands for."""
        if value not in kinds:
            self.fail(path, "is not a kind this server knows" if value else _REQUIRED)
            return next(iter(kinds.values()))
        return kinds[value]

    def correlation_id(self, text: str) -> None:
        """What a caller calls one request of a stream."""
        self._id(text, "correlation_id", MAX_CORRELATION_ID)

    def _id(self, text: str, path: str, longest: int) -> None:
        if not _is_id(text, longest):
            self.fail(path, _id_rule(longest))

    def _time(self, time: Timestamp, path: str, now_s: float) -> float:
        time_s = time.seconds + time.nanos / 1e9
        if not 0 <= time.nanos < 1_000_000_000:
            self.fail(path, "must have nanos from 0 to 999,999,999")
        elif time.seconds < EARLIEST_S:
            self.fail(path, "must be 2000-01-01 or later")
        elif time_s > now_s + CLOCK_SKEW_S:
            self.fail(path, "must be at most 5 minutes ahead of the server's clock")
        return time_s


def _item(message: types_pb2.Item) -> Item:
    return Item(
        message.item_id,
        message.title if message.HasField("title") else None,
        message.brand if message.HasField("brand") else None,
        message.category if message.HasField("category") else None,
        message.price if message.HasField("price") else None,
    )


def _problems(item: Item) -> Sequence[tuple[str, str]]:
    """Fields of an item, and what is wrong with them: () of nearly all."""
    item_id, title, brand, category, price = item
    problems = []
    if not _is_id(item_id, MAX_ITEM_ID):
        problems.append(("item_id", _id_rule(MAX_ITEM_ID)))
    if title is not None and (not title.strip() or len(title) > 1_000):
        problems.append(("title", "must be 1 to 1,000 characters, not all blank, when set"))
    if brand is not None and len(brand) > 200:
        problems.append(("brand", "must be at most 200 characters"))
    if category is not None and len(category) > 300:
        problems.append(("category", "must be at most 300 characters"))
    if price is not None and not 0 <= price <= MAX_PRICE:  # NaN fails too
        problems.append(("price", "must be a number from 0 to 1,000,000,000"))
    return problems


def _is_id(text: str, longest: int) -> bool:
    # The first is quicker, and true of nearly all.
    return 1 <= len(text) <= longest and (text.isprintable() or not _CONTROL.search(text))


def _id_rule(longest: int) -> str:
    return f"must be 1 to {longest} characters, none of them a control character"

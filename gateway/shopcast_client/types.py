"""What goes into a call and what comes out. Limits are stated in protos/shopcast/v1."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class EventKind(StrEnum):
    """What a shopper did with an item."""

    VIEW = "view"
    CART = "cart"
    BUY = "buy"
    RETURN = "return"


class Outcome(StrEnum):
    """What becomes of a shopper meeting an item: not bought, bought and kept, or sent back."""

    VIEW = "view"
    BUY = "buy"
    RETURN = "return"


class LinkKind(StrEnum):
    """How it is known that two accounts belong to one person."""

    LOGIN = "login"
    HASHED_EMAIL = "hashed_email"
    HASHED_PHONE = "hashed_phone"
    DEVICE = "device"
    PROBABILISTIC = "probabilistic"
    OPERATOR = "operator"


class Purpose(StrEnum):
    """What a person's events may be used for."""

    PREDICTION = "prediction"
    RECOMMENDATION = "recommendation"
    MARKETING = "marketing"
    RISK = "risk"
    RESEARCH = "research"


class ServiceLevel(StrEnum):
    """How much an answer rests on, from most to least: all that is known; the history as it was
    last read, up to a minute ago, and only what the request says of the items, when the server's
    store is away or slow; base rates of platform and category, when its model is."""

    FULL = "full"
    STALE = "stale"
    NO_HISTORY = "no_history"
    PRIOR = "prior"


class Priority(StrEnum):
    """Whose turn it is first where a server is asked more than it can run at once. Bulk work runs
    when no interactive request waits, and is refused earlier."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class LevelReason(StrEnum):
    """Why an answer rests on less than everything."""

    STORE_SLOW = "store_slow"
    STORE_AWAY = "store_away"
    MODEL_SLOW = "model_slow"
    MODEL_AWAY = "model_away"


class ChangeKind(StrEnum):
    """What changed in who is who."""

    LINKED = "linked"
    UNLINKED = "unlinked"
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Account:
    """One customer account on one platform. The user id is personal and never part of the repr."""

    platform: str
    user_id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Item:
    """An item as one platform sells it. What is None the server fills from what it knows.

    price: one piece, in major units (euros, not cents) of the currency that the build of the model
    converted prices to (ModelVersion.currency), or of the platform's own where it converted none.
    """

    item_id: str
    title: str | None = None
    brand: str | None = None
    category: str | None = None
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a shopper did with an item.

    event_id: unique within the platform; sending it twice records it once.
    time: with a time zone. quantity: pieces, 1 to 1,000,000.
    Raises ValueError for what is no time, or one without a time zone.
    """

    event_id: str = field(repr=False)
    account: Account
    kind: EventKind
    time: datetime
    item: Item
    quantity: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.time, datetime) or self.time.utcoffset() is None:
            raise ValueError("Event.time needs a time zone, such as datetime.now(UTC) gives")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What will become of one shopper meeting one item. The three probabilities sum to 1.

    item_known: the server had seen the item in an event.
    text_known: a title, brand or category was at hand; without one the prediction rests on counts.
    """

    item_id: str
    view_probability: float
    buy_probability: float
    return_probability: float
    item_known: bool
    text_known: bool

    @property
    def purchase_probability(self) -> float:
        """Probability that the item is bought, whether kept or returned: 0 to 1."""
        return self.buy_probability + self.return_probability

    @property
    def return_risk(self) -> float:
        """Probability that the item is returned once bought: 0 to 1; 0 where nothing is bought."""
        purchase = self.purchase_probability
        return self.return_probability / purchase if purchase else 0.0


@dataclass(frozen=True, slots=True)
class PlatformEvidence:
    """The events of one platform an answer rests on."""

    platform: str
    events_used: int
    newest_event_age: timedelta


@dataclass(frozen=True, slots=True)
class StageTiming:
    """How long a stage of an answer took: admission, look_up, tokenise, queue, encode or score, or
    what a newer server names."""

    stage: str
    duration: timedelta


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an answer rests on.

    prediction_id: unique; also in the server's log.
    trained_outcomes: outcomes the model learned from; the others always get probability 0.
    person_known: False for a shopper without recorded event or link.
    newest_event_age: None when no event was used.
    texts_encoded: item texts the server had to read for this answer; 0 in steady state.
    suppressed_platforms: whose events were left out for want of consent.
    uncertain_events_used: events that may not be this person's; they count by how sure it is.
    level: what the answer could rest on. level_reason: why no more; None for FULL, and for what
    this client does not know. history_age: how long ago the history was read, for STALE.
    stage_timings: where the time went, if that was asked for.
    """

    prediction_id: str
    model_version: str
    encoder_version: str
    trained_outcomes: tuple[Outcome, ...]
    person_known: bool
    platforms: tuple[PlatformEvidence, ...]
    events_used: int
    newest_event_age: timedelta | None
    texts_encoded: int
    suppressed_platforms: tuple[str, ...] = ()
    uncertain_events_used: int = 0
    level: ServiceLevel = ServiceLevel.FULL
    level_reason: LevelReason | None = None
    history_age: timedelta | None = None
    stage_timings: tuple[StageTiming, ...] = ()


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """One shopper and the items they would meet, as ShopcastClient.predict takes them."""

    account: Account
    items: Sequence[Item]
    quantities: Sequence[int] = ()
    purpose: Purpose = Purpose.PREDICTION
    min_link_confidence: float = 0.0
    lowest_level: ServiceLevel = ServiceLevel.FULL
    max_history_age: timedelta | None = None
    stage_timings: bool = False
    priority: Priority | None = None


@dataclass(frozen=True, slots=True)
class PredictResult:
    """One prediction per item, in the order asked, and what they rest on."""

    predictions: tuple[Prediction, ...]
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class EventProblem:
    """Why an event was not recorded. position: in the batch. field: such as `events[3].time`."""

    position: int
    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class RecordResult:
    """What became of the events sent: recorded are new, duplicates had been recorded before,
    quarantined can be no person's doing and are used for nothing, problems were not recorded."""

    recorded: int
    duplicates: int
    quarantined: int = 0
    problems: tuple[EventProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class PastEvent:
    """An event that was recorded. price: of one piece, as the event had it. title: the item's, as
    known now. confidence: how sure it is that it is the person's, over 0 to 1. kind: None for one
    that this client does not know."""

    platform: str
    account_pseudonym: str
    kind: EventKind | None
    item_id: str
    title: str | None
    price: float | None
    quantity: int
    time: datetime
    recorded: datetime
    confidence: float


@dataclass(frozen=True, slots=True)
class LinkResult:
    """The person both accounts now belong to. merged: whether two persons became one."""

    person_id: str
    merged: bool


@dataclass(frozen=True, slots=True)
class LinkedAccount:
    """An account of a person. pseudonym: keyed hash of its user id, 32 hexadecimal digits."""

    platform: str
    pseudonym: str


@dataclass(frozen=True, slots=True)
class Person:
    """The person behind an account, and all their accounts, the one asked for included."""

    person_id: str
    accounts: tuple[LinkedAccount, ...]


@dataclass(frozen=True, slots=True)
class UnlinkResult:
    """The person of either account now, and how many links went."""

    person_id: str
    other_person_id: str
    removed: int

    @property
    def apart(self) -> bool:
        """Whether the two are different people."""
        return self.person_id != self.other_person_id


@dataclass(frozen=True, slots=True)
class IdentityChange:
    """A change of who is who. number: rises with every one. other_person_id: the id that now leads
    to person_id where two persons became one, or is a person again where one became two. What is of
    a link is None for a person who was erased. kind, link_kind: None, too, for one that this client
    does not know."""

    number: int
    time: datetime
    kind: ChangeKind | None
    person_id: str
    other_person_id: str | None
    link_kind: LinkKind | None
    confidence: float | None
    source: str | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was removed with a person. model_versions: published before, and so perhaps trained on
    their events."""

    person_id: str
    time: datetime
    platforms: tuple[str, ...]
    accounts: int
    events: int
    links: int
    journal_entries: int
    model_versions: tuple[str, ...]

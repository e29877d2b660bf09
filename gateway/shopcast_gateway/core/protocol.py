"""The seam between the transport and what answers a prediction."""

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple, Protocol

from shopcast_domain.events import Account, Item, Outcome
from shopcast_gateway.directory.types import Purpose


class Level(IntEnum):
    """How much an answer rests on; a higher number is less."""

    FULL = 1
    STALE = 2
    NO_HISTORY = 4
    PRIOR = 5


class Reason(Enum):
    """Why an answer rests on less than everything."""

    STORE_SLOW = "store_slow"
    STORE_AWAY = "store_away"
    MODEL_SLOW = "model_slow"
    MODEL_AWAY = "model_away"


@dataclass(frozen=True, slots=True)
class PredictQuery:
    """One shopper, on the platform where the items would be met, and 1 to 1,000 distinct items.

    quantities: pieces per item when they are the lines of an order being placed, else empty.
    purpose: what the answer is for. min_confidence: events less surely the person's are left out.
    lowest_level: the least that will do. max_history_age_s: how old a copy of the history
    may be, 0 or more; None where that is not the caller's concern. bulk: nobody waits for this one
    answer.
    """

    account: Account
    items: tuple[Item, ...]
    quantities: tuple[int, ...] = ()
    purpose: Purpose = Purpose.PREDICTION
    min_confidence: float = 0.0
    lowest_level: Level = Level.FULL
    max_history_age_s: float | None = None
    bulk: bool = False


class ItemPrediction(NamedTuple):
    """What will become of one exposure.

    probabilities: indexed by Outcome, each 0 to 1, sum 1 within 1e-6.
    item_known: an event of the directory names the item.
    text_known: the request or the directory has a title, brand or category.
    """

    item_id: str
    probabilities: tuple[float, float, float]
    item_known: bool
    text_known: bool


@dataclass(frozen=True, slots=True)
class PlatformUse:
    """The events of one platform an answer rests on. newest_event_age_s: seconds, 0 or more."""

    platform: str
    events_used: int
    newest_event_age_s: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an answer rests on.

    prediction_id: 32 hexadecimal digits, unique.
    trained_outcomes: outcomes the model was trained on; the others get probability 0.
    newest_event_age_s: seconds, 0 or more; None when no event was used.
    texts_encoded: texts the encoder had to read for this answer.
    suppressed: platforms whose events were left out for want of consent.
    uncertain_events_used: events that may not be this person's. level: what could be had.
    reason: why no more; None for FULL. history_age_s: seconds since the history was read, for
    STALE.
    """

    prediction_id: str
    model_version: str
    encoder_version: str
    trained_outcomes: tuple[Outcome, ...]
    person_known: bool
    platforms: tuple[PlatformUse, ...]
    events_used: int
    newest_event_age_s: float | None
    texts_encoded: int
    suppressed: tuple[str, ...] = ()
    uncertain_events_used: int = 0
    level: Level = Level.FULL
    reason: Reason | None = None
    history_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One prediction per item of the query, in its order."""

    predictions: tuple[ItemPrediction, ...]
    evidence: Evidence


class Predictor(Protocol):
    """Answers predictions. May be called concurrently."""

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        """Score the items of one query.

        timeout_s: what is left of the caller's deadline.
        Raises Overloaded, Unavailable, TooStale, DeadlineExpired, ContractMismatch.
        """
        ...

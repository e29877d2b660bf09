"""The typed async client of shopcast.v1: what backend services import.

async with ShopcastClient("127.0.0.1:50051") as client:
    answer = await client.predict(
        platform="web", user_id="u-1", items=[Item("sku-1", title="Trail shoe", price=89.0)]
    )
    for one in answer.predictions:
        print(one.item_id, one.purchase_probability, one.return_risk)
"""

from shopcast_client.client import ShopcastClient
from shopcast_client.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotAuthorised,
    Overloaded,
    ServerError,
    ShopcastError,
    Unavailable,
    Violation,
)
from shopcast_client.retries import SERVICE_CONFIG
from shopcast_client.types import (
    Account,
    Event,
    EventKind,
    Evidence,
    Item,
    LinkedAccount,
    LinkKind,
    LinkResult,
    Outcome,
    Person,
    PlatformEvidence,
    Prediction,
    PredictResult,
    RecordResult,
)

__all__ = [
    "SERVICE_CONFIG",
    "Account",
    "DeadlineExceeded",
    "Event",
    "EventKind",
    "Evidence",
    "InvalidRequest",
    "Item",
    "LinkKind",
    "LinkResult",
    "LinkedAccount",
    "NotAuthorised",
    "Outcome",
    "Overloaded",
    "Person",
    "PlatformEvidence",
    "PredictResult",
    "Prediction",
    "RecordResult",
    "ServerError",
    "ShopcastClient",
    "ShopcastError",
    "Unavailable",
    "Violation",
]

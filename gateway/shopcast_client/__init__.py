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
    ChangesLost,
    DeadlineExceeded,
    InvalidRequest,
    NotAuthorised,
    NotFound,
    Overloaded,
    Refused,
    ServerError,
    ShopcastError,
    TooStale,
    Unavailable,
    Violation,
)
from shopcast_client.models import ModelTrial, ModelVersion, ServingState, TrialComparison
from shopcast_client.retries import SERVICE_CONFIG
from shopcast_client.types import (
    Account,
    ChangeKind,
    Event,
    EventKind,
    EventProblem,
    Evidence,
    IdentityChange,
    Item,
    LevelReason,
    LinkedAccount,
    LinkKind,
    LinkResult,
    Outcome,
    PastEvent,
    Person,
    PlatformEvidence,
    Prediction,
    PredictRequest,
    PredictResult,
    Priority,
    Purpose,
    Receipt,
    RecordResult,
    ServiceLevel,
    StageTiming,
    UnlinkResult,
)

__all__ = [
    "SERVICE_CONFIG",
    "Account",
    "ChangeKind",
    "ChangesLost",
    "DeadlineExceeded",
    "Event",
    "EventKind",
    "EventProblem",
    "Evidence",
    "IdentityChange",
    "InvalidRequest",
    "Item",
    "LevelReason",
    "LinkKind",
    "LinkResult",
    "LinkedAccount",
    "ModelTrial",
    "ModelVersion",
    "NotAuthorised",
    "NotFound",
    "Outcome",
    "Overloaded",
    "PastEvent",
    "Person",
    "PlatformEvidence",
    "PredictRequest",
    "PredictResult",
    "Prediction",
    "Priority",
    "Purpose",
    "Receipt",
    "RecordResult",
    "Refused",
    "ServerError",
    "ServiceLevel",
    "ServingState",
    "ShopcastClient",
    "ShopcastError",
    "StageTiming",
    "TooStale",
    "TrialComparison",
    "Unavailable",
    "UnlinkResult",
    "Violation",
]

"""The three services: convert, ask, convert back."""

import time

from shopcast.v1 import (
    event_service_pb2,
    event_service_pb2_grpc,
    identity_service_pb2,
    identity_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)
from shopcast_gateway.core.protocol import Predictor
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.transport import convert
from shopcast_gateway.transport.interceptor import Context, Deadlines


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predictions."""

    def __init__(self, predictor: Predictor, deadlines: Deadlines) -> None:
        self._predictor = predictor
        self._deadlines = deadlines

    async def Predict(  # noqa: N802
        self, request: prediction_service_pb2.PredictRequest, context: Context
    ) -> prediction_service_pb2.PredictResponse:
        """Scores items for one shopper."""
        query = convert.predict_query(request)
        timeout_s = self._deadlines.left_s(context)
        return convert.predict_response(await self._predictor.predict(query, timeout_s=timeout_s))


class EventService(event_service_pb2_grpc.EventServiceServicer):
    """What shoppers do."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def RecordEvents(  # noqa: N802
        self, request: event_service_pb2.RecordEventsRequest, context: Context
    ) -> event_service_pb2.RecordEventsResponse:
        """Records events, all or none."""
        events = convert.events(request, now_s=time.time())
        return convert.record_response(await self._directory.record(events))


class IdentityService(identity_service_pb2_grpc.IdentityServiceServicer):
    """Which accounts belong to one person."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def LinkAccounts(  # noqa: N802
        self, request: identity_service_pb2.LinkAccountsRequest, context: Context
    ) -> identity_service_pb2.LinkAccountsResponse:
        """States that two accounts belong to one person."""
        query = convert.link_query(request)
        result = await self._directory.link(
            query.account, query.other, kind=query.kind, confidence=query.confidence
        )
        return convert.link_response(result)

    async def ResolvePerson(  # noqa: N802
        self, request: identity_service_pb2.ResolvePersonRequest, context: Context
    ) -> identity_service_pb2.ResolvePersonResponse:
        """Tells which person an account belongs to."""
        account = convert.account_to_resolve(request)
        return convert.resolve_response(await self._directory.resolve(account))

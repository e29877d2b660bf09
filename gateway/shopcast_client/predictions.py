"""Calls about what shoppers will do."""

import uuid
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from datetime import timedelta

from shopcast.v1 import prediction_service_pb2
from shopcast_client.building import built
from shopcast_client.calls import Caller
from shopcast_client.errors import ShopcastError, error_of
from shopcast_client.messages import predict_request_message, predict_result
from shopcast_client.types import (
    Account,
    Item,
    PredictRequest,
    PredictResult,
    Priority,
    Purpose,
    ServiceLevel,
)


class PredictionCalls(Caller):
    """Predictions, alone, in batches and in streams."""

    async def predict(
        self,
        *,
        platform: str,
        user_id: str,
        items: Sequence[Item],
        quantities: Sequence[int] = (),
        purpose: Purpose = Purpose.PREDICTION,
        min_link_confidence: float = 0.0,
        lowest_level: ServiceLevel = ServiceLevel.FULL,
        max_history_age: timedelta | None = None,
        stage_timings: bool = False,
        priority: Priority | None = None,
    ) -> PredictResult:
        """What the shopper would do with each of 1 to 1,000 items, met on `platform` now.

        quantities: pieces of each item when they are the lines of an order being placed.
        purpose: what for; events the person does not allow for it are left out.
        min_link_confidence: leaves out events less surely theirs; 1 takes only what is certain.
        lowest_level: the least that will do; where only less can be had, Unavailable is raised.
        max_history_age: how old a copy of the history may be; TooStale where none is newer.
        stage_timings: whether the evidence says where the time went.
        priority: whose turn it is first where the server is full; by default interactive here, and
        bulk for the requests of batches and streams.
        Unknown shoppers and items are answered too, and the evidence says so.
        Raises a ShopcastError.
        """
        request = PredictRequest(
            Account(platform, user_id),
            items,
            quantities,
            purpose,
            min_link_confidence,
            lowest_level,
            max_history_age,
            stage_timings,
            priority,
        )
        message = predict_request_message(request)
        return predict_result(await self._call(self._connection.prediction.Predict, message))

    async def batch_predict(
        self, requests: Sequence[PredictRequest]
    ) -> tuple[PredictResult | ShopcastError, ...]:
        """`predict` for 1 to 100 requests with at most 1,000 items in all, in their order.

        A request that is wrong or fails has its error as its result and does not fail the others.
        Raises a ShopcastError where the batch is empty or too large, a request has what cannot be
        sent, or there is no answer.
        """
        request_id = uuid.uuid4().hex
        request = prediction_service_pb2.BatchPredictRequest(
            requests=[
                predict_request_message(one, f"requests[{n}].") for n, one in enumerate(requests)
            ]
        )
        response = await self._call(
            self._connection.prediction.BatchPredict, request, request_id=request_id
        )
        return tuple(self._outcome(one, request_id) for one in response.results)

    async def stream_predict(
        self, requests: AsyncIterable[tuple[str, PredictRequest]]
    ) -> AsyncIterator[tuple[str, PredictResult | ShopcastError]]:
        """`predict` for requests as they come, each with a name of 1 to 64 characters; each name
        with its result, in the order in which they are ready.

        A request that is wrong or fails has its error as its result. No more than 16 are answered
        ahead of what is read here. Has no timeout, but the server's for each request; leaving the
        loop gives up what runs. Raises a ShopcastError, and what `requests` raises.
        """
        request_id = uuid.uuid4().hex

        async def messages() -> AsyncIterator[prediction_service_pb2.StreamPredictRequest]:
            async for name, one in requests:
                yield built(
                    prediction_service_pb2.StreamPredictRequest,
                    correlation_id=name,
                    request=predict_request_message(one, "request."),
                )

        method = self._connection.prediction.StreamPredict
        async with self._streamed(method, messages(), request_id) as answers:
            async for response in answers:
                yield response.correlation_id, self._outcome(response, request_id)

    def _outcome(
        self,
        result: prediction_service_pb2.PredictResult | prediction_service_pb2.StreamPredictResponse,
        request_id: str,
    ) -> PredictResult | ShopcastError:
        if result.WhichOneof("result") == "status":
            return error_of(result.status, target=self._target, request_id=request_id)
        return predict_result(result.response)

"""Predictions, alone, in batches and in streams: convert, ask, convert back."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar

from shopcast.v1 import prediction_service_pb2, prediction_service_pb2_grpc
from shopcast_gateway.core.protocol import Predictor, PredictQuery
from shopcast_gateway.core.stages import SPENT, Spent
from shopcast_gateway.errors import DeadlineExpired, GatewayError, Unavailable
from shopcast_gateway.transport import convert
from shopcast_gateway.transport.interceptor import CALL, Context, Deadlines, foreseen
from shopcast_gateway.transport.status import status_of

MAX_UNANSWERED = 16
"""Requests of one batch or stream that are under way at once. A stream is not read further."""

Q = TypeVar("Q")


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
        timeout_s = self._deadlines.left_s(context, CALL.get())
        return await self._answer(query, timeout_s, timings=request.stage_timings)

    async def BatchPredict(  # noqa: N802
        self, request: prediction_service_pb2.BatchPredictRequest, context: Context
    ) -> prediction_service_pb2.BatchPredictResponse:
        """Scores items for several shoppers at once; each request has a result of its own."""
        requests = convert.batch_predict_requests(request)
        room = asyncio.Semaphore(MAX_UNANSWERED)

        async def part(request: prediction_service_pb2.PredictRequest) -> convert.Answer:
            async with room:
                left_s = self._deadlines.left_s(context, CALL.get())
                return await self._part(
                    request,
                    partial(convert.predict_query, bulk=True),
                    left_s,
                    timings=request.stage_timings,
                )

        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(part(one)) for one in requests]
        return convert.batch_predict_response([part.result() for part in parts])

    async def StreamPredict(  # noqa: N802
        self,
        requests: AsyncIterator[prediction_service_pb2.StreamPredictRequest],
        context: Context,
    ) -> AsyncIterator[prediction_service_pb2.StreamPredictResponse]:
        """Scores items request by request, several at once; answers in the order they are ready."""

        reading: set[asyncio.Task[prediction_service_pb2.StreamPredictRequest | None]] = set()
        running: set[asyncio.Task[None]] = set()
        ready: deque[prediction_service_pb2.StreamPredictResponse] = deque()

        async def answer(request: prediction_service_pb2.StreamPredictRequest) -> None:
            timeout_s = self._deadlines.each_s(context)
            found = await self._part(
                request,
                convert.stream_predict_query,
                timeout_s,
                timings=request.request.stage_timings,
                limit_s=timeout_s,
            )
            ready.append(convert.stream_predict_response(request.correlation_id, found))

        more, drains = True, False
        try:
            while more or running:
                if more and not reading and len(running) < MAX_UNANSWERED:
                    reading.add(asyncio.create_task(_next(requests)))
                await asyncio.wait(reading | running, return_when=asyncio.FIRST_COMPLETED)
                for read in [task for task in reading if task.done()]:
                    reading.discard(read)
                    try:
                        request = read.result()
                    except Unavailable:  # the gateway drains; what was read is answered
                        request, drains = None, True
                    if request is None:
                        more = False
                    else:
                        running.add(asyncio.create_task(answer(request)))
                for done in [task for task in running if task.done()]:
                    running.discard(done)
                    done.result()
                # While one is being sent, nothing more is read: a caller that does not read waits.
                while ready:
                    yield ready.popleft()
            if drains:
                raise Unavailable("the gateway drains")
        finally:
            for left in (*reading, *running):
                left.cancel()
            await asyncio.gather(*reading, *running, return_exceptions=True)

    async def _answer(
        self, query: PredictQuery, timeout_s: float, *, timings: bool
    ) -> prediction_service_pb2.PredictResponse:
        """timings: whether to say where the time went. Each query runs in a task of its own."""
        call = SPENT.get()  # where it is traced
        spent = call.part() if call is not None else Spent() if timings else None
        SPENT.set(spent)
        found = await self._predictor.predict(query, timeout_s=timeout_s)
        return convert.predict_response(found, spent.total() if spent and timings else None)

    async def _part(
        self,
        request: Q,
        convert_request: Callable[[Q], PredictQuery],
        timeout_s: float,
        *,
        timings: bool,
        limit_s: float | None = None,
    ) -> convert.Answer:
        """What Predict would give for one request of several, or fail with.

        timeout_s: what the predictor is told. limit_s: after which it is stopped; None where the
        whole call is.
        """
        try:
            with foreseen():
                try:
                    async with asyncio.timeout(limit_s):
                        query = convert_request(request)
                        return await self._answer(query, timeout_s, timings=timings)
                except TimeoutError:
                    raise DeadlineExpired from None
        except GatewayError as error:
            return status_of(error, CALL.get().request_id)


async def _next(requests: AsyncIterator[Q]) -> Q | None:
    """None after the last."""
    return await anext(requests, None)

"""Predictions: convert, ask, convert back."""

from shopcast.v1 import prediction_service_pb2, prediction_service_pb2_grpc
from shopcast_gateway.core.protocol import Predictor
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

"""Predictions: protos to domain objects and back. A request converts whole or is a BadRequest."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.rpc import status_pb2

from shopcast.v1 import prediction_service_pb2, types_pb2
from shopcast_domain.events import Outcome
from shopcast_domain.limits import MAX_CANDIDATES
from shopcast_gateway.core.protocol import Evidence, Level, Prediction, PredictQuery, Reason
from shopcast_gateway.core.stages import Stage
from shopcast_gateway.directory.types import Purpose
from shopcast_gateway.transport.checks import MAX_REQUESTS, PURPOSES, Checks

Answer: TypeAlias = "prediction_service_pb2.PredictResponse | status_pb2.Status"
"""What became of one request of several: what Predict would have given, or failed with."""

LEVELS: Mapping[int, Level] = {
    prediction_service_pb2.SERVICE_LEVEL_FULL: Level.FULL,
    prediction_service_pb2.SERVICE_LEVEL_STALE: Level.STALE,
    prediction_service_pb2.SERVICE_LEVEL_NO_HISTORY: Level.NO_HISTORY,
    prediction_service_pb2.SERVICE_LEVEL_PRIOR: Level.PRIOR,
}
REASONS: Mapping[Reason | None, prediction_service_pb2.LevelReason.ValueType] = {
    None: prediction_service_pb2.LEVEL_REASON_UNSPECIFIED,
    Reason.STORE_SLOW: prediction_service_pb2.LEVEL_REASON_STORE_SLOW,
    Reason.STORE_AWAY: prediction_service_pb2.LEVEL_REASON_STORE_AWAY,
    Reason.MODEL_SLOW: prediction_service_pb2.LEVEL_REASON_MODEL_SLOW,
    Reason.MODEL_AWAY: prediction_service_pb2.LEVEL_REASON_MODEL_AWAY,
}
_BULK: Mapping[int, bool] = {
    prediction_service_pb2.PRIORITY_INTERACTIVE: False,
    prediction_service_pb2.PRIORITY_BULK: True,
}
_LEVELS = {level: value for value, level in LEVELS.items()}
OUTCOMES = {
    Outcome.VIEW: types_pb2.OUTCOME_VIEW,
    Outcome.BUY: types_pb2.OUTCOME_BUY,
    Outcome.RETURN: types_pb2.OUTCOME_RETURN,
}


def predict_query(
    request: prediction_service_pb2.PredictRequest, *, bulk: bool = False
) -> PredictQuery:
    """bulk: what it is where its priority is unset. Raises BadRequest."""
    return _query(request, Checks(), bulk=bulk)


def batch_predict_requests(
    request: prediction_service_pb2.BatchPredictRequest,
) -> Sequence[prediction_service_pb2.PredictRequest]:
    """The requests of a batch, not yet looked into. Raises BadRequest."""
    checks = Checks()
    requests = checks.batch(request.requests, "requests", most=MAX_REQUESTS)
    items = sum(len(one.items) for one in requests)
    if items > MAX_CANDIDATES:
        checks.fail("requests", f"must have at most {MAX_CANDIDATES:,} items in all, not {items:,}")
    checks.finish()
    return requests


def stream_predict_query(request: prediction_service_pb2.StreamPredictRequest) -> PredictQuery:
    """Raises BadRequest."""
    checks = Checks()
    checks.correlation_id(request.correlation_id)
    return _query(request.request, checks, bulk=True)


def batch_predict_response(
    outcomes: Sequence[Answer],
) -> prediction_service_pb2.BatchPredictResponse:
    """One result per outcome."""
    return prediction_service_pb2.BatchPredictResponse(
        results=[prediction_service_pb2.PredictResult(**_result(one)) for one in outcomes]
    )


def stream_predict_response(
    correlation_id: str, outcome: Answer
) -> prediction_service_pb2.StreamPredictResponse:
    """What became of one request."""
    return prediction_service_pb2.StreamPredictResponse(
        correlation_id=correlation_id, **_result(outcome)
    )


def _result(outcome: Answer) -> dict[str, Any]:
    """The field of the oneof that it goes into."""
    return {"status" if isinstance(outcome, status_pb2.Status) else "response": outcome}


def _query(
    request: prediction_service_pb2.PredictRequest, checks: Checks, *, bulk: bool
) -> PredictQuery:
    """checks: with what is noted already. bulk: what it is where its priority is unset. Raises
    BadRequest."""
    account = checks.account(request.account, "account", given=request.HasField("account"))
    items = checks.items(checks.batch(request.items, "items", most=MAX_CANDIDATES), "items")
    if len(request.quantities) not in (0, len(request.items)):
        checks.fail("quantities", "must be empty, or as many as items")
    for i, quantity in enumerate(request.quantities[:MAX_CANDIDATES]):
        checks.quantity(quantity, f"quantities[{i}]")
    purpose = Purpose.PREDICTION
    if request.purpose:
        purpose = checks.kind(PURPOSES, request.purpose, "purpose")
    if not 0 <= request.min_link_confidence <= 1:  # NaN fails too
        checks.fail("min_link_confidence", "must be 0 to 1")
    level = Level.FULL
    if request.lowest_level:
        level = checks.kind(LEVELS, request.lowest_level, "lowest_level")
    max_history_age_s = checks.duration(request, "max_history_age")
    if request.priority:
        bulk = checks.kind(_BULK, request.priority, "priority")
    checks.finish()
    return PredictQuery(
        account,
        items,
        tuple(request.quantities),
        purpose,
        request.min_link_confidence,
        level,
        max_history_age_s,
        bulk,
    )


def predict_response(
    prediction: Prediction, stages: Mapping[Stage, float] | None = None
) -> prediction_service_pb2.PredictResponse:
    """The answer as the contract has it. stages: seconds, where they are asked for."""
    evidence = _evidence(prediction.evidence, stages or {})
    response = prediction_service_pb2.PredictResponse(evidence=evidence)
    add = response.predictions.add  # a list of messages would be copied one by one
    for item_id, (view, buy, returned), item_known, text_known in prediction.predictions:
        add(
            item_id=item_id,
            view_probability=view,
            buy_probability=buy,
            return_probability=returned,
            item_known=item_known,
            text_known=text_known,
        )
    return response


def _evidence(evidence: Evidence, stages: Mapping[Stage, float]) -> prediction_service_pb2.Evidence:
    newest, age = evidence.newest_event_age_s, evidence.history_age_s
    return prediction_service_pb2.Evidence(
        prediction_id=evidence.prediction_id,
        model_version=evidence.model_version,
        encoder_version=evidence.encoder_version,
        trained_outcomes=[OUTCOMES[outcome] for outcome in evidence.trained_outcomes],
        person_known=evidence.person_known,
        platforms=[
            prediction_service_pb2.PlatformEvidence(
                platform=use.platform,
                events_used=use.events_used,
                newest_event_age=_duration(use.newest_event_age_s),
            )
            for use in evidence.platforms
        ],
        events_used=evidence.events_used,
        newest_event_age=None if newest is None else _duration(newest),
        texts_encoded=evidence.texts_encoded,
        suppressed_platforms=evidence.suppressed,
        uncertain_events_used=evidence.uncertain_events_used,
        level=_LEVELS[evidence.level],  # type: ignore[arg-type]
        level_reason=REASONS[evidence.reason],
        history_age=None if age is None else _duration(age),
        stage_timings=[
            prediction_service_pb2.StageTiming(stage=stage, duration=_duration(duration_s))
            for stage, duration_s in stages.items()
        ],
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration

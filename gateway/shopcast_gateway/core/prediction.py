"""The request path: who, what, score, answer."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from shopcast_domain.events import Outcome
from shopcast_domain.features import Window, compute_features, history_numbers
from shopcast_gateway.core.model import History, Model
from shopcast_gateway.core.protocol import (
    Evidence,
    ItemPrediction,
    PlatformUse,
    Prediction,
    PredictQuery,
)
from shopcast_gateway.core.vectors import ItemVectors
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.types import Reading
from shopcast_gateway.errors import DeadlineExpired

_log = logging.getLogger(__name__)

CLOCK_SKEW_S = 300.0
"""How far ahead of our clock an event may lie. Such events count as happening now."""


class ModelPredictor:
    """Answers predictions with one model over one directory. `clock`: seconds since the epoch."""

    def __init__(
        self,
        model: Model,
        vectors: ItemVectors,
        directory: Directory,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._vectors = vectors
        self._directory = directory
        self._clock = clock

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        """Score the items of one query, as Predictor says."""
        deadline = time.monotonic() + timeout_s
        manifest = self._model.manifest
        now_s = self._clock()
        try:
            async with asyncio.timeout(timeout_s):
                reading = await self._directory.read(
                    query.account,
                    query.items,
                    before_s=now_s + CLOCK_SKEW_S,
                    limit=max(manifest.feature_events, manifest.history_events),
                )
        except TimeoutError:
            raise DeadlineExpired("the directory took longer than the deadline") from None
        attended = newest(reading.window, manifest.history_events)
        count = len(reading.candidate_texts)
        texts = (*reading.candidate_texts, *reading.window_texts[: len(attended)])
        vectors, encoded = await self._vectors.get(texts, timeout_s=deadline - time.monotonic())
        platform = reading.candidates.platform
        history = History(
            vectors=vectors[count:],
            kind=attended.kind,
            numbers=history_numbers(
                now_s - attended.time_s, attended.platform == platform, attended.price
            ),
        )
        candidates = reading.candidates
        if query.quantities:
            quantity = np.array(query.quantities, dtype=np.float64)
            candidates = replace(candidates, quantity=quantity)
        window = newest(reading.window, manifest.feature_events)
        features = compute_features(now_s, window, candidates)
        probabilities = await self._model.score(
            history, vectors[:count], features, timeout_s=deadline - time.monotonic()
        )
        evidence = self._evidence(reading, now_s, encoded)
        _log.info(
            "prediction=%s model=%s items=%d events=%d encoded=%d",
            evidence.prediction_id,
            evidence.model_version,
            len(query.items),
            evidence.events_used,
            encoded,
        )
        return Prediction(
            predictions=tuple(
                ItemPrediction(item.item_id, (row[0], row[1], row[2]), known, bool(text))
                for item, row, known, text in zip(
                    query.items,
                    probabilities.tolist(),
                    reading.candidate_known,
                    reading.candidate_texts,
                    strict=True,
                )
            ),
            evidence=evidence,
        )

    def _evidence(self, reading: Reading, now_s: float, encoded: int) -> Evidence:
        manifest = self._model.manifest
        ages = [max(0.0, now_s - t) for t in reading.window.time_s.tolist()]
        by_platform: dict[str, list[float]] = {}
        for platform, age in zip(reading.window_platforms, ages, strict=True):
            by_platform.setdefault(platform, []).append(age)
        return Evidence(
            prediction_id=uuid.uuid4().hex,
            model_version=str(manifest.behavior_version),
            encoder_version=str(manifest.encoder_version),
            trained_outcomes=tuple(Outcome[name.upper()] for name in manifest.trained_outcomes),
            person_known=reading.person_known,
            platforms=tuple(
                PlatformUse(platform, len(of), min(of))
                for platform, of in sorted(by_platform.items())
            ),
            events_used=len(ages),
            newest_event_age_s=min(ages, default=None),
            texts_encoded=encoded,
        )


def newest(window: Window, limit: int) -> Window:
    """The newest `limit` events of a window."""
    if len(window) <= limit:
        return window
    return replace(window, **{name: getattr(window, name)[:limit] for name in Window.__slots__})

"""The request path: who, what, score, answer."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shopcast_domain.events import Outcome
from shopcast_domain.features import Window
from shopcast_gateway.core.exposure import Exposure
from shopcast_gateway.core.model import Model
from shopcast_gateway.core.protocol import (
    Evidence,
    ItemPrediction,
    Level,
    PlatformUse,
    Prediction,
    PredictQuery,
)
from shopcast_gateway.core.vectors import ItemVectors
from shopcast_gateway.core.worlds import worlds
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.reading import unread
from shopcast_gateway.directory.types import Reading
from shopcast_gateway.errors import DeadlineExpired, Unavailable

_log = logging.getLogger(__name__)

_READ_SHARE = 0.5
"""Of the deadline, which the directory may take where an answer without it will do."""
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
        reading, level = await self._read(query, now_s, timeout_s)
        candidates = reading.candidates
        if query.quantities:
            quantity = np.array(query.quantities, dtype=np.float64)
            candidates = replace(candidates, quantity=quantity)
        cases = worlds(reading.window_confidence)
        # Texts of whatever any case attends to.
        attended = [np.flatnonzero(there)[: manifest.history_events] for _, there in cases]
        rows = np.unique(np.concatenate(attended))
        texts = (*reading.candidate_texts, *(reading.window_texts[row] for row in rows))
        vectors, encoded = await self._vectors.get(
            texts, timeout_s=deadline - time.monotonic(), look_up=level is Level.FULL
        )
        count = len(reading.candidate_texts)
        scored = await asyncio.gather(
            *(
                self._model.score(
                    Exposure(
                        now_s,
                        _chosen(reading.window, there),
                        candidates,
                        vectors[count:][np.searchsorted(rows, seen)],
                        vectors[:count],
                    ),
                    timeout_s=deadline - time.monotonic(),
                )
                for (_, there), seen in zip(cases, attended, strict=True)
            )
        )
        weights = np.array([weight for weight, _ in cases])
        probabilities = np.tensordot(weights, np.stack(scored), axes=1)
        evidence = self._evidence(reading, now_s, encoded, level)
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

    async def _read(
        self, query: PredictQuery, now_s: float, timeout_s: float
    ) -> tuple[Reading, Level]:
        """What the directory knows, or if it cannot be had and need not, what the request says."""
        manifest = self._model.manifest
        spared = query.lowest_level >= Level.NO_HISTORY
        try:
            async with asyncio.timeout(timeout_s * _READ_SHARE if spared else timeout_s):
                reading = await self._directory.read(
                    query.account,
                    query.items,
                    before_s=now_s + CLOCK_SKEW_S,
                    limit=max(manifest.feature_events, manifest.history_events),
                    purpose=query.purpose,
                    min_confidence=query.min_confidence,
                )
        except (TimeoutError, Unavailable) as error:
            if spared:
                _log.warning("answering without history: %s", error or "the directory is slow")
                return unread(query.items), Level.NO_HISTORY
            if isinstance(error, Unavailable):
                raise
            raise DeadlineExpired("the directory took longer than the deadline") from None
        return reading, Level.FULL

    def _evidence(self, reading: Reading, now_s: float, encoded: int, level: Level) -> Evidence:
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
            suppressed=reading.suppressed,
            uncertain_events_used=int((reading.window_confidence < 1).sum()),
            level=level,
        )


def _chosen(window: Window, rows: NDArray[np.bool_]) -> Window:
    if rows.all():
        return window
    return replace(window, **{name: getattr(window, name)[rows] for name in Window.__slots__})

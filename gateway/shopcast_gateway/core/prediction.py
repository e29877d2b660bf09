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
from shopcast_gateway.core.histories import Histories
from shopcast_gateway.core.model import Model
from shopcast_gateway.core.prior import PriorPredictor
from shopcast_gateway.core.protocol import (
    Evidence,
    ItemPrediction,
    Level,
    PlatformUse,
    Prediction,
    PredictQuery,
    Reason,
)
from shopcast_gateway.core.reader import Known, Reader
from shopcast_gateway.core.stages import UNRECORDED, Recorder
from shopcast_gateway.core.vectors import ItemVectors
from shopcast_gateway.core.worlds import worlds
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.errors import DeadlineExpired, Unavailable

_log = logging.getLogger(__name__)

_MODEL_SHARE = 0.8
"""Of the time left after the read, which the model may take where base rates will do."""


class ModelPredictor:
    """Answers predictions with one model over one directory. `clock`: seconds since the epoch.
    histories: what is at hand when the directory is away."""

    def __init__(
        self,
        model: Model,
        vectors: ItemVectors,
        directory: Directory,
        histories: Histories,
        *,
        clock: Callable[[], float] = time.time,
        recorder: Recorder = UNRECORDED,
    ) -> None:
        self._model = model
        self._vectors = vectors
        self._clock = clock
        self._reader = Reader(
            directory,
            histories,
            limit=max(model.manifest.feature_events, model.manifest.history_events),
            clock=clock,
            recorder=recorder,
        )
        self.prior = PriorPredictor(model.manifest, self._reader)
        """Answers with the same base rates and copies where the model is away altogether."""

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        """Score the items of one query, as Predictor says; or if the model is away or slow and need
        not be asked, tell base rates."""
        deadline, now_s = time.monotonic() + timeout_s, self._clock()
        known = await self._reader.read(query, timeout_s=timeout_s)
        if not self.prior.offers(query):
            return await self._scored(query, known, now_s, deadline)
        left_s = deadline - time.monotonic()
        try:
            return await self._scored(query, known, now_s, deadline - (1 - _MODEL_SHARE) * left_s)
        except DeadlineExpired:
            return self.prior.answer(query, known, Reason.MODEL_SLOW)
        except Unavailable:
            return self.prior.answer(query, known, Reason.MODEL_AWAY)

    async def _scored(
        self, query: PredictQuery, known: Known, now_s: float, deadline: float
    ) -> Prediction:
        """What the model says. deadline: of the monotonic clock."""
        await self._model.check(deadline - time.monotonic())
        manifest, reading = self._model.manifest, known.reading
        candidates = reading.candidates
        if query.quantities:
            quantity = np.array(query.quantities, dtype=np.float64)
            candidates = replace(candidates, quantity=quantity)
        cases = worlds(reading.window_confidence)
        # Texts of whatever any case attends to.
        attended = [np.flatnonzero(there)[: manifest.history_events] for _, there in cases]
        rows = np.unique(np.concatenate(attended)) if len(cases) > 1 else attended[0]
        texts = (*reading.candidate_texts, *(reading.window_texts[row] for row in rows))
        vectors, encoded = await self._vectors.get(
            texts, timeout_s=deadline - time.monotonic(), look_up=known.level is Level.FULL
        )
        count = len(reading.candidate_texts)
        exposures = [
            Exposure(
                now_s,
                _chosen(reading.window, there),
                candidates,
                vectors[count:][np.searchsorted(rows, seen)],
                vectors[:count],
            )
            for (_, there), seen in zip(cases, attended, strict=True)
        ]
        left_s = deadline - time.monotonic()
        if len(exposures) == 1:  # nearly always, and cheaper
            probabilities = await self._model.score(exposures[0], timeout_s=left_s)
        else:
            scored = await asyncio.gather(
                *(self._model.score(one, timeout_s=left_s) for one in exposures)
            )
            probabilities = np.tensordot([weight for weight, _ in cases], scored, axes=1)
        evidence = self._evidence(known, now_s, encoded)
        _log.info(
            "prediction=%s model=%s level=%s items=%d events=%d encoded=%d",
            evidence.prediction_id,
            evidence.model_version,
            evidence.level.name,
            len(query.items),
            evidence.events_used,
            encoded,
        )
        return Prediction(
            predictions=tuple(
                ItemPrediction(item.item_id, (row[0], row[1], row[2]), seen, bool(text))
                for item, row, seen, text in zip(
                    query.items,
                    probabilities.tolist(),
                    reading.candidate_known,
                    reading.candidate_texts,
                    strict=True,
                )
            ),
            evidence=evidence,
        )

    def _evidence(self, known: Known, now_s: float, encoded: int) -> Evidence:
        manifest, reading = self._model.manifest, known.reading
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
            level=known.level,
            reason=known.reason,
            history_age_s=known.age_s,
        )


def _chosen(window: Window, rows: NDArray[np.bool_]) -> Window:
    if rows.all():
        return window
    return replace(window, **{name: getattr(window, name)[rows] for name in Window.__slots__})

"""Answers without a model: the base rates of platform and category, from a manifest."""

import logging
import uuid

from shopcast_domain.events import Outcome
from shopcast_domain.manifest import Manifest
from shopcast_gateway.core.protocol import (
    Evidence,
    ItemPrediction,
    Level,
    Prediction,
    PredictQuery,
    Reason,
)
from shopcast_gateway.core.reader import Known, Reader
from shopcast_gateway.errors import Unavailable

_log = logging.getLogger(__name__)


class PriorPredictor:
    """Answers what a model would be asked, where the caller takes base rates. Needs no Triton."""

    def __init__(self, manifest: Manifest, reader: Reader) -> None:
        self._manifest, self._reader = manifest, reader

    def offers(self, query: PredictQuery) -> bool:
        """Whether base rates will do for the caller, and the manifest has some."""
        return query.lowest_level >= Level.PRIOR and self._manifest.base_rates is not None

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        """The answer while there is no model. Raises Unavailable where it is not offered."""
        if not self.offers(query):
            raise Unavailable("no model is loaded")
        known = await self._reader.read(query, timeout_s=timeout_s)
        return self.answer(query, known, Reason.MODEL_AWAY)

    def answer(self, query: PredictQuery, known: Known, reason: Reason) -> Prediction:
        """The base rates of a query that is offered some. known: for the items' categories."""
        rates, reading = self._manifest.base_rates, known.reading
        assert rates is not None  # noqa: S101 - offered
        evidence = Evidence(
            prediction_id=uuid.uuid4().hex,
            model_version=str(self._manifest.behavior_version),
            encoder_version=str(self._manifest.encoder_version),
            trained_outcomes=tuple(
                Outcome[name.upper()] for name in self._manifest.trained_outcomes
            ),
            person_known=reading.person_known,
            platforms=(),
            events_used=0,
            newest_event_age_s=None,
            texts_encoded=0,
            level=Level.PRIOR,
            reason=reason,
        )
        _log.warning(
            "prediction=%s rates=%s level=%s reason=%s items=%d",
            evidence.prediction_id,
            evidence.model_version,
            evidence.level.name,
            reason.value,
            len(query.items),
        )
        return Prediction(
            predictions=tuple(
                ItemPrediction(
                    item.item_id, rates.of(query.account.platform, category), seen, bool(text)
                )
                for item, category, seen, text in zip(
                    query.items,
                    reading.candidate_categories,
                    reading.candidate_known,
                    reading.candidate_texts,
                    strict=True,
                )
            ),
            evidence=evidence,
        )

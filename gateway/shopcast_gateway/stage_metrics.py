"""What becomes of predictions inside, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shopcast_domain.manifest import BEHAVIOR, ENCODER
from shopcast_gateway.core.protocol import Level, Reason
from shopcast_gateway.core.stages import (
    PLACES,
    REFUSERS,
    SOURCES,
    STAGES,
    Place,
    Refuser,
    Source,
    Stage,
)

_STAGE_S = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03),
    *(0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0),
)
_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)  # 64 is the most a call takes


class StageMetrics:
    """Counts stages, batches and answers. Implements `core.stages.Recorder`; each recording takes
    about a microsecond (benchmarks/recording.py)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        seconds = Histogram(
            "shopcast_stage_seconds",
            "How long stages of predictions took; of a batch, once for the batch.",
            ["stage"],
            buckets=_STAGE_S,
            registry=registry,
        )
        rows = Histogram(
            "shopcast_batch_rows",
            "Texts or people of one call to a model.",
            ["model"],
            buckets=_ROWS,
            registry=registry,
        )
        items = Counter(
            "shopcast_items",
            "Items of predictions, by where they were.",
            ["from"],
            registry=registry,
        )
        vectors = Counter(
            "shopcast_vectors", "Item vectors, by where they were.", ["from"], registry=registry
        )
        refusals = Counter(
            "shopcast_refusals",
            "Predictions refused because there is no room.",
            ["by"],
            registry=registry,
        )
        self._answers = Counter(
            "shopcast_answers",
            "Predictions made, by what they rest on.",
            ["level", "reason"],
            registry=registry,
        )
        self._late = Counter(
            "shopcast_late_executions",
            "Rows of batches that started after the deadline of who asked.",
            registry=registry,
        )
        self._admitted = Gauge(
            "shopcast_admission_rows",
            "Rows of predictions that run or wait for their turn.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        # Labels are looked up once; all but a rare level are 0 until the first.
        self._seconds = {stage: seconds.labels(stage) for stage in STAGES}
        self._rows = {model: rows.labels(model) for model in (ENCODER, BEHAVIOR)}
        self._items = {place: items.labels(place) for place in PLACES}
        self._vectors = {source: vectors.labels(source) for source in SOURCES}
        self._refusals = {by: refusals.labels(by) for by in REFUSERS}
        self._levels: dict[tuple[Level, Reason | None], Counter] = {}
        self._level(Level.FULL, None)

    def stage(self, stage: Stage, duration_s: float) -> None:
        """As Recorder.stage."""
        self._seconds[stage].observe(duration_s)

    def batch(self, model: str, rows: int, late: int) -> None:
        """As Recorder.batch."""
        self._rows[model].observe(rows)
        if late:
            self._late.inc(late)

    def items(self, place: Place, count: int) -> None:
        """As Recorder.items."""
        self._items[place].inc(count)

    def vectors(self, source: Source, count: int) -> None:
        """As Recorder.vectors."""
        self._vectors[source].inc(count)

    def answer(self, level: Level, reason: Reason | None) -> None:
        """As Recorder.answer."""
        (self._levels.get((level, reason)) or self._level(level, reason)).inc()

    def refusal(self, by: Refuser) -> None:
        """As Recorder.refusal."""
        self._refusals[by].inc()

    def admitted(self, rows: int) -> None:
        """As Recorder.admitted."""
        self._admitted.set(rows)

    def _level(self, level: Level, reason: Reason | None) -> Counter:
        counter = self._answers.labels(level.name, reason.value if reason else "none")
        self._levels[level, reason] = counter
        return counter

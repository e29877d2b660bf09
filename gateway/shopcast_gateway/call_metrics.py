"""Rate, errors and duration of calls, for Prometheus."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

OTHER = "other"
"""The method of calls to what is no method of ours: a label must not be a caller's to choose."""
_BUCKETS_S = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0),
)  # fine where a prediction usually is


class CallMetrics:
    """Counts calls by method and status. Implements `transport.recording.CallRecorder`; each
    recording takes about a microsecond (benchmarks/recording.py)."""

    def __init__(self, registry: CollectorRegistry, methods: Iterable[str]) -> None:
        """methods: their full names, as gRPC has them; all others are one."""
        known = (*methods, OTHER)
        requests = Counter(
            "shopcast_requests", "Calls that ended.", ["method", "code"], registry=registry
        )
        seconds = Histogram(
            "shopcast_request_seconds",
            "From the start of a call to its end; of a stream too.",
            ["method"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        in_flight = Gauge(
            "shopcast_requests_in_flight",
            "Calls being answered, streams included.",
            ["method"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._requests = requests
        self._seconds = {method: seconds.labels(method) for method in known}
        self._in_flight = {method: in_flight.labels(method) for method in known}
        # 0 until the first, so that a rate sees it.
        self._ended = {(method, "OK"): requests.labels(method, "OK") for method in known}

    def refused(self, method: str, code: str) -> None:
        """Count a call that ended before its request was looked into; it has no duration."""
        self._count(method if method in self._seconds else OTHER, code)

    def began(self, method: str) -> None:
        """A call is being answered."""
        self._in_flight.get(method, self._in_flight[OTHER]).inc()

    def ended(self, method: str, code: str, duration_s: float) -> None:
        """Count a call that began, and how long it took in seconds."""
        if method not in self._seconds:
            method = OTHER
        self._in_flight[method].dec()
        self._seconds[method].observe(duration_s)
        self._count(method, code)

    def _count(self, method: str, code: str) -> None:
        counter = self._ended.get((method, code))
        if counter is None:
            counter = self._ended[method, code] = self._requests.labels(method, code)
        counter.inc()

"""Metrics for Prometheus, on a port of their own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shopcast_domain.events import Outcome
from shopcast_domain.manifest import BEHAVIOR, ENCODER
from shopcast_gateway.backend.rotation import Change as RotationChange
from shopcast_gateway.backend.rotation import Did, Ejected, Moved, RotationStatus
from shopcast_gateway.core.adoption_status import AdoptionStatus, Change, Refusal
from shopcast_gateway.core.trial import Trial
from shopcast_gateway.errors import StartupError
from shopcast_gateway.metrics_port import MetricsServer
from shopcast_gateway.triton.status import Repaired, Restarted, TritonStatus

_SWAP_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)


@contextmanager
def serve_metrics(
    status: AdoptionStatus,
    health: TritonStatus,
    trial: Callable[[], Trial | None],
    registry: CollectorRegistry,
    rotation: RotationStatus | None = None,
    *,
    host: str,
    port: int,
) -> Iterator[int]:
    """Serve them, and what else the registry has, until the context ends; the value is the port.
    docs/operations.md lists them. Raises StartupError."""
    observe(status, registry)
    observe_triton(health, registry)
    registry.register(TrialCollector(trial))
    if rotation is not None:
        observe_rotation(rotation, registry)
    try:
        server = MetricsServer(host, port, registry)
    except OSError as error:
        raise StartupError(
            f"metrics cannot be served on port {port} of {host} ({error.strerror}): choose others"
            " with --metrics-host and --metrics-port"
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def observe(status: AdoptionStatus, registry: CollectorRegistry) -> None:
    """Keep the metrics of a registry in step with a status."""
    version = Gauge("shopcast_model_version", "The version that serves.", registry=registry)
    wanted = Gauge(
        "shopcast_model_wanted_version", "The version that is to serve.", registry=registry
    )
    refused = Gauge(
        "shopcast_model_refused", "1 while the wanted version is refused.", registry=registry
    )
    adoptions = Counter(
        "shopcast_model_adoptions", "Versions taken into service.", registry=registry
    )
    refusals = Counter(
        "shopcast_model_refusals", "Versions refused, by reason.", ["reason"], registry=registry
    )

    swaps = Histogram(
        "shopcast_model_swap_seconds",
        "From when a version is to serve until it does.",
        buckets=_SWAP_S,
        registry=registry,
    )
    began: float | None = None

    def tell(now: AdoptionStatus, change: Change) -> None:
        nonlocal began
        if change == "wanted":
            began = None if now.wanted == now.serving else time.monotonic()
        elif began is not None and now.wanted == now.serving:
            swaps.observe(time.monotonic() - began)
            began = None
        elif now.wanted in now.refusals:
            began = None
        version.set(now.serving or 0)
        wanted.set(now.wanted or 0)
        refused.set(now.refusal is not None)
        if change == "adopted":
            adoptions.inc()
        elif isinstance(change, Refusal):
            refusals.labels(change.reason).inc()

    status.listeners.append(tell)


def observe_triton(health: TritonStatus, registry: CollectorRegistry) -> None:
    """Keep the metrics of a registry in step with how the model server is."""
    up = Gauge("shopcast_triton_up", "1 while both models answer.", registry=registry)
    repairs = Counter(
        "shopcast_triton_repairs",
        "Models loaded anew because they did not answer.",
        ["model"],
        registry=registry,
    )
    restarts = Counter(
        "shopcast_triton_restarts", "Tritons started in place of one that ended.", registry=registry
    )
    for model in (ENCODER, BEHAVIOR):
        repairs.labels(model)  # 0 until the first, so that a rate sees it

    def tell(now: TritonStatus, change: Repaired | Restarted | None) -> None:
        up.set(now.up)
        if isinstance(change, Repaired):
            repairs.labels(change.model).inc()
        elif isinstance(change, Restarted):
            restarts.inc()

    health.listeners.append(tell)


class TrialCollector(Collector):
    """What is known of the version on trial, while there is one."""

    def __init__(self, trial: Callable[[], Trial | None]) -> None:
        self._trial = trial

    def collect(self) -> Iterator[Metric]:
        """At each scrape."""
        trial = self._trial()
        if trial is None:
            return
        found = trial.comparison
        yield GaugeMetricFamily("shopcast_trial_version", "On trial.", trial.version)
        yield CounterMetricFamily("shopcast_trial_answers", "Given to callers.", trial.answered)
        results = CounterMetricFamily(
            "shopcast_shadow_predictions", "Of the version on trial.", labels=["result"]
        )
        for result in ("compared", "failed", "skipped"):
            results.add_metric([result], getattr(found, result))
        yield results
        yield CounterMetricFamily("shopcast_shadow_items", "Compared.", found.items)
        yield CounterMetricFamily("shopcast_shadow_flips", "Another outcome.", found.flips)
        yield GaugeMetricFamily(
            "shopcast_shadow_rank_correlation_sum", "Spearman's.", found.rank_correlation
        )
        yield CounterMetricFamily(
            "shopcast_shadow_rank_correlations", "Ranked.", found.correlations
        )
        sums = CounterMetricFamily(
            "shopcast_shadow_probability", "Sums over items.", labels=["version", "outcome"]
        )
        for outcome in Outcome:
            sums.add_metric(["serving", outcome.name.lower()], float(found.serving[outcome]))
            sums.add_metric(["trial", outcome.name.lower()], float(found.trial[outcome]))
        yield sums


def observe_rotation(rotation: RotationStatus, registry: CollectorRegistry) -> None:
    """Keep the metrics of a registry in step with which of several model servers take calls."""
    taking = Gauge(
        "shopcast_triton_in_rotation", "1 while it takes calls.", ["address"], registry=registry
    )
    ejections = Counter(
        "shopcast_triton_ejections", "Ejected for failed calls.", ["address"], registry=registry
    )
    count = second_calls(registry)
    for address in rotation.addresses:
        taking.labels(address)
        ejections.labels(address)

    def tell(what: RotationChange) -> None:
        if isinstance(what, Moved):
            if not what.on_trial:
                taking.labels(what.address).set(what.up)
        elif isinstance(what, Ejected):
            ejections.labels(what.address).inc()
        else:
            count(what)

    rotation.listeners.append(tell)


def second_calls(registry: CollectorRegistry) -> Callable[[Did], None]:
    """What counts the calls that were sent to another model server as well."""
    counters: dict[Did, Counter] = {
        "retry": Counter(
            "shopcast_triton_retries", "Calls sent elsewhere: failed or hung.", registry=registry
        ),
        "hedge": Counter(
            "shopcast_triton_hedges", "Calls sent elsewhere too: slow.", registry=registry
        ),
        "refused": Counter(
            "shopcast_triton_retries_refused", "Beyond the retry budget.", registry=registry
        ),
    }
    return lambda did: counters[did].inc()

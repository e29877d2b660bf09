"""Metrics for Prometheus, on a port of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from shopcast_domain.manifest import BEHAVIOR, ENCODER
from shopcast_gateway.backend.rotation import Change as RotationChange
from shopcast_gateway.backend.rotation import Did, Ejected, Moved, RotationStatus
from shopcast_gateway.core.adoption_status import AdoptionStatus, Change, Refusal
from shopcast_gateway.errors import StartupError
from shopcast_gateway.triton.status import Repaired, Restarted, TritonStatus


@contextmanager
def serve_metrics(
    status: AdoptionStatus,
    health: TritonStatus,
    rotation: RotationStatus | None = None,
    *,
    host: str,
    port: int,
) -> Iterator[int]:
    """Serve them until the context ends; the value is the port. Raises StartupError.

    shopcast_model_version: the version that serves. shopcast_model_wanted_version: the one that is
    to. shopcast_model_refused: 1 while it is refused. shopcast_model_adoptions_total,
    shopcast_model_refusals_total: how often one was taken up, or refused.

    shopcast_triton_up: 1 while both models answer. shopcast_triton_repairs_total: how often one
    that did not was loaded again and did. shopcast_triton_restarts_total: how often a Triton of our
    own was started in place of one that ended.
    """
    registry = CollectorRegistry()
    observe(status, registry)
    observe_triton(health, registry)
    if rotation is not None:
        observe_rotation(rotation, registry)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise StartupError(
            f"metrics cannot be served on port {port} of {host} ({error.strerror}): choose others"
            " with --metrics-host and --metrics-port"
        ) from None
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

    def tell(now: AdoptionStatus, change: Change) -> None:
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


def observe_rotation(rotation: RotationStatus, registry: CollectorRegistry) -> None:
    """Keep the metrics of a registry in step with which of several model servers take calls.

    shopcast_triton_in_rotation: 1 while the server takes calls. shopcast_triton_ejections_total:
    how often it was taken out because calls to it failed. shopcast_triton_retries_total,
    shopcast_triton_hedges_total: calls sent to another server too, because the first failed or
    hung, or was slow. shopcast_triton_retries_refused_total: those the retry budget forbade.
    """
    by_address = ["address"]
    taking = Gauge(
        "shopcast_triton_in_rotation", "1 while it takes calls.", by_address, registry=registry
    )
    ejections = Counter(
        "shopcast_triton_ejections", "Ejected for failed calls.", by_address, registry=registry
    )
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
    for address in rotation.addresses:
        taking.labels(address)
        ejections.labels(address)

    def tell(what: RotationChange) -> None:
        if isinstance(what, Moved):
            taking.labels(what.address).set(what.up)
        elif isinstance(what, Ejected):
            ejections.labels(what.address).inc()
        else:
            counters[what].inc()

    rotation.listeners.append(tell)

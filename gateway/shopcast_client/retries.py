"""How calls are spread and retried: the gRPC service config of every client of shopcast.v1."""

from importlib.resources import files

SERVICE_CONFIG: str = files("shopcast.v1").joinpath("service_config.json").read_text("utf-8")
"""JSON for the channel option `grpc.service_config`; `protos/shopcast/v1/service_config.json`."""

CHANNEL_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", SERVICE_CONFIG),
    # A gateway that comes back is found before the next one of a rolling restart goes: soon, and
    # within what `serve --drain-wait` leaves.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # One that hangs, or whose machine is gone, is left out: nobody else tells of it. Gateways take
    # a ping every ten seconds.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
)
"""Of every channel."""

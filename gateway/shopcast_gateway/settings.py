"""What a gateway is told when it is started."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shopcast_gateway.core.admission import MAX_ROWS
from shopcast_gateway.drain import Drain
from shopcast_gateway.logs import Logs
from shopcast_gateway.transport.credentials import Tls


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """repository: a Triton model repository. directory: the SQLite file, or a URL of Redis;
    directory_key: the file of its keys, if it is not where it usually is. triton_urls: host:port of
    each Triton to use in place of the bundled one, whose environment lies in triton_home and whose
    output goes to triton_log. hedge_after_s: as of BalancedBackend, if there are several. Ports:
    0 takes a free one; metrics_port, admin_port: None serves none of that. workers: processes that
    answer on the port.
    max_rows: of predictions under way, as Admission counts them, in all workers together. tls: None
    is plain text. auth: the file of who may call what; None admits everybody.
    otlp_endpoint: URL of a collector of traces; None traces nothing. compress: responses. drain:
    how it stops. allow_...: lets other machines reach what is not protected from them."""

    repository: Path
    directory: str | Path
    host: str
    port: int
    triton_urls: Sequence[str]
    triton_home: Path
    triton_log: Path
    hedge_after_s: float | None = None
    metrics_port: int | None = None
    directory_key: Path | None = None
    workers: int = 1
    max_rows: int = MAX_ROWS
    metrics_host: str = "127.0.0.1"
    admin_port: int | None = None
    admin_host: str = "127.0.0.1"
    tls: Tls | None = None
    auth: Path | None = None
    allow_insecure: bool = False
    allow_plaintext_metrics: bool = False
    otlp_endpoint: str | None = None
    compress: bool = False
    drain: Drain = field(default_factory=Drain)
    logs: Logs = field(default_factory=Logs)

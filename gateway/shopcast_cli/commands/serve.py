"""`platform serve`."""

import asyncio
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopcast_cli.console import fail, failures

if TYPE_CHECKING:
    from shopcast_gateway.runtime import Serving

_SAYING_S = 5.0


def serve(
    repository: Annotated[
        Path, typer.Option(help="Triton model repository with a published model.")
    ] = Path("model_repository"),
    directory: Annotated[
        str,
        typer.Option(
            help="Accounts, events and items: a SQLite file, made if missing, or redis://HOST:PORT."
        ),
    ] = "shopcast.db",
    directory_key: Annotated[
        Path | None,
        typer.Option(
            help="File of the keys of pseudonyms, made if missing. Default: SHOPCAST_DIRECTORY_KEY,"
            " else NAME.key beside the SQLite file."
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to bind; one that other machines reach needs TLS, and --client-ca or"
            " --auth."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="gRPC port; 0 takes a free one.", max=65535, min=0)] = (
        50051
    ),
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="The server's certificate, PEM; read again when the file changes."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The key of --tls-cert, PEM, without a passphrase.")
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(help="Admit only clients with a certificate of this CA, PEM."),
    ] = None,
    auth: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of whose tokens and certificates may call what, read again when it"
            " changes; without it, whoever connects may make every call."
        ),
    ] = None,
    allow_insecure: Annotated[
        bool,
        typer.Option(
            "--allow-insecure",
            help="Bind any --host without --client-ca or --auth: whoever reaches it may call, and"
            " without --tls-cert in plain text.",
        ),
    ] = False,
    triton_url: Annotated[
        list[str] | None,
        typer.Option(
            help="host:port of a Triton that serves this repository, in place of the bundled one;"
            " may be repeated: calls are balanced over those that answer."
        ),
    ] = None,
    hedge_after: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds after which a call that has no answer is sent to a second"
            " --triton-url too; never by default.",
            min=1.0,
        ),
    ] = None,
    triton_home: Annotated[
        Path | None,
        typer.Option(help="Triton's environment; SHOPCAST_TRITON_HOME or .triton by default."),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            help="Serve Prometheus metrics here; 0 takes a free one, none by default.",
            max=65535,
            min=0,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            help="Processes that answer on the port and share one Triton. Each takes whole"
            " connections: clients need several for all workers to have something to do.",
            min=1,
            max=64,
        ),
    ] = 1,
    max_rows: Annotated[
        int,
        typer.Option(
            help="Predictions under way at once, in rows: each call takes 100 and its items. What"
            " is more is refused with RESOURCE_EXHAUSTED and when to try again.",
            min=1,
        ),
    ] = 8000,
    metrics_host: Annotated[
        str, typer.Option(help="Address to bind for metrics, which are in plain text.")
    ] = "127.0.0.1",
    allow_plaintext_metrics: Annotated[
        bool,
        typer.Option(
            "--allow-plaintext-metrics", help="Bind a --metrics-host that other machines reach."
        ),
    ] = False,
    admin_port: Annotated[
        int | None,
        typer.Option(
            help="Serve ModelAdminService here, with the TLS and the --auth of --port; 0 takes a"
            " free one, none by default.",
            max=65535,
            min=0,
        ),
    ] = None,
    admin_host: Annotated[
        str,
        typer.Option(
            help="Address to bind for --admin-port; one that other machines reach needs what --host"
            " does there."
        ),
    ] = "127.0.0.1",
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            help="Send traces to this OpenTelemetry collector, such as http://localhost:4318.",
            envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    ] = None,
    compress: Annotated[
        bool,
        typer.Option(
            "--compress",
            help="Compress responses for clients that take it: pays on slow or metered networks.",
        ),
    ] = False,
    drain_wait: Annotated[
        float,
        typer.Option(
            help="Seconds in which calls are still answered after SIGTERM, while health says"
            " NOT_SERVING and balancers notice. None after SIGINT; a second signal ends them.",
            min=0.0,
        ),
    ] = 5.0,
    drain_grace: Annotated[
        float,
        typer.Option(
            help="Seconds that running calls then have to end, before they are cancelled.", min=0.0
        ),
    ] = 30.0,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    log_format: Annotated[
        str, typer.Option(help="text, or json: one object a line, for machines.")
    ] = "text",
) -> None:
    """Serve predictions over gRPC.

    Starts and supervises the bundled Triton, loads the version that was promoted, replays its
    golden predictions, and only then reports SERVING. A version that is promoted later is taken up
    while serving, in a Triton of its own; where it is refused, the one before goes on. Stops
    cleanly on Ctrl-C and SIGTERM. Logs go to stderr, Triton's to the directory's name with
    `.triton.log`.

    Example: platform serve --repository model_repository --port 50051
    """
    from shopcast_gateway.directory.places import in_redis
    from shopcast_gateway.drain import Drain
    from shopcast_gateway.errors import StartupError
    from shopcast_gateway.logs import LEVELS, Logs, flush
    from shopcast_gateway.runtime import run
    from shopcast_gateway.settings import ServeSettings
    from shopcast_gateway.transport.credentials import Tls
    from shopcast_gateway.triton.environment import default_folder

    if (tls_cert is None) != (tls_key is None) or (client_ca and not tls_cert):
        raise typer.BadParameter(
            "--tls-cert and --tls-key go together, and --client-ca with them",
            param_hint="--tls-cert",
        )
    urls = tuple(dict.fromkeys(triton_url or ()))
    if hedge_after is not None and len(urls) < 2:
        raise typer.BadParameter("needs several --triton-url", param_hint="--hedge-after")
    if (log_level := log_level.lower()) not in LEVELS:
        raise typer.BadParameter(f"one of {', '.join(LEVELS)}", param_hint="--log-level")
    if log_format not in ("text", "json"):
        raise typer.BadParameter("text or json", param_hint="--log-format")
    with failures(StartupError):
        triton_log = Path(f"{'shopcast' if in_redis(directory) else directory}.triton.log")
    logs = Logs(log_level, "json" if log_format == "json" else "text")
    logs.set_up()
    settings = ServeSettings(
        repository=repository,
        directory=directory,
        directory_key=directory_key,
        host=host,
        port=port,
        triton_urls=urls,
        hedge_after_s=None if hedge_after is None else hedge_after / 1000,
        triton_home=triton_home or default_folder(),
        triton_log=triton_log,
        metrics_port=metrics_port,
        workers=workers,
        max_rows=max_rows,
        metrics_host=metrics_host,
        admin_port=admin_port,
        admin_host=admin_host,
        tls=Tls(tls_cert, tls_key, client_ca) if tls_cert and tls_key else None,
        auth=auth,
        allow_insecure=allow_insecure,
        allow_plaintext_metrics=allow_plaintext_metrics,
        otlp_endpoint=otlp_endpoint,
        compress=compress,
        drain=Drain(drain_wait, drain_grace),
        logs=logs,
    )

    def ready(serving: "Serving") -> None:
        metrics = f", metrics on port {serving.metrics}" if serving.metrics else ""
        admin = f", administration on port {serving.admin}" if serving.admin else ""
        line = (
            f"serving version {serving.version} on {serving.address} (Triton on"
            f" {serving.triton}{metrics}{admin}); try `platform predict --target {serving.address}"
            " --help`\n"
        )
        # Unbuffered: what is left in a buffer would be tried again at the end, and fail that.
        if sys.stdout is not None:
            with suppress(OSError):  # nobody reads it, or its disk is full: we serve all the same
                os.write(sys.stdout.fileno(), line.encode())

    try:
        asyncio.run(run(settings, ready))
    except StartupError as error:
        watchdog = threading.Timer(_SAYING_S, os._exit, (1,))  # nobody may read why
        watchdog.daemon = True
        watchdog.start()
        try:
            flush()
            fail(error)
        finally:
            watchdog.cancel()

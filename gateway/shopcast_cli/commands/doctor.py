"""`platform doctor`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopcast_cli.console import (
    out,
    print_json,
    styled,
)

if TYPE_CHECKING:
    from shopcast_gateway.doctor.finding import Finding, State

_MARKS: "dict[State, tuple[str, str]]" = {
    "failed": ("✗", "red"),
    "warning": ("!", "yellow"),
    "ok": ("✓", "green"),
    "skipped": ("-", "dim"),
}
"""And their styles, the worst first."""
_NAME_WIDTH = 11


def doctor(
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path(
        "model_repository"
    ),
    directory: Annotated[
        str, typer.Option(help="SQLite file of the gateway, or redis://HOST:PORT.")
    ] = "shopcast.db",
    directory_key: Annotated[
        Path | None, typer.Option(help="File of the keys of pseudonyms, as `serve` takes it.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address that serving would bind.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="gRPC port that serving would bind; 0: any.", max=65535, min=0)
    ] = 50051,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Metrics port that serving would bind; 0: any.", max=65535, min=0),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="Address that --metrics-port would bind.")
    ] = "127.0.0.1",
    allow_plaintext_metrics: Annotated[
        bool, typer.Option("--allow-plaintext-metrics", help="As `serve` takes it.")
    ] = False,
    admin_port: Annotated[
        int | None,
        typer.Option(help="Port of ModelAdminService; 0: any.", max=65535, min=0),
    ] = None,
    admin_host: Annotated[
        str, typer.Option(help="Address that --admin-port would bind.")
    ] = "127.0.0.1",
    tls_cert: Annotated[
        Path | None, typer.Option(help="The server's certificate, PEM; --tls-key goes with it.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key of --tls-cert, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="CA of the certificates that clients must show, PEM.")
    ] = None,
    auth: Annotated[Path | None, typer.Option(help="TOML file of who may call what.")] = None,
    allow_insecure: Annotated[
        bool, typer.Option("--allow-insecure", help="As `serve` takes it.")
    ] = False,
    triton_home: Annotated[
        Path | None,
        typer.Option(help="Triton's environment; SHOPCAST_TRITON_HOME or .triton by default."),
    ] = None,
    triton_url: Annotated[
        list[str] | None,
        typer.Option(help="host:port of a Triton in place of the bundled one; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check whether this installation can serve, and say what to do where it cannot.

    Give it the options of `platform serve`. It looks at Python, packages, Triton, ports, who may
    call, the published versions, the vocabulary, warm-up, GPU and backends of the one that serves,
    the directory and its key, the clock and the space. It starts no server and changes nothing.
    Exit code 1 when a check failed; warnings leave it 0.

    Example: platform doctor --repository model_repository --directory shopcast.db
    """
    if (tls_cert is None) != (tls_key is None) or (client_ca and not tls_cert):
        raise typer.BadParameter(
            "--tls-cert and --tls-key go together, and --client-ca with them",
            param_hint="--tls-cert",
        )
    from shopcast_gateway.doctor.checkup import examine
    from shopcast_gateway.doctor.finding import Installation
    from shopcast_gateway.triton.environment import default_folder

    findings = examine(
        Installation(
            repository=repository,
            directory=directory,
            directory_key=directory_key,
            host=host,
            port=port,
            metrics_port=metrics_port,
            triton_home=triton_home or default_folder(),
            triton_urls=tuple(dict.fromkeys(triton_url or ())),
            metrics_host=metrics_host,
            admin_port=admin_port,
            admin_host=admin_host,
            tls_cert=tls_cert,
            tls_key=tls_key,
            client_ca=client_ca,
            auth=auth,
            allow_insecure=allow_insecure,
            allow_plaintext_metrics=allow_plaintext_metrics,
        )
    )
    counts = _counts(findings)
    if as_json:
        _print_json(findings, counts)
    else:
        _print(findings, counts)
    if counts["failed"]:
        raise typer.Exit(1)


def _counts(findings: "list[Finding]") -> "dict[State, int]":
    """How many checks are in which state, each in its worst."""
    states: dict[str, set[State]] = {}
    for one in findings:
        states.setdefault(one.name, set()).add(one.state)
    worst = Counter(next(state for state in _MARKS if state in some) for some in states.values())
    return {state: worst[state] for state in _MARKS}


def _print_json(findings: "list[Finding]", counts: "dict[State, int]") -> None:
    print_json(
        {
            "healthy": not counts["failed"],
            "checks": counts,
            "findings": [
                {"name": f.name, "state": f.state, "found": f.found, "remedy": f.remedy}
                for f in findings
            ],
        }
    )


def _print(findings: "list[Finding]", counts: "dict[State, int]") -> None:
    for one in findings:
        mark = styled(*_MARKS[one.state])
        out.print(mark, f"{one.name:<{_NAME_WIDTH}} {one.found}", soft_wrap=True)
        if one.remedy is not None:
            out.print(f"{'':<{_NAME_WIDTH + 3}}{one.remedy}", soft_wrap=True)
    told = [
        f"{count} {'warnings' if (state, count > 1) == ('warning', True) else state}"
        for state in ("ok", "warning", "failed", "skipped")
        if (count := counts[state])
    ]
    out.print(f"{sum(counts.values())} checks: {', '.join(told)}")

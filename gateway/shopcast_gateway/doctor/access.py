"""Who could reach what would serve, and whether its files say who may."""

from collections.abc import Callable

from shopcast_gateway.doctor.finding import Answer, Installation, failed, ok, parts, warning
from shopcast_gateway.errors import StartupError
from shopcast_gateway.transport.authorisation import Access
from shopcast_gateway.transport.credentials import Tls, server_credentials, soon_over
from shopcast_gateway.transport.exposure import (
    check_exposure,
    check_metrics_exposure,
    loopback_only,
)

_READ = "see that this user may read the file, and that it holds what --help says"


def access(installation: Installation) -> list[Answer]:
    """Whether serving would bind what it is told to, and can use its certificates and its file of
    callers."""
    tls = _tls(installation)
    looks: list[Callable[[], object]] = []

    def reach(host: str, option: str) -> None:
        check_exposure(
            host,
            tls,
            authenticated=installation.auth is not None,
            allow_insecure=installation.allow_insecure,
            option=option,
        )

    looks.append(lambda: reach(installation.host, "--host"))
    if installation.admin_port is not None:
        looks.append(lambda: reach(installation.admin_host, "--admin-host"))
    if installation.metrics_port is not None:
        allowed = installation.allow_plaintext_metrics
        looks.append(
            lambda: check_metrics_exposure(installation.metrics_host, allow_plaintext=allowed)
        )
    if tls is not None:
        looks.append(lambda: server_credentials(tls))
    if (auth := installation.auth) is not None:
        mutual = installation.client_ca is not None
        looks.append(lambda: Access(auth, certificates=mutual))
    problems = [one for look in looks if (one := _problem(look))]
    return problems or _lifetime(tls) or [ok(_told(installation, tls))]


def _lifetime(tls: Tls | None) -> list[Answer]:
    if tls is None or not (said := soon_over(tls.cert.read_bytes())):
        return []
    over = "ended" in said
    return [(failed if over else warning)(said, f"renew {tls.cert} with its key")]


def _tls(installation: Installation) -> Tls | None:
    if installation.tls_cert is None or installation.tls_key is None:
        return None
    return Tls(installation.tls_cert, installation.tls_key, installation.client_ca)


def _problem(look: Callable[[], object]) -> Answer | None:
    try:
        look()
    except StartupError as error:
        return failed(*parts(error, _READ))
    return None


def _told(installation: Installation, tls: Tls | None) -> str:
    reached = "only from this machine" if loopback_only(installation.host) else "by other machines"
    how = "over TLS" if tls else "in plain text"
    if installation.auth is not None:
        who = f"whom {installation.auth} knows"
    else:
        who = "who shows a certificate of the CA" if tls and tls.client_ca else "whoever connects"
    return f"{installation.host} is reached {reached}, {how}, and {who} may call"

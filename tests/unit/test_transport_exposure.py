"""Which addresses other machines can reach, and what is asked of them."""

import socket
from pathlib import Path
from typing import Any

import pytest

from shopcast_client.tokens import stays_here
from shopcast_gateway.errors import StartupError
from shopcast_gateway.transport.binding import address_of
from shopcast_gateway.transport.credentials import Tls
from shopcast_gateway.transport.exposure import (
    check_exposure,
    check_metrics_exposure,
    loopback_only,
)

ONE_WAY = Tls(Path("cert"), Path("key"))
MUTUAL = Tls(Path("cert"), Path("key"), Path("ca"))
PUBLIC = ["0.0.0.0", "::", "0", "", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "[::1]"]  # noqa: S104


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_an_address_of_this_machine_only_needs_nothing(host: str) -> None:
    assert loopback_only(host)
    check_exposure(host, None, allow_insecure=False)
    check_metrics_exposure(host, allow_plaintext=False)


@pytest.mark.parametrize("host", PUBLIC)
def test_any_other_needs_tls_and_callers_that_are_known(host: str) -> None:
    with pytest.raises(StartupError) as plain:
        check_exposure(host, None, allow_insecure=False)
    with pytest.raises(StartupError) as one_way:
        check_exposure(host, ONE_WAY, allow_insecure=False)
    with pytest.raises(StartupError) as known:
        check_exposure(host, None, authenticated=True, allow_insecure=False)
    assert (
        "plain text: give --tls-cert, --tls-key and --client-ca or --auth, bind 127.0.0.1"
        in str(plain.value)
    )
    assert "admit anyone there: give --client-ca or --auth, bind 127.0.0.1" in str(one_way.value)
    assert "plain text: give --tls-cert and --tls-key, bind 127.0.0.1" in str(known.value)
    check_exposure(host, MUTUAL, allow_insecure=False)
    check_exposure(host, ONE_WAY, authenticated=True, allow_insecure=False)
    check_exposure(host, None, allow_insecure=True)
    check_exposure(host, ONE_WAY, allow_insecure=True)


@pytest.mark.parametrize("host", PUBLIC)
def test_metrics_stay_on_this_machine_unless_that_is_meant(host: str) -> None:
    with pytest.raises(StartupError, match="with --metrics-host, or say that it is meant"):
        check_metrics_exposure(host, allow_plaintext=False)
    check_metrics_exposure(host, allow_plaintext=True)


@pytest.mark.parametrize(
    ("addresses", "local"),
    [
        (["127.0.0.1", "::1"], True),
        (["127.0.0.1", "192.0.2.1"], False),
        (["fe80::1%eth0"], False),
        ([], False),
    ],
)
def test_a_name_is_what_all_its_addresses_are(
    addresses: list[str], local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert loopback_only("shop") is local


def test_a_name_without_an_address_is_not_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert not loopback_only("shop")
    assert not loopback_only("a" * 70 + ".example")


@pytest.mark.parametrize(
    ("host", "told"),
    [("127.0.0.1", "127.0.0.1:50051"), ("localhost", "localhost:50051"), ("::1", "[::1]:50051")],
)
def test_an_address_is_told_as_clients_take_it(host: str, told: str) -> None:
    assert address_of(host, 50051) == told
    assert stays_here(told)

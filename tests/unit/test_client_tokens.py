"""The token a client sends: what a file may hold, and where it may go."""

from pathlib import Path

import grpc
import pytest

from shopcast_client import ShopcastClient
from shopcast_client.tokens import TokenFile, stays_here


@pytest.mark.parametrize(
    ("target", "here"),
    [
        ("127.0.0.1:50051", True),
        ("127.8.9.1", True),
        ("localhost:50051", True),
        ("LOCALHOST:50051", True),
        ("[::1]:50051", True),
        ("dns:///localhost:50051", True),
        ("dns:127.0.0.1:50051", True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("ipv6:%5B::1%5D:50051", True),
        ("unix:/run/shopcast.sock", True),
        ("unix:///run/shopcast.sock", True),
        ("", False),
        (":50051", False),
        ("0.0.0.0:50051", False),
        ("192.0.2.1:50051", False),
        ("[2001:db8::1]:50051", False),
        ("shop.internal:50051", False),
        ("localhost.example:50051", False),
        ("127.0.0.1.example:50051", False),
        ("127.0.0.1@example.org:50051", False),
        ("example.org#127.0.0.1", False),
        ("127.0.0.1/example.org", False),
        ("dns://192.0.2.1/localhost:50051", False),
        ("ipv4:127.0.0.1:1,192.0.2.1:1", False),
        ("xds:///localhost", False),
        ("https://127.0.0.1:50051", False),
        ("dns:50051", False),
    ],
)
def test_what_stays_on_this_machine(target: str, here: bool) -> None:
    assert stays_here(target) is here


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("abc.def-_.~+/=\n")
    return path


def test_a_token_is_read_without_what_surrounds_it(file: Path) -> None:
    assert TokenFile(file).read() == "abc.def-_.~+/="


@pytest.mark.parametrize("data", [b"", b"two tokens", b"a\nb", b"\xff\xfe", b"x" * 8193, b"a\x00"])
def test_what_is_no_token_is_said_without_it(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(ValueError, match=rf"^{file} holds no bearer token\.$"):
        TokenFile(file).read()


def test_a_client_says_at_once_what_it_cannot_send(file: Path) -> None:
    ShopcastClient("127.0.0.1:1", token_file=file)
    ShopcastClient("shop:1", token_file=str(file), credentials=grpc.ssl_channel_credentials())
    with pytest.raises(ValueError, match="not sent in plain text to another machine"):
        ShopcastClient("shop:1", token_file=file)
    with pytest.raises(FileNotFoundError):
        ShopcastClient("127.0.0.1:1", token_file=file.parent / "none")
    file.write_text("no token")
    with pytest.raises(ValueError, match="holds no bearer token"):
        ShopcastClient("127.0.0.1:1", token_file=file)

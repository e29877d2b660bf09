"""Who may call what: the file, roles, quotas, and what is told of calls."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from tokens import AUDIENCE, ISSUER, Issuer, jwks

from shopcast_gateway.errors import (
    PermissionDenied,
    QuotaExceeded,
    StartupError,
    Unauthenticated,
)
from shopcast_gateway.transport import token_keys
from shopcast_gateway.transport.access_file import Quota, Role, read_access
from shopcast_gateway.transport.audit import ADMINISTRATIVE
from shopcast_gateway.transport.authentication import UNLISTED, Caller, Identity
from shopcast_gateway.transport.authorisation import METHODS, Access
from shopcast_gateway.transport.interceptor import CallInterceptor, Deadlines
from shopcast_gateway.transport.quotas import Quotas
from shopcast_gateway.transport.token_keys import parse_keys

OURS = Issuer()
PREDICT = "/shopcast.v1.PredictionService/Predict"
ERASE = "/shopcast.v1.PrivacyService/ErasePerson"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
TOKENS = f"""
[tokens]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
algorithms = ["ES256"]
keys = "keys.pem"
"""
SHOP = """
[[caller]]
name = "shop"
subjects = ["svc-shop"]
roles = ["predict"]
"""


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "keys.pem").write_bytes(OURS.pem)
    return tmp_path / "access.toml"


@pytest.fixture
def access(path: Path, clock: Clock) -> Callable[[str], Access]:
    def make(text: str) -> Access:
        path.write_text(text)
        return Access(path, certificates=True, monotonic=clock, now=clock)

    return make


# -- the file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "caller: Field required"),
        ("caller = []", "caller: Tuple should have at least 1 item"),
        ("[[caller", "this is no TOML ("),
        (SHOP, "give [tokens], which subjects and any_subject need"),
        (TOKENS + SHOP.replace("predict", "sing"), "caller[0].roles[0]: Input should be 'predict'"),
        (TOKENS + SHOP.replace('["predict"]', "[]"), "caller[0].roles: Tuple should have"),
        (TOKENS + SHOP.replace('"shop"', '"a b"'), "caller[0].name: String should match"),
        (TOKENS + SHOP.replace('"shop"', '"(unlisted)"'), "caller[0].name: String should match"),
        (TOKENS + SHOP.replace("subjects", "subject"), "caller[0].subject: Extra inputs"),
        (TOKENS + SHOP.replace('["svc-shop"]', "[]"), "caller[0]: give subjects, any_subject or"),
        (TOKENS + SHOP + SHOP, "name shop is given 2 times"),
        (TOKENS + SHOP + SHOP.replace('"shop"', '"b"'), "subject svc-shop is given 2 times"),
        (TOKENS + SHOP + 'certificates = ["shop"]', "caller[0].certificates[0]: String should"),
        (TOKENS + SHOP + "quota = {requests_per_s = 0}", "caller[0].quota.requests_per_s: Input"),
        (TOKENS + SHOP + "quota = {requests_per_s = inf}", "caller[0].quota.requests_per_s: Input"),
        (TOKENS.replace('"ES256"', '"HS256"') + SHOP, "tokens.algorithms[0]: Input should be"),
        (TOKENS.replace('"ES256"', '"none"') + SHOP, "tokens.algorithms[0]: Input should be"),
        (TOKENS.replace('["ES256"]', "[]") + SHOP, "tokens.algorithms: Tuple should have"),
        (TOKENS.replace("issuer", "iss") + SHOP, "tokens.issuer: Field required"),
        (TOKENS.replace("audience", "aud") + SHOP, "tokens.audience: Field required"),
        (TOKENS.replace("keys.pem", "none.pem") + SHOP, "tokens.keys: "),
        (TOKENS + 'keys_url = "https://x"' + SHOP, "tokens: give either keys or keys_url"),
        (TOKENS + "leeway_s = 3600" + SHOP, "tokens.leeway_s: Input should be less than"),
        *(
            (TOKENS.replace('keys = "keys.pem"', f'keys_url = "{url}"') + SHOP, said)
            for url, said in (
                ("http://192.0.2.1/keys", "tokens.keys_url: must begin with https://"),
                ("ftp://127.0.0.1/keys", "tokens.keys_url: must begin with https://"),
                ("file:///etc/passwd", "tokens.keys_url: must begin with https://"),
                ("https://", "tokens.keys_url: must begin with https://"),
                ("https://[", "tokens.keys_url: "),
                ("https://user:secret@x/keys", "tokens.keys_url: must hold no user"),
            )
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told(
    access: Callable[[str], Access], path: Path, text: str, said: str
) -> None:
    with pytest.raises(StartupError) as caught:
        access(text)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://x/keys", "http://127.0.0.1:8/k", "http://[::1]/k"])
def test_keys_come_encrypted_or_from_this_machine(url: str) -> None:
    text = TOKENS.replace('keys = "keys.pem"', f'keys_url = "{url}"') + SHOP
    assert read_access(text.encode()).tokens


def test_certificates_that_nobody_shows_are_told(path: Path) -> None:
    path.write_text('[[caller]]\nname = "a"\nroles = ["read"]\ncertificates = ["CN:a"]\n')
    with pytest.raises(StartupError, match=r"caller\.certificates: .* --client-ca"):
        Access(path, certificates=False)


@pytest.mark.parametrize("spoilt", ["access.toml", "keys.pem"])
def test_who_begins_while_files_cannot_be_used_goes_by_those_that_were_in_force(
    path: Path, access: Callable[[str], Access], spoilt: str, caplog: pytest.LogCaptureFixture
) -> None:
    in_force = access(TOKENS + SHOP).look()
    assert in_force == {path: (TOKENS + SHOP).encode(), path.parent / "keys.pem": OURS.pem}
    (path.parent / spoilt).write_text("half")
    begun = Access(path, certificates=True, before=in_force)
    begun.admit(Caller("shop", ""), PREDICT)
    assert begun.look() == in_force
    assert "what was read before stays in force: " in caplog.text
    assert spoilt in caplog.text
    with pytest.raises(StartupError, match=spoilt):
        Access(path, certificates=True, before={})


@given(st.binary() | st.text().map(str.encode))
def test_no_file_breaks_the_reader(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_access(data)


# -- roles


@pytest.mark.parametrize("role", list(Role))
def test_a_role_is_for_its_methods_and_admin_for_all(
    access: Callable[[str], Access], role: Role
) -> None:
    found = access(TOKENS + SHOP.replace("predict", role))
    for method, asked in METHODS.items():
        if asked is role or role is Role.ADMIN:
            found.admit(Caller("shop"), method)
        else:
            with pytest.raises(PermissionDenied):
                found.admit(Caller("shop"), method)


def test_reflection_is_for_any_role_health_for_all_and_the_unknown_for_none(
    access: Callable[[str], Access],
) -> None:
    found = access(TOKENS + SHOP.replace('["predict"]', '["admin"]'))
    assert not found.guards("/grpc.health.v1.Health/Check")
    assert not found.guards("/grpc.health.v1.Health/Watch")
    for method in (REFLECTION, PREDICT, "/grpc.health.v1.Healthy/Check"):
        assert found.guards(method)
    found.admit(Caller("shop"), REFLECTION)
    for caller, method in (
        (UNLISTED, REFLECTION),
        (UNLISTED, PREDICT),
        ("shop", "/shopcast.v1.PredictionService/Retrain"),
        ("shop", PREDICT.lower()),
    ):
        with pytest.raises(PermissionDenied):
            found.admit(Caller(caller), method)


# -- quotas


def test_a_bucket_holds_a_burst_and_fills_again(clock: Clock) -> None:
    quotas, asked = Quotas(clock=clock), [(("shop",), Quota(requests_per_s=2, burst=3))]
    for _ in range(3):
        quotas.spend(asked)
    with pytest.raises(QuotaExceeded) as caught:
        quotas.spend(asked)
    assert caught.value.retry_after_s == pytest.approx(0.5)
    clock.now_s += caught.value.retry_after_s
    quotas.spend(asked)
    clock.now_s += 3600
    for _ in range(3):
        quotas.spend(asked)
    with pytest.raises(QuotaExceeded):
        quotas.spend(asked)


def test_a_slow_quota_lets_the_first_call_in(clock: Clock) -> None:
    quotas, asked = Quotas(clock=clock), [(("shop",), Quota(requests_per_s=0.1))]
    quotas.spend(asked)
    with pytest.raises(QuotaExceeded) as caught:
        quotas.spend(asked)
    assert caught.value.retry_after_s == pytest.approx(10)


def test_a_call_that_one_quota_refuses_costs_the_other_nothing(clock: Clock) -> None:
    quotas = Quotas(clock=clock)
    wide, narrow = (("a",), Quota(requests_per_s=1, burst=3)), (("b",), Quota(requests_per_s=1))
    quotas.spend([wide, narrow])
    for _ in range(5):
        with pytest.raises(QuotaExceeded):
            quotas.spend([wide, narrow])
    quotas.spend([wide])
    quotas.spend([wide])


@given(st.lists(st.floats(0, 5), max_size=60), st.floats(0.1, 20), st.floats(1, 10))
def test_never_more_than_burst_and_rate(pauses: list[float], rate: float, burst: float) -> None:
    clock = Clock()
    quotas, asked = Quotas(clock=clock), [(("a",), Quota(requests_per_s=rate, burst=burst))]
    taken = 0
    for pause_s in pauses:
        clock.now_s += pause_s
        try:
            quotas.spend(asked)
            taken += 1
        except QuotaExceeded as error:
            assert 0 < error.retry_after_s <= 1 / rate + 0.001
    assert taken <= burst + rate * (clock.now_s - 1000) + 1e-3


def test_the_longest_unused_bucket_is_forgotten(clock: Clock) -> None:
    quotas, quota = Quotas(clock=clock, max_buckets=2), Quota(requests_per_s=1)
    quotas.spend([(("a",), quota)])
    quotas.spend([(("b",), quota)])
    with pytest.raises(QuotaExceeded):
        quotas.spend([(("a",), quota)])
    quotas.spend([(("c",), quota)])
    with pytest.raises(QuotaExceeded):
        quotas.spend([(("a",), quota)])
    quotas.spend([(("b",), quota)])


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 2)), max_size=80))
def test_several_processes_keep_one_quota(calls: list[tuple[float, int]]) -> None:
    clock, quota = Clock(), Quota(requests_per_s=2, burst=4)
    processes = [Quotas(clock=clock, shared=True) for _ in range(3)]
    taken = 0
    for pause_s, number in calls:
        clock.now_s += pause_s
        try:
            processes[number].spend([(("a",), quota)])
            taken += 1
        except QuotaExceeded:
            pass
        for one in processes:  # at once, here; a moment later between real ones
            spent = one.take_spent()
            for other in processes:
                if other is not one:
                    other.charge(spent)
    assert taken <= 4 + 2 * (clock.now_s - 1000) + 1e-3


def test_what_others_let_in_is_owed(clock: Clock) -> None:
    asked = [(("a",), Quota(requests_per_s=1, burst=3))]
    here, there = (Quotas(clock=clock, shared=True) for _ in range(2))
    for one in (here, there):
        for _ in range(3):
            one.spend(asked)  # before either has heard of the other
    here.charge(there.take_spent())
    assert there.take_spent() == ()
    with pytest.raises(QuotaExceeded) as caught:
        here.spend(asked)
    assert caught.value.retry_after_s == pytest.approx(4)
    clock.now_s += 4
    here.spend(asked)


def test_a_process_that_begins_later_knows_what_was_let_in(clock: Clock) -> None:
    asked = [(("a",), Quota(requests_per_s=1, burst=3))]
    here, later = (Quotas(clock=clock, shared=True) for _ in range(2))
    assert here.lacking() == ()
    for _ in range(3):
        here.spend(asked)
    clock.now_s += 1
    later.charge(here.lacking())
    later.spend(asked)
    with pytest.raises(QuotaExceeded):
        later.spend(asked)


def test_the_callers_quota_goes_before_that_of_the_role(access: Callable[[str], Access]) -> None:
    other = SHOP.replace("shop", "other") + "quota = {requests_per_s = 1, burst = 3}\n"
    found = access(TOKENS + "[quotas.predict]\nrequests_per_s = 1\n" + SHOP + other)
    found.admit(Caller("shop"), PREDICT)
    with pytest.raises(QuotaExceeded):
        found.admit(Caller("shop"), PREDICT)
    for _ in range(3):
        found.admit(Caller("other"), PREDICT)
    with pytest.raises(QuotaExceeded):
        found.admit(Caller("other"), PREDICT)


def test_subjects_of_one_entry_do_not_share_a_quota(access: Callable[[str], Access]) -> None:
    found = access(TOKENS + SHOP + "quota = {requests_per_s = 1}\n")
    found.admit(Caller("shop", "a"), PREDICT)
    found.admit(Caller("shop", "b"), PREDICT)
    with pytest.raises(QuotaExceeded):
        found.admit(Caller("shop", "a"), PREDICT)


# -- a file that changes, a token that ends


def known(name: str, *, expires_s: float = math.inf) -> Caller:
    """Who has shown a token of ours."""
    (key,) = parse_keys(OURS.pem)
    return Caller(name, "", expires_s, Identity(f"svc-{name}", expires_s, key))


def test_a_caller_that_is_taken_out_may_nothing_any_more(
    access: Callable[[str], Access], path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    found = access(TOKENS + SHOP)
    found.still(known("shop"), PREDICT)
    path.write_text("half [")
    clock.now_s += 1
    found.still(known("shop"), PREDICT)
    assert "what was read before stays in force" in caplog.text
    path.write_text(TOKENS + SHOP.replace("shop", "other"))
    clock.now_s += 1
    with pytest.raises(PermissionDenied):
        found.still(known("shop"), PREDICT)
    found.still(known("other"), PREDICT)


def test_what_is_withdrawn_ends_what_is_under_way(
    access: Callable[[str], Access], path: Path, clock: Clock
) -> None:
    two = SHOP.replace('["svc-shop"]', '["svc-shop", "svc-b"]\ncertificates = ["CN:a", "CN:b"]')
    found = access(TOKENS + two)
    by_token, by_name = known("shop"), Caller("shop", proof=frozenset({"CN:a", "DNS:a"}))
    for caller in (by_token, by_name):
        found.still(caller, PREDICT)
    path.write_text(TOKENS + two.replace('"CN:a", ', ""))
    clock.now_s += 1
    found.still(by_token, PREDICT)
    with pytest.raises(PermissionDenied):
        found.still(by_name, PREDICT)
    path.write_text(TOKENS + two.replace('"svc-shop", ', ""))
    clock.now_s += 1
    found.still(by_name, PREDICT)
    with pytest.raises(PermissionDenied):
        found.still(by_token, PREDICT)
    path.write_text(TOKENS + two)
    (path.parent / "keys.pem").write_bytes(Issuer().pem)
    clock.now_s += 1
    found.still(by_name, PREDICT)
    with pytest.raises(Unauthenticated, match="key is not accepted any more"):
        found.still(by_token, PREDICT)


async def test_keys_of_a_url_outlive_a_change_of_what_else_the_file_says_of_tokens(
    access: Callable[[str], Access], path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [jwks(OURS)]

    def fetch(_: str) -> bytes:
        if not answers:
            raise OSError("the issuer is away")
        return answers.pop()

    def write(text: str) -> None:
        path.write_text(text)
        clock.now_s += 1

    monkeypatch.setattr(token_keys, "fetch_url", fetch)
    text = TOKENS.replace('keys = "keys.pem"', 'keys_url = "https://x"') + SHOP
    found, context = access(text), FakeContext(OURS.token())
    caller = await found.caller(context)
    write(text.replace("[tokens]", "[tokens]\nleeway_s = 20"))
    found.still(caller, PREDICT)
    assert (await found.caller(context)).name == "shop"
    write(text.replace('"ES256"', '"RS256"'))
    with pytest.raises(Unauthenticated, match="algorithm"):
        await found.caller(context)
    with pytest.raises(Unauthenticated, match="key is not accepted any more"):
        found.still(caller, PREDICT)


async def _three() -> AsyncIterator[int]:
    for number in range(3):
        yield number


async def test_the_messages_of_a_stream_wait_for_the_quota(
    access: Callable[[str], Access], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []

    async def sleep(pause_s: float) -> None:
        waited.append(pause_s)
        clock.now_s += pause_s

    monkeypatch.setattr(asyncio, "sleep", sleep)
    found = access(TOKENS + SHOP + "quota = {requests_per_s = 4, burst = 1}\n")
    assert [one async for one in found.messages(known("shop"), PREDICT, _three())] == [0, 1, 2]
    assert sum(waited) == pytest.approx(0.5)


async def test_a_stream_ends_with_its_token(access: Callable[[str], Access], clock: Clock) -> None:
    found, caller = access(TOKENS + SHOP), known("shop", expires_s=clock.now_s + 1)
    messages = found.messages(caller, PREDICT, _three())
    assert await anext(messages) == 0
    clock.now_s += 2
    with pytest.raises(Unauthenticated, match="expired meanwhile"):
        await anext(messages)


# -- the call


class NoBacklog:
    """Nobody waits."""

    def take_up(self, running: int) -> int:
        return 0


class FakeContext:
    def __init__(self, token: str | None) -> None:
        self._token = token
        self.status: status_pb2.Status | None = None

    def time_remaining(self) -> float | None:
        return 1.0

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        sent = (("x-request-id", "r-1"),)
        return (*sent, ("authorization", f"Bearer {self._token}")) if self._token else sent

    async def abort_with_status(self, status: Any) -> None:
        (packed,) = (value for key, value in status.trailing_metadata if key.endswith("-bin"))
        self.status = status_pb2.Status.FromString(packed)
        raise grpc.aio.AbortError


async def ask(access: Access | None, method: str, token: str | None) -> status_pb2.Status | None:
    """The status of a call whose bytes are no message; None where it was answered."""

    async def answer(request: bytes, context: Any) -> bytes:
        return request

    async def continuation(details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=bytes)

    class Details:
        pass

    details: Any = Details()
    details.method = method
    backlog: Any = NoBacklog()
    calls = CallInterceptor(Deadlines(), backlog, {}, {}, access)
    handler: Any = await calls.intercept_service(continuation, details)
    context = FakeContext(token)
    try:
        assert await handler.unary_unary(b"asked", context) == b"asked"
    except grpc.aio.AbortError:
        return context.status
    return None


def reason(status: status_pb2.Status | None) -> tuple[int, str, str]:
    assert status
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    assert any(one.Unpack(info) for one in status.details)
    assert any(one.Unpack(request) for one in status.details)
    return status.code, info.reason, request.request_id


async def test_who_is_unknown_and_who_may_not_are_told_apart(
    access: Callable[[str], Access], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = access(TOKENS + SHOP)
    good, bad = OURS.token(), OURS.token(exp=1)
    assert await ask(found, PREDICT, good) is None
    assert reason(await ask(found, PREDICT, None)) == (16, "UNAUTHENTICATED", "r-1")
    assert reason(await ask(found, PREDICT, bad)) == (16, "UNAUTHENTICATED", "r-1")
    assert reason(await ask(found, ERASE, good)) == (7, "PERMISSION_DENIED", "r-1")
    unlisted = OURS.token("ada@example.org")
    assert reason(await ask(found, PREDICT, unlisted)) == (7, "PERMISSION_DENIED", "r-1")
    assert "method=/shopcast.v1.PredictionService/Predict code=OK" in caplog.text
    assert "caller=shop" in caplog.text
    assert 'error="the token has expired"' in caplog.text
    for token in (good, bad, unlisted):
        assert not any(part in caplog.text for part in token.split("."))
    assert "ada" not in caplog.text
    assert "svc-shop" not in caplog.text


async def test_a_used_up_quota_says_when_to_try_again(access: Callable[[str], Access]) -> None:
    found = access(TOKENS + SHOP + "quota = {requests_per_s = 2, burst = 1}\n")
    assert await ask(found, PREDICT, OURS.token()) is None
    status = await ask(found, PREDICT, OURS.token())
    assert reason(status) == (8, "QUOTA_EXCEEDED", "r-1")
    assert status
    retry = error_details_pb2.RetryInfo()
    assert any(one.Unpack(retry) for one in status.details)
    assert retry.retry_delay.ToMilliseconds() == 500


async def test_each_administrative_call_leaves_one_line(
    access: Callable[[str], Access], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shopcast_gateway.audit")
    found = access(TOKENS + SHOP.replace("predict", "admin"))
    token = OURS.token()
    for method in METHODS:
        assert await ask(found, method, token) is None
    told = [one.getMessage() for one in caplog.records if one.name == "shopcast_gateway.audit"]
    assert sorted(told) == sorted(
        f"method={method} code=OK caller=shop request_id=r-1" for method in ADMINISTRATIVE
    )
    caplog.clear()
    assert await ask(access(TOKENS + SHOP), ERASE, token)
    assert await ask(found, ERASE, None)
    assert await ask(None, ERASE, None) is None
    told = [one.getMessage() for one in caplog.records if one.name == "shopcast_gateway.audit"]
    assert told == [
        f"method={ERASE} code=PERMISSION_DENIED caller=shop request_id=r-1",
        f"method={ERASE} code=UNAUTHENTICATED caller=- request_id=r-1",
        f"method={ERASE} code=OK caller=- request_id=r-1",
    ]


async def test_one_that_is_not_served_here_leaves_a_line_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="shopcast_gateway.audit")
    backlog: Any = NoBacklog()
    calls = CallInterceptor(Deadlines(), backlog, {}, {})

    async def nothing(_: Any) -> None:
        return None

    details: Any = SimpleNamespace(method="/shopcast.v1.ModelAdminService/PromoteModel")
    assert await calls.intercept_service(nothing, details) is None
    (line,) = [one.getMessage() for one in caplog.records]
    assert "PromoteModel code=UNIMPLEMENTED caller=- request_id=-" in line


async def test_health_needs_no_token(access: Callable[[str], Access]) -> None:
    assert await ask(access(TOKENS + SHOP), "/grpc.health.v1.Health/Check", None) is None


def test_what_is_unforeseen_about_a_caller_is_told_as_our_mistake(
    access: Callable[[str], Access], caplog: pytest.LogCaptureFixture
) -> None:
    found = access(TOKENS + SHOP)

    detail = "secret"

    async def broken(context: Any) -> Caller:
        raise RuntimeError(detail)

    found.caller = broken  # type: ignore[method-assign]
    status = asyncio.run(ask(found, PREDICT, OURS.token()))
    assert reason(status) == (13, "INTERNAL", "r-1")
    assert "secret" not in caplog.text + str(status)

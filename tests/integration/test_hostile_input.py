"""Every method against messages that no decent client sends: what is asked must be refused as the
contract says, and nothing of it may be found in the log."""

import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from hostile_server import PATIENCE_S, HostileServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from message_strategies import CANARY, NUMBER, messages, mutated

from shopcast.v1 import (
    event_service_pb2,
    identity_service_pb2,
    model_admin_service_pb2,
    prediction_service_pb2,
    privacy_service_pb2,
)
from shopcast_gateway.transport.admin_server import ADMIN_SERVICES
from shopcast_gateway.transport.server import MAX_MESSAGE_BYTES, SERVICES
from shopcast_gateway.transport.status import DOMAIN

PROTOS = Path(__file__).parents[2] / "protos"
MODULES = (
    event_service_pb2,
    identity_service_pb2,
    model_admin_service_pb2,
    prediction_service_pb2,
    privacy_service_pb2,
)
METHODS = {
    method.full_name: method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
THEIR_FAULT = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}
"""What may come of a request that is wrong; the other statuses speak of the server."""
OPEN = "open"
"""Of a stream: it had not ended, which is what it is for."""
LOOK_S = 0.25
"""How long such a stream is looked at."""
EXAMPLES = settings(
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileServer]:
    made = HostileServer(tmp_path_factory.mktemp("hostile"))
    yield made
    made.stop()


Channels = Mapping[str, grpc.Channel]


@pytest.fixture(scope="module")
def channels(server: HostileServer) -> Iterator[Channels]:
    """To the port of each service."""
    with (
        grpc.insecure_channel(server.target) as main,
        grpc.insecure_channel(server.admin_target) as admin,
    ):
        yield dict.fromkeys(SERVICES, main) | dict.fromkeys(ADMIN_SERVICES, admin)


def documented(method: MethodDescriptor) -> set[str]:
    """The statuses that the comment of a method names, its own kind of comment or none."""
    text = (PROTOS / method.containing_service.file.name).read_text()
    comment = re.search(rf"((?:  //.*\n)+)  rpc {method.name}\(", text)
    assert comment, method.full_name
    return set(re.findall(r"\b[A-Z]+_?[A-Z]+\b", comment[1])) & set(code_pb2.Code.keys())


@dataclass
class Seen:
    """What a call came to. status: a name, or OPEN. responses: those that came before."""

    status: str
    responses: list[Any]
    error: status_pb2.Status | None
    details: str


def endless(method: MethodDescriptor) -> bool:
    """Whether it goes on until the client has had enough."""
    return method.server_streaming and not method.client_streaming


def ask(
    channel: grpc.Channel, method: MethodDescriptor, sent: Iterable[bytes], request_id: str
) -> Seen:
    """Make one call, the requests of which are these bytes."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    read = GetMessageClass(method.output_type).FromString
    metadata = (("x-request-id", request_id),)
    responses: list[Any] = []
    try:
        if not method.server_streaming:
            unary = channel.unary_unary(path, response_deserializer=read)
            responses = [unary(bytes(next(iter(sent))), PATIENCE_S, metadata)]
        elif endless(method):
            watch = channel.unary_stream(path, response_deserializer=read)
            responses.extend(watch(bytes(next(iter(sent))), LOOK_S, metadata))
        else:
            stream = channel.stream_stream(path, response_deserializer=read)
            responses.extend(stream(map(bytes, sent), PATIENCE_S, metadata))
    except grpc.RpcError as error:
        call: Any = error
        if endless(method) and call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Seen(OPEN, responses, None, "")
        return Seen(call.code().name, responses, rpc_status.from_call(call), call.details())
    return Seen("OK", responses, None, "")


def unpacked(error: status_pb2.Status, kind: type[Message]) -> Any:
    """The detail of a kind. Fails unless there is just one."""
    [found] = [one for one in error.details if one.Is(kind.DESCRIPTOR)]
    made = kind()
    assert found.Unpack(made)
    return made


def check_error(error: status_pb2.Status, request_id: str, allowed: set[str]) -> None:
    """It is one that may be, with all that the contract attaches, and repeats nothing."""
    assert code_pb2.Code.Name(error.code) in allowed, error
    assert unpacked(error, error_details_pb2.ErrorInfo).domain == DOMAIN
    assert unpacked(error, error_details_pb2.ErrorInfo).reason
    assert unpacked(error, error_details_pb2.RequestInfo).request_id == request_id
    if error.code == code_pb2.INVALID_ARGUMENT:
        violations = unpacked(error, error_details_pb2.BadRequest).field_violations
        assert violations
        assert all(one.field and one.description for one in violations)
    check_silent(str(error))
    for detail in error.details:
        check_silent(detail.value.decode(errors="replace"))


def check_silent(text: str) -> None:
    """Nothing of a request is in it."""
    assert CANARY not in text
    assert str(NUMBER) not in text


def within(message: Message) -> Iterator[status_pb2.Status]:
    """The statuses a response has for parts of the request."""
    for _, value in message.ListFields():
        for one in value if isinstance(value, Iterable) and not isinstance(value, str) else [value]:
            if isinstance(one, status_pb2.Status):
                yield one
            elif isinstance(one, Message) and not type(one).__module__.startswith("google."):
                yield from within(one)


def check(seen: Seen, method: MethodDescriptor, request_id: str) -> None:
    """What the client saw is what the contract says."""
    allowed = documented(method) & THEIR_FAULT
    assert seen.status in allowed | {"OK", OPEN}, seen
    if seen.status not in ("OK", OPEN):
        assert seen.error is not None, seen
        check_error(seen.error, request_id, allowed)
        assert seen.error.message == seen.details
    for response in seen.responses:
        for error in within(response):
            check_error(error, request_id, allowed)


def check_log(server: HostileServer) -> None:
    """The log has one line a call, and nothing of what was sent."""
    log = server.log
    check_silent(log)
    usual = re.compile(r" INFO shopcast_gateway\.(access|audit) ")
    strange = [line for line in log.splitlines() if not usual.search(line)]
    assert not strange, "\n".join(strange[:40])


class Sent(bytes):
    """Bytes that show their beginning only, for they may be millions."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes: {bytes(self[:2_000])!r}>"


def fits(data: bytes) -> bool:
    """What is larger is refused before it comes to us: test_hostile_connections."""
    return len(data) <= MAX_MESSAGE_BYTES


def hostile(method: MethodDescriptor) -> st.SearchStrategy[list[bytes]]:
    """The requests of a call."""
    one = messages(method.input_type).map(lambda one: one.SerializeToString())
    return st.lists(
        one.filter(fits).map(Sent), min_size=1, max_size=3 if method.client_streaming else 1
    )


def spoilt(method: MethodDescriptor) -> st.SearchStrategy[list[bytes]]:
    """The requests of a call, some of which are no messages any more."""
    whole = messages(method.input_type).map(lambda one: one.SerializeToString())
    one = st.one_of(mutated(whole), mutated(whole), whole, st.binary(max_size=50))
    return st.lists(
        one.filter(fits).map(Sent), min_size=1, max_size=3 if method.client_streaming else 1
    )


@pytest.mark.parametrize("of", [hostile, spoilt])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_refuses_what_it_cannot_take(
    server: HostileServer, channels: Channels, name: str, of: Any
) -> None:
    method, statuses = METHODS[name], Counter[str]()
    channel = channels[method.containing_service.full_name]

    @settings(EXAMPLES, max_examples=15 if endless(method) else EXAMPLES.max_examples)
    @given(of(method))
    def run(sent: list[bytes]) -> None:
        request_id = uuid.uuid4().hex
        seen = ask(channel, method, sent, request_id)
        statuses[seen.status] += 1
        check(seen, method, request_id)

    run()
    print(f"{name} {of.__name__}: {dict(statuses)}")
    check_log(server)
    server.check_health()


def test_every_method_of_the_server_is_among_them() -> None:
    services = {method.containing_service.full_name for method in METHODS.values()}
    assert services == {*SERVICES, *ADMIN_SERVICES}
    for method in METHODS.values():
        assert {"INVALID_ARGUMENT", "INTERNAL"} <= documented(method), method.full_name

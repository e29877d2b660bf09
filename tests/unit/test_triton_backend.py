"""What the backend makes of a server's failures, with a stand-in for the client."""

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from grpc.aio import UsageError
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from shopcast_gateway.backend.triton import MAX_MESSAGE_BYTES, TritonBackend
from shopcast_gateway.errors import (
    ContractMismatch,
    DeadlineExpired,
    GatewayError,
    Overloaded,
    Unavailable,
)


class Result:
    def __init__(self, answer: NDArray[Any] | None) -> None:
        self.answer = answer

    def as_numpy(self, _: str) -> NDArray[Any] | None:
        return self.answer


class Client:
    """Answers every inference with the same result or failure."""

    def __init__(self, outcome: Exception | NDArray[Any] | None) -> None:
        self.outcome = outcome

    async def infer(self, *_: Any, **__: Any) -> Result:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return Result(self.outcome)

    async def close(self) -> None:
        self.outcome = UsageError("Channel is closed.")


async def ask(outcome: InferenceServerException | NDArray[Any] | None) -> NDArray[np.float32]:
    backend = TritonBackend(Client(outcome), Path())
    inputs = {"input_ids": np.ones((1, 2), np.int64)}
    return await backend.infer("encoder", 1, inputs, "vectors", timeout_s=1.0)


@pytest.mark.parametrize(
    ("status", "words", "cause"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", Unavailable),
        ("UNAVAILABLE", "Exceeds maximum queue size", Overloaded),
        ("RESOURCE_EXHAUSTED", "too many", Overloaded),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExpired),
        ("NOT_FOUND", "Request for unknown model", Unavailable),
        ("INTERNAL", "Stub process 'encoder_0_0' is not healthy.", Unavailable),
        ("INVALID_ARGUMENT", "unexpected shape for input", ContractMismatch),
        ("UNKNOWN", "?", Unavailable),
        (None, "raised by the client itself", Unavailable),
    ],
)
async def test_a_failure_has_a_cause_and_is_logged_once_but_not_quoted(
    status: str | None,
    words: str,
    cause: type[GatewayError],
    caplog: pytest.LogCaptureFixture,
) -> None:
    failure = InferenceServerException(words, status and f"StatusCode.{status}")
    with caplog.at_level(logging.WARNING), pytest.raises(cause) as caught:
        await ask(failure)
    assert type(caught.value) is cause
    assert words not in str(caught.value)
    assert [words in record.getMessage() for record in caplog.records] == [True]


async def test_a_long_failure_is_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(Unavailable):
        await ask(InferenceServerException("x" * 100_000, "StatusCode.INTERNAL"))
    assert len(caplog.text) < 2000


@pytest.mark.parametrize("answer", [None, np.ones((1, 2), np.float64)])
async def test_an_answer_of_another_kind_is_refused(answer: NDArray[Any] | None) -> None:
    with pytest.raises(ContractMismatch):
        await ask(answer)


async def test_an_answer_is_handed_on() -> None:
    answer = np.ones((1, 2), np.float32)
    assert await ask(answer) is answer


async def test_a_batch_too_large_to_send_is_our_mistake() -> None:
    backend = TritonBackend(Client(None), Path())
    inputs = {"x": np.empty(MAX_MESSAGE_BYTES, np.int8)}
    with pytest.raises(ContractMismatch, match="too large"):
        await backend.infer("behavior", 1, inputs, "logits", timeout_s=1.0)


async def test_a_call_that_comes_after_the_channel_was_closed_is_to_be_tried_again() -> None:
    """A call that was encoding or reading when Triton ended asks when the channel has gone."""
    backend = TritonBackend(Client(np.ones((1, 2), np.float32)), Path())
    await backend.close()
    with pytest.raises(Unavailable):
        await backend.infer("behavior", 1, {"x": np.ones(1)}, "logits", timeout_s=1.0)


async def test_calls_that_hang_are_failed_once_they_are_given_up() -> None:
    going_on = asyncio.Event()

    class Hanging:
        async def infer(self, *_: Any, **__: Any) -> Result:
            await going_on.wait()
            return Result(np.ones((1, 1), np.float32))

    backend = TritonBackend(Hanging(), Path())

    async def call(model: str) -> NDArray[np.float32]:
        inputs = {"input_ids": np.ones((1, 2), np.int64)}
        return await backend.infer(model, 1, inputs, "vectors", timeout_s=10.0)

    hanging, other = asyncio.create_task(call("encoder")), asyncio.create_task(call("behavior"))
    await asyncio.sleep(0)
    backend.give_up("encoder")
    with pytest.raises(Unavailable, match="given up"):
        await hanging
    assert backend.answered_at("encoder") == 0
    later = asyncio.create_task(call("encoder"))
    await asyncio.sleep(0)
    going_on.set()  # the first call goes on to its end as well
    assert (await later).shape == (await other).shape == (1, 1)
    assert backend.answered_at("encoder") > 0


class Loading:
    """A server as one backend's client: what it holds, and that loading takes a while."""

    def __init__(self, held: set[int]) -> None:
        self.held = held

    async def get_model_repository_index(self, **_: Any) -> Any:
        ready = [SimpleNamespace(name="m", version=str(v), state="READY") for v in self.held]
        return SimpleNamespace(models=ready)

    async def load_model(self, _: str, *, config: str, **__: Any) -> None:
        await asyncio.sleep(0.01)
        self.held.clear()
        self.held.update(map(int, json.loads(config)["version_policy"]["specific"]["versions"]))

    async def is_model_ready(self, _: str, version: str, **__: Any) -> bool:
        return int(version) in self.held


async def test_versions_that_are_loaded_at_once_on_one_server_do_not_unload_each_other(
    tmp_path: Path,
) -> None:
    held: set[int] = set()
    for version in (1, 2):
        (tmp_path / f"m/{version}").mkdir(parents=True)
        (tmp_path / f"m/{version}/config.pbtxt").write_text('name: "m"')
    one, other = (TritonBackend(Loading(held), tmp_path, "triton:8001") for _ in range(2))
    await asyncio.gather(one.load("m", 1), other.load("m", 2))
    assert held == {1, 2}

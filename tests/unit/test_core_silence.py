"""When somebody is told that what is asked answers nobody, and when not."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from shopcast_gateway.core import silence as module
from shopcast_gateway.core.silence import Silence
from shopcast_gateway.errors import ContractMismatch, Unavailable

SILENT_S = 0.05


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Silence:
    monkeypatch.setattr(module, "SILENT_S", SILENT_S)
    return Silence("the oracle")


@contextmanager
def in_vain(asking: AbstractContextManager[None]) -> Iterator[None]:
    with pytest.raises(TimeoutError), asking:
        yield
        raise TimeoutError


async def told(silence: Silence, timeout_s: float = 0.0, *, places: int = 1) -> bool:
    try:
        await silence.check(timeout_s, places=places)
    except Unavailable as error:
        assert str(error).startswith("the oracle has answered nobody for 0.")
        return True
    return False


async def test_who_has_less_time_than_it_has_been_silent_is_told(silence: Silence) -> None:
    assert not await told(silence), "nobody asks"
    with silence.asking():
        assert not await told(silence), "it has only begun"
        await asyncio.sleep(1.5 * SILENT_S)
        assert await told(silence)
        assert not await told(silence, 30.0)
        assert not await told(silence, places=2), "another may ask"
    assert not await told(silence), "it was answered"


async def test_an_answer_to_anybody_ends_it(silence: Silence) -> None:
    with silence.asking():
        await asyncio.sleep(1.5 * SILENT_S)
        with silence.asking():
            pass
        assert not await told(silence)
        await asyncio.sleep(1.5 * SILENT_S)
        assert await told(silence)


async def test_a_refusal_is_an_answer(silence: Silence) -> None:
    with silence.asking():
        await asyncio.sleep(1.5 * SILENT_S)
        with pytest.raises(ContractMismatch), silence.asking():
            raise ContractMismatch
        assert not await told(silence)


async def test_giving_up_is_no_answer(silence: Silence) -> None:
    with in_vain(silence.asking()):
        await asyncio.sleep(1.5 * SILENT_S)
    assert not await told(silence), "the next one may ask"
    with in_vain(silence.asking()):
        assert await told(silence), "and nobody beside it"


async def test_the_time_in_which_nobody_asked_does_not_count(silence: Silence) -> None:
    with in_vain(silence.asking()):
        pass
    await asyncio.sleep(1.5 * SILENT_S)
    with silence.asking():
        assert not await told(silence)
    await asyncio.sleep(0.9 * SILENT_S)
    with silence.asking():
        await asyncio.sleep(0.2 * SILENT_S)
        assert not await told(silence), "it was answered before"


async def test_an_answer_that_came_while_we_stood_still_ourselves_counts(silence: Silence) -> None:
    """As where the machine was paused."""

    async def ask(answer: asyncio.Event) -> None:
        with silence.asking():
            await answer.wait()

    answer = asyncio.Event()
    with ExitStack() as stack:
        asking = asyncio.create_task(ask(answer))
        await asyncio.sleep(0)
        time.sleep(1.5 * SILENT_S)  # noqa: ASYNC251 - all stands still
        asyncio.get_running_loop().call_soon(answer.set)
        stack.enter_context(silence.asking())
        assert not await told(silence)
    await asking

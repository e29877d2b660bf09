"""The requests of a stream, until the gateway drains."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from shopcast_gateway.errors import Unavailable

T = TypeVar("T")
_END = object()


async def until(draining: asyncio.Event, requests: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The requests as they come. Raises Unavailable in place of the next one once draining is set,
    so that the caller knows that not all were read."""
    drains = asyncio.create_task(draining.wait())
    read: asyncio.Future[object] | None = None
    try:
        while True:
            read = asyncio.ensure_future(anext(requests, _END))
            await asyncio.wait({read, drains}, return_when=asyncio.FIRST_COMPLETED)
            if not read.done():
                raise Unavailable("the gateway drains")
            if (request := read.result()) is _END:
                return
            yield request  # type: ignore[misc]
    finally:
        left = [task for task in (drains, read) if task is not None and not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

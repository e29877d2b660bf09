"""Tests whose time passes at once when nothing is left to do. Threads cannot be waited for."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes at once when nothing is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout_s: float | None = None) -> Any:
            assert timeout_s is not None, "all wait, and for nothing"
            self.now += timeout_s
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


def now() -> float:
    return asyncio.get_running_loop().time()


def timed(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in virtual time."""

    def run() -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test())

    run.__name__ = test.__name__
    return run

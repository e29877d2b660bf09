"""Several model servers that hold the same models, as one."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shopcast_gateway.backend.protocol import Scoring, Tensors
from shopcast_gateway.backend.retry_budget import RetryBudget
from shopcast_gateway.backend.rotation import Ejected, RotationStatus
from shopcast_gateway.errors import (
    ContractMismatch,
    DeadlineExpired,
    Unavailable,
)

FAILURES = 3
"""Calls to one model that must fail in a row before a server is ejected."""
TRIES = 3
"""Servers that one call is sent to at most."""
HANG_S = 2.0
"""After which a call hangs if its model has answered nobody since it began,"""
HANG_SHARE = 0.5
"""or after this share of the time until somebody needs it, if that is less."""

Answer = NDArray[np.float32]

_log = logging.getLogger(__name__)


class Server(Scoring, Protocol):
    """What is needed of a TritonBackend, and does what it does there."""

    def answered_at(self, model: str) -> float:
        """When a call to a model was answered last."""
        ...

    def give_up(self, model: str) -> None:
        """Fail the calls to a model that hang."""
        ...


class Member:
    """One of the servers. up: it takes calls. left: set while it does not. outstanding: calls
    under way there. Not up until it has joined."""

    def __init__(self, address: str, server: Server) -> None:
        self.address, self.server = address, server
        self.outstanding, self.turn = 0, 0
        self.up, self.left = False, asyncio.Event()
        self.left.set()
        self.failures: Counter[str] = Counter()  # in a row, by model

    def join(self) -> None:
        """Take calls from now on."""
        self.failures.clear()
        self.up = True
        self.left.clear()

    def leave(self) -> None:
        """Take no calls until it joins again."""
        self.up = False
        self.left.set()


class _Attempt:
    """One call to one server. noted: it has been counted as one that hangs."""

    def __init__(self, member: Member, began: float, task: "asyncio.Task[Answer]") -> None:
        self.member, self.began, self.task = member, began, task
        self.noted = False


class BalancedBackend:
    """Several servers. Implements `backend.protocol.Scoring`.

    A call goes to the server with the fewest calls under way, of those that are up. Where that
    server is away or hangs it goes to another, and where it is only slow too if hedge_after_s is
    set: as far as the deadline and the retry budget allow. The first answer wins; the other call
    goes on to its end, since Triton may die of a cancelled one.

    Who fails too often is ejected while another is up. Whoever made the members lets them join.
    """

    def __init__(
        self,
        members: Sequence[Member],
        status: RotationStatus,
        *,
        hedge_after_s: float | None = None,
    ) -> None:
        self.members = members
        self._status, self._budget = status, RetryBudget()
        self._hedge_after_s = math.inf if hedge_after_s is None else hedge_after_s
        self._turns = 0

    @property
    def up(self) -> int:
        """How many servers take calls."""
        return sum(member.up for member in self.members)

    async def infer(
        self,
        model: str,
        version: int,
        inputs: Tensors,
        output: str,
        *,
        timeout_s: float,
        wanted_s: float | None = None,
    ) -> Answer:
        """Run one batch and return the named output, float32.

        timeout_s: of all attempts together. wanted_s: after it no other server is asked any more.
        Raises Unavailable, DeadlineExpired, Overloaded, ContractMismatch.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        wanted_s = timeout_s if wanted_s is None else min(wanted_s, timeout_s)
        deadline, wanted = began + timeout_s, began + wanted_s
        hang_s = min(HANG_S, HANG_SHARE * wanted_s)
        hedge_at = began + self._hedge_after_s
        sent: list[_Attempt] = []

        def send(member: Member) -> None:
            now = loop.time()
            work = member.server.infer(model, version, inputs, output, timeout_s=deadline - now)
            sent.append(self._begin(member, model, now, work))

        self._budget.called()
        first = self._choose(())
        if first is None:
            raise Unavailable(f"{model} version {version}: no model server takes calls")
        send(first)
        look_at = began + hang_s
        while True:
            running = {attempt.task: attempt for attempt in sent if not attempt.task.done()}
            pause_s = max(0.0, min(look_at, hedge_at) - loop.time())
            done, waiting = await asyncio.wait(
                running, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if task.exception() is None:
                    return task.result()
            for task in done:
                error = task.exception()
                if isinstance(error, ContractMismatch):
                    raise error
                if waiting:
                    continue  # another may still answer
                other = self._another(sent, wanted) if isinstance(error, Unavailable) else None
                if other is None:
                    assert error is not None  # noqa: S101 - else it was returned
                    raise error
                self._status.tell("retry")
                send(other)
                look_at = loop.time() + hang_s
                break
            now = loop.time()
            if now >= look_at:
                look_at = now + hang_s
                hung = [running[task] for task in waiting if self._hangs(running[task], model)]
                if hung and len(hung) == len(waiting):
                    other = self._another(sent, wanted)
                    if other is not None:
                        self._status.tell("retry")
                        send(other)
            if now >= hedge_at:
                hedge_at = math.inf
                if len(sent) == 1 and (other := self._another(sent, wanted)) is not None:
                    self._status.tell("hedge")
                    send(other)

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(member.server.close() for member in self.members))

    def _choose(self, tried: Collection[Member]) -> Member | None:
        """The one with the fewest calls under way; of several, whose turn was longest ago."""
        free = [one for one in self.members if one.up and one not in tried]
        if not free:
            return None
        return min(free, key=lambda one: (one.outstanding, one.turn))

    def _another(self, sent: Sequence[_Attempt], wanted: float) -> Member | None:
        """Where a call may be sent too, paid for; None where it may not."""
        if len(sent) == TRIES or asyncio.get_running_loop().time() >= wanted:
            return None
        other = self._choose([attempt.member for attempt in sent])
        if other is not None and not self._budget.spend():
            self._status.tell("refused")
            return None
        return other

    def _begin(self, member: Member, model: str, now: float, work: Any) -> _Attempt:
        self._turns += 1
        member.turn = self._turns
        member.outstanding += 1
        task: asyncio.Task[Answer] = asyncio.create_task(work)
        attempt = _Attempt(member, now, task)
        task.add_done_callback(lambda _: self._ended(attempt, model))
        return attempt

    def _ended(self, attempt: _Attempt, model: str) -> None:
        member = attempt.member
        member.outstanding -= 1
        if attempt.task.cancelled():
            return
        error = attempt.task.exception()  # fetched, whether or not anybody waits for it
        if isinstance(error, DeadlineExpired):
            self._hangs(attempt, model)
        elif isinstance(error, Unavailable):
            if not attempt.noted:
                self._failed(member, model)
        else:
            member.failures[model] = 0

    def _hangs(self, attempt: _Attempt, model: str) -> bool:
        """Whether its server has answered nobody since it began. Counted, once, where another
        server has answered: who is as slow as all the others is no worse than they are."""
        began, member = attempt.began, attempt.member
        if member.server.answered_at(model) >= began:
            return False
        others = (one.server for one in self.members if one is not member)
        if not attempt.noted and any(one.answered_at(model) >= began for one in others):
            attempt.noted = True
            self._failed(member, model)
        return True

    def _failed(self, member: Member, model: str) -> None:
        member.failures[model] += 1
        if member.up and member.failures[model] >= FAILURES and self.up > 1:
            _log.error(
                "%s is ejected: %s failed %d times in a row", member.address, model, FAILURES
            )
            member.leave()
            member.server.give_up(model)  # what hangs there is asked elsewhere
            self._status.tell(Ejected(member.address))

"""Whether the models of an engine answer; one that does not is loaded again.

Triton calls a model ready whose Python process is dead or stands still: only an inference makes
sure. Loading the version again starts new processes, which must reproduce its goldens.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from shopcast_domain.manifest import BEHAVIOR, ENCODER
from shopcast_gateway.core.adoption import Refused
from shopcast_gateway.core.model import Model
from shopcast_gateway.errors import DeadlineExpired, GatewayError, Overloaded, StartupError
from shopcast_gateway.triton.status import TritonStatus

EVERY_S = 2.0
"""Between one look at a model and the next."""
LIMIT_S = 4.0
"""How long the answer to a look is waited for."""
FAILURES = 2
"""Looks that must fail before a model is loaded again,"""
AMONG = 8
"""among so many: a model has several processes, and those that live answer in between."""
HANGS = 3
"""Looks without an answer in a row before it is loaded again, if all of them only hung."""
REPAIRS = 2
"""Repairs that must fail before a Triton of our own is given up."""
REPLAY_S = 10.0
"""How long goldens may take after a repair; a model that is slow for another reason is let in."""
LONGEST_PAUSE_S = 10.0
"""Between repairs, which begin EVERY_S apart; each pause is twice the one before."""

_log = logging.getLogger(__name__)


class Ask(Protocol):
    """A tiny inference. Raises what Scoring.infer raises."""

    async def __call__(self, *, timeout_s: float) -> None:
        """Returns when it is answered."""
        ...


class Server(Protocol):
    """What is needed of a TritonBackend, and does what it does there."""

    async def load(self, model: str, version: int) -> None:
        """Load a version, again if it is loaded."""
        ...

    def answered_at(self, model: str) -> float:
        """When a call to a model was answered last."""
        ...

    def give_up(self, model: str) -> None:
        """Fail the calls to a model that hang."""
        ...


class Part:
    """A model that is watched. needed: without it no prediction can be made. up: it is not being
    repaired. wrong: it, or the other, was loaded again and is not what was published. hung: calls
    to it were not answered in time."""

    def __init__(self, model: str, version: int, ask: Ask, *, needed: bool) -> None:
        self.model, self.version, self.ask, self.needed = model, version, ask, needed
        self.up, self.wrong = True, False
        self._failed: deque[bool] = deque(maxlen=AMONG)
        self._unanswered, self.hung = 0, False

    def note(self, error: GatewayError | None) -> None:
        """What came of a look at it."""
        hangs = isinstance(error, DeadlineExpired)
        self._failed.append(error is not None and not hangs)
        self._unanswered = 0 if error is None else self._unanswered + 1
        self.hung = error is not None and (self.hung or hangs)

    def forget(self) -> None:
        """Begin anew, as one that answers."""
        self._failed.clear()
        self._unanswered, self.hung = 0, False

    @property
    def broken(self) -> bool:
        """Whether it is to be loaded again."""
        return self.wrong or sum(self._failed) >= FAILURES or self._unanswered >= HANGS

    @property
    def silent(self) -> bool:
        """Whether it answers nobody, so far as the last looks tell."""
        return self._unanswered >= (HANGS if self.hung else FAILURES)


def parts_of(model: Model) -> tuple[Part, Part]:
    """Its encoder, without which items that are known can be predicted; its behaviour model."""
    encoder, behavior = model.manifest.encoder_version, model.manifest.behavior_version
    return (
        Part(ENCODER, encoder, model.try_encoder, needed=False),
        Part(BEHAVIOR, behavior, model.try_behavior, needed=True),
    )


class Probe:
    """Looks at the models of one engine for as long as it serves.

    replay: raises Refused where the goldens do not reproduce, and what Scoring.infer raises. able:
    is told whether predictions can be made, whenever that changes. own: whether the Triton may be
    stopped when nothing else helps.
    """

    def __init__(
        self,
        server: Server,
        parts: Sequence[Part],
        replay: Callable[[], Awaitable[None]],
        status: TritonStatus,
        able: Callable[[bool], None],
        *,
        own: bool,
    ) -> None:
        self._server, self._parts, self._own = server, parts, own
        self._replay = replay
        self._status, self._tell = status, able
        self._able = True

    async def run(self) -> None:
        """Until a Triton of our own is to be stopped; forever where it is not ours."""
        watches = [asyncio.create_task(self._watch(part)) for part in self._parts]
        try:
            done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            for watch in done:
                watch.result()
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _watch(self, part: Part) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._look(part)
            if part.broken and not await self._repair(part):
                return

    async def _look(self, part: Part) -> bool:
        """Whether the model answers."""
        error = await self._error(part)
        self._note(part, error)
        return error is None

    async def _error(self, part: Part) -> GatewayError | None:
        """What a tiny inference fails with."""
        began = time.monotonic()
        try:
            await part.ask(timeout_s=LIMIT_S)
        except Overloaded:
            pass  # it lives
        except DeadlineExpired as late:
            if self._server.answered_at(part.model) < began:  # else it is only busy
                return late
        except GatewayError as failure:
            return failure
        except Exception:  # no threads, no file handles: not for a lack of the model's
            _log.exception("%s could not be looked at", part.model)
        return None

    def _note(self, part: Part, error: GatewayError | None) -> None:
        part.note(error)
        self._tell_able()

    def _tell_able(self) -> None:
        able = not any(one.wrong or (one.needed and one.silent) for one in self._parts)
        if able != self._able:
            self._able = able
            self._tell(able)

    async def _repair(self, part: Part) -> bool:
        """Load a model until it is loaded and answers; False when our own Triton is to be stopped
        instead."""
        self._set_up(part, False)
        why = "may not be as it was" if part.wrong else "does not answer"
        _log.error("%s version %d %s: it is loaded again", part.model, part.version, why)
        failed, pause_s, hung = 0, EVERY_S, part.hung
        while True:
            loaded = await self._load(part)
            if loaded and hung:
                self._server.give_up(part.model)
            fine = await self._fine(part, loaded=loaded)
            if loaded and fine:
                break
            hung |= part.hung
            failed += not fine
            if self._own and failed == REPAIRS:
                _log.error("%s could not be repaired: Triton is stopped", part.model)
                return False
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        part.forget()
        self._set_up(part, True)
        self._status.repaired(part.model, hung=hung)
        _log.info("%s version %d answers again", part.model, part.version)
        return True

    async def _load(self, part: Part) -> bool:
        try:
            await self._server.load(part.model, part.version)
        except (StartupError, GatewayError) as error:
            _log.debug("%s could not be loaded: %s", part.model, error)
            return False
        except Exception:  # as in a look: what serves goes on being watched
            _log.exception("%s could not be loaded", part.model)
            return False
        return True

    async def _fine(self, part: Part, *, loaded: bool) -> bool:
        """Whether it answers, and as it did when it was published. It may answer although loading
        it has failed, and with other files even then."""
        if not loaded and (error := await self._error(part)) is not None:
            self._note(part, error)  # goldens would only take longer to fail
            return False
        return await self._reproduces(part) and await self._look(part)

    async def _reproduces(self, part: Part) -> bool:
        """Whether what was loaded says what it is to say; until then nobody is to ask it."""
        refusal = ""
        try:
            async with asyncio.timeout(REPLAY_S):
                await self._replay()
        except Refused as refused:
            refusal = str(refused)
        except (GatewayError, TimeoutError):  # this model or the other: the looks will tell
            pass
        except Exception:  # as in a look
            _log.exception("the goldens could not be replayed")
        if refusal:
            _log.error("what was loaded again is not as it was: %s", refusal)
        # A golden does not tell which of the models is: the other may have come first, unseen.
        for one in self._parts if refusal else (part,):
            one.wrong = bool(refusal)
        self._tell_able()
        return not refusal

    def _set_up(self, part: Part, up: bool) -> None:
        part.up = up
        self._status.set_up(all(one.up for one in self._parts))

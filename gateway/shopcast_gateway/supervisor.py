"""What keeps a gateway answering: Triton comes back when it ends, what is promoted is taken up."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from shopcast_gateway.core.adoption import Refused
from shopcast_gateway.core.adoption_status import AdoptionStatus, Refusal
from shopcast_gateway.core.trial import Trial
from shopcast_gateway.engine import Engine, Shared, Switch, TritonDied, Tritons
from shopcast_gateway.errors import StartupError
from shopcast_gateway.promoted import versions_to_try
from shopcast_gateway.triton.status import TritonStatus
from shopcast_repository.errors import RepositoryError
from shopcast_repository.serving import Serving as Said
from shopcast_repository.serving import Trial as Wanted
from shopcast_repository.serving import read_serving

_LOOK_S = 1.0

_log = logging.getLogger(__name__)


class Front(Protocol):
    """What takes calls: one server, or several."""

    def set_serving(self, serving: bool) -> None:
        """What health says from now on."""
        ...

    async def wait(self) -> None:
        """Return when no call is taken any more."""
        ...


class Supervisor:
    """Brings Triton and its models back whenever they end or do not answer, and takes up what is
    promoted."""

    def __init__(
        self,
        tritons: Tritons,
        shared: Shared,
        switch: Switch,
        server: Front,
        status: AdoptionStatus,
        health: TritonStatus,
        seen: Said | None,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """seen: what was to serve when the engine was chosen. busy: whether there is no room for
        what nobody waits for."""
        self._tritons, self._shared, self._switch = tritons, shared, switch
        self._server, self._status, self._health = server, status, health
        self._seen, self._busy = seen, busy
        self._complaint = ""
        self._trying: asyncio.Task[None] | None = None
        self._trial_end: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until the server stops. Raises StartupError when Triton does not come back."""
        stopped = asyncio.create_task(self._server.wait())
        changed = asyncio.create_task(self._change())
        taking: asyncio.Task[None] | None = None
        if self._seen is not None and self._seen.trial is not None:
            taking = asyncio.create_task(self._take_up(self._seen))
        engine = self._engine
        ended, probe = self._attend(engine)
        try:
            while True:
                done, _ = await asyncio.wait(
                    {stopped, ended, probe, taking or changed},
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if stopped in done:
                    return
                if probe in done and not ended.done():
                    probe.result()
                    await engine.kill()
                    await asyncio.wait({ended})
                if ended.done():
                    probe.cancel()
                    await asyncio.wait({probe})
                    await self._bring_back(engine, ended.result(), taking)
                if taking is not None and taking.done():
                    taking.result()
                    taking, changed = None, asyncio.create_task(self._change())
                elif taking is None and changed.done():
                    taking = asyncio.create_task(self._take_up(changed.result()))
                if self._engine is not engine:
                    ended.cancel()
                    probe.cancel()
                    await asyncio.wait({probe})  # it must tell nothing any more
                    engine = self._engine
                    self._tell_able(True)
                    self._health.set_up(True)
                    ended, probe = self._attend(engine)
        finally:
            # Not `stopped`: it waits on the server's own future, which stopping it still needs.
            for task in (changed, ended, probe, taking, self._trial_end):
                if task is not None:
                    task.cancel()
            if taking is not None:
                await asyncio.gather(taking, return_exceptions=True)
            await self._stop_trying()

    def _attend(self, engine: Engine) -> "tuple[asyncio.Task[int], asyncio.Task[None]]":
        return (
            asyncio.create_task(engine.ended()),
            asyncio.create_task(engine.watch(self._health, self._tell_able)),
        )

    def _tell_able(self, able: bool) -> None:
        """Answer, or say UNAVAILABLE and NOT_SERVING."""
        self._switch.off = not able
        self._server.set_serving(able)

    @property
    def _engine(self) -> Engine:
        assert self._switch.engine is not None  # noqa: S101 - supervised once it serves
        return self._switch.engine

    async def _change(self) -> Said:
        """What is to serve, once somebody says so anew."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                said = await asyncio.to_thread(read_serving, self._tritons.repository)
            except RepositoryError as error:
                if str(error) != self._complaint:  # said once, not once a second
                    self._complaint = str(error)
                    _log.error("%s", error)
                continue
            if said is not None and said != self._seen:
                self._seen = said
                return said

    async def _take_up(self, said: Said) -> None:
        """Let a version serve if it may, else the one before goes on. Then the trial begins, which
        nobody waits for."""
        await self._stop_trying()
        on_trial = self._switch.trial
        if on_trial is not None and (said.trial is None or said.trial.version != on_trial.version):
            await self._end_trial("it was ended")
        self._status.want(said.version)
        if said.version != self._engine.version:
            engine = await self._admitted(said.version)
            if engine is not None:
                self._switch.replace(engine)
                self._status.adopted(said.version)
                _log.info("version %d adopted, its goldens reproduce", said.version)
        if said.trial is not None and said.trial.version != self._engine.version:
            self._trying = asyncio.create_task(self._try_out(said.trial))

    async def _stop_trying(self) -> None:
        """Leave nothing of a version that has not begun its trial yet."""
        if self._trying is not None:
            if not self._trying.cancelling():  # a second time would keep it from cleaning up
                self._trying.cancel()
            await asyncio.wait({self._trying})
            self._trying = None

    async def _admitted(self, version: int) -> Engine | None:
        """The engine of a version, ready for the calls of the one that serves; None where it may
        not serve, which is told."""
        try:
            engine = await Engine.start_patiently(
                self._tritons, self._shared, version, outliving=True
            )
            if self._switch.engine is not None:
                await self._hand_over(self._switch.engine, engine)
            return engine
        except (Refused, StartupError) as error:
            _log.error(
                "version %d is refused, version %s goes on serving: %s",
                version,
                self._status.serving,
                error,
            )
            reason = error.reason if isinstance(error, Refused) else "load"
            self._status.refused(version, Refusal(reason, str(error)))
        except Exception as error:  # no room, no file handles: what serves must go on
            _log.exception("version %d could not be taken up", version)
            self._status.refused(version, Refusal("load", type(error).__name__))
        return None

    async def _hand_over(self, serving: Engine, engine: Engine) -> None:
        try:
            await engine.take_over(serving)
        except BaseException:
            await asyncio.shield(engine.close())  # nobody else knows of it and its Triton yet
            raise

    async def _try_out(self, wanted: Wanted) -> None:
        """Put a version on trial if it may serve, or go on with other shares."""
        if self._switch.trial is not None:
            self._switch.adjust_trial(wanted.share, wanted.shadow)
            return
        engine = await self._admitted(wanted.version)
        if engine is None:
            return
        trial = Trial(
            wanted.version,
            engine,
            self._shared.directory,
            share=wanted.share,
            shadow=wanted.shadow,
            busy=self._busy,
        )
        await self._switch.put_on_trial(trial, engine)
        self._trial_end = asyncio.create_task(self._until_it_ends(engine))
        told = (wanted.version, wanted.share, wanted.shadow)
        _log.info("version %d is on trial: share=%g shadow=%g", *told)

    async def _until_it_ends(self, engine: Engine) -> None:
        """Repair the models on trial, and end the trial where that cannot be or its Triton ends."""
        watching = engine.watch(TritonStatus(), lambda _: None, on_trial=True)
        waits: list[asyncio.Task[Any]] = [
            asyncio.create_task(engine.ended()),
            asyncio.create_task(watching),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        _log.error("version %d on trial does not answer any more", engine.version)
        self._trial_end = None
        await self._end_trial("its Triton ended, or could not be repaired")

    async def _end_trial(self, why: str) -> None:
        if self._trial_end is not None:
            self._trial_end.cancel()
            self._trial_end = None
        if self._switch.trial is not None:
            _log.info("the trial of version %d is over: %s", self._switch.trial.version, why)
        await self._switch.put_on_trial(None, None)

    async def _bring_back(
        self, engine: Engine, exit_status: int, taking: asyncio.Task[None] | None
    ) -> None:
        """Answer again after the Triton of an engine has ended; with the version that is being
        taken up, if it may serve."""
        _log.error("Triton ended with status %d: starting it again", exit_status)
        self._tell_able(False)
        self._health.set_up(False)
        if taking is not None:
            await asyncio.wait({taking})
        if self._engine is engine:
            await self._revive(engine.version)
        self._tell_able(True)
        self._health.set_up(True)
        _log.info("Triton is back, version %d serves", self._engine.version)

    async def _revive(self, version: int) -> None:
        """Start Triton again with the same version, or if it may not serve any more, with one
        before it, where that can be read. Raises StartupError when none may, or Triton keeps
        ending."""
        # By now the calls of the old engine have failed.
        await self._switch.take_out()
        while True:
            pause_s = self._tritons.count_death()
            await asyncio.sleep(pause_s)
            self._health.restarted()
            others: list[int] = []
            try:
                others, _ = versions_to_try(self._tritons.repository)
            except StartupError as error:
                _log.error("version %d goes on, or none: %s", version, error)
            versions = [version, *(other for other in others if other != version)]
            with suppress(TritonDied):
                self._switch.engine = await Engine.first_that_passes(
                    self._tritons, self._shared, versions, self._status
                )
                self._status.adopted(self._engine.version)
                return

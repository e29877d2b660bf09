"""What keeps a gateway answering: Triton comes back when it ends, what is promoted is taken up."""

import asyncio
import logging
from contextlib import suppress

from shopcast_gateway.core.adoption import Refused
from shopcast_gateway.core.adoption_status import AdoptionStatus, Refusal
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.engine import Engine, Switch, TritonDied, Tritons
from shopcast_gateway.errors import StartupError
from shopcast_gateway.promoted import versions_to_try
from shopcast_gateway.transport.server import GatewayServer
from shopcast_gateway.triton.status import TritonStatus
from shopcast_repository.errors import RepositoryError
from shopcast_repository.serving import Serving as Said
from shopcast_repository.serving import read_serving

_LOOK_S = 1.0
_AGAIN_S = (1.0, 10.0)  # pauses before a version that failed for a passing reason is tried again

_log = logging.getLogger(__name__)


class Supervisor:
    """Brings Triton and its models back whenever they end or do not answer, and takes up what is
    promoted."""

    def __init__(
        self,
        tritons: Tritons,
        directory: Directory,
        switch: Switch,
        server: GatewayServer,
        status: AdoptionStatus,
        health: TritonStatus,
        seen: Said | None,
    ) -> None:
        """seen: what was to serve when the engine was chosen."""
        self._tritons, self._directory, self._switch = tritons, directory, switch
        self._server, self._status, self._health = server, status, health
        self._seen = seen
        self._complaint = ""

    async def run(self) -> None:
        """Until the server stops. Raises StartupError when Triton does not come back."""
        stopped = asyncio.create_task(self._server.wait())
        changed = asyncio.create_task(self._change())
        taking: asyncio.Task[None] | None = None
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
            for task in (changed, ended, probe, taking):
                if task is not None:
                    task.cancel()
            if taking is not None:
                await asyncio.gather(taking, return_exceptions=True)

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

    async def _change(self) -> int:
        """The version that is to serve, once somebody says so anew."""
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
                return said.version

    async def _take_up(self, version: int) -> None:
        """Let a version serve if it may; else the one before goes on."""
        self._status.want(version)
        if version == self._engine.version:
            return
        try:
            engine = await self._start(version)
        except (Refused, StartupError) as error:
            _log.error(
                "version %d is refused, version %d goes on serving: %s",
                version,
                self._engine.version,
                error,
            )
            reason = error.reason if isinstance(error, Refused) else "load"
            self._status.refused(version, Refusal(reason, str(error)))
            return
        except Exception as error:  # no room, no file handles: what serves must go on
            _log.exception("version %d could not be taken up", version)
            self._status.refused(version, Refusal("load", type(error).__name__))
            return
        self._switch.replace(engine)
        self._status.adopted(version)
        _log.info("version %d adopted, its goldens reproduce", version)

    async def _start(self, version: int) -> Engine:
        """A version on a Triton, in several attempts where a busy machine may have been the cause.
        Raises as `Engine.start`."""
        for pause_s in _AGAIN_S:
            try:
                return await Engine.start(self._tritons, self._directory, version)
            except (Refused, TritonDied) as error:
                if isinstance(error, Refused) and error.reason != "replay":
                    raise
                _log.warning("version %d is tried again in %g s: %s", version, pause_s, error)
            await asyncio.sleep(pause_s)
        return await Engine.start(self._tritons, self._directory, version)

    async def _bring_back(
        self, engine: Engine, exit_status: int, taking: asyncio.Task[None] | None
    ) -> None:
        """Answer again after the Triton of an engine has ended; with the version that is being
        taken up, if it may serve."""
        _log.error("Triton ended with status %d: starting it again", exit_status)
        self._tell_able(False)
        self._health.set_up(False)
        if taking is not None:
            await taking
        if self._engine is engine:
            await self._revive(engine.version)
        self._tell_able(True)
        self._health.set_up(True)
        _log.info("Triton is back, version %d serves", self._engine.version)

    async def _revive(self, version: int) -> None:
        """Start Triton again with the same version, or if it may not serve any more, with one
        before it. Raises StartupError when none may, or Triton keeps ending."""
        # By now the calls of the old engine have failed.
        await self._switch.close()
        while True:
            pause_s = self._tritons.count_death()
            await asyncio.sleep(pause_s)
            self._health.restarted()
            others, _ = versions_to_try(self._tritons.repository)
            versions = [version, *(other for other in others if other != version)]
            with suppress(TritonDied):
                self._switch.engine = await Engine.first_that_passes(
                    self._tritons, self._directory, versions, self._status
                )
                self._status.adopted(self._engine.version)
                return

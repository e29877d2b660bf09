"""A worker process: answers calls with the model that it is told of, until it is told to stop."""

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

from shopcast_gateway.backend.rotation import Change as RotationChange
from shopcast_gateway.backend.rotation import Ejected, Moved, RotationStatus
from shopcast_gateway.core.adoption import Refused
from shopcast_gateway.core.trial import Trial
from shopcast_gateway.directory.open import open_directory
from shopcast_gateway.engine import Engine, Shared
from shopcast_gateway.errors import GatewayError, StartupError
from shopcast_gateway.fleet import Addresses
from shopcast_gateway.frontend import Frontend, access_of, open_frontend
from shopcast_gateway.interpreter import make_ready
from shopcast_gateway.metrics import second_calls
from shopcast_gateway.settings import ServeSettings
from shopcast_gateway.transport.server import GatewayServer
from shopcast_gateway.workers.link import Link
from shopcast_gateway.workers.messages import (
    FROM_WORKER,
    SHARE_S,
    TO_WORKER,
    Assignment,
    Begin,
    Compared,
    Failed,
    Failing,
    Forget,
    FromWorker,
    GiveUp,
    OnTrial,
    Place,
    Report,
    Spent,
    Stop,
    ToWorker,
)
from shopcast_gateway.workers.registry import METRICS_FOLDER, allocate

_PR_SET_PDEATHSIG = 1
_REPORT_S = 1.0
_AGAIN_S = 0.5  # before a Triton that could not be reached is tried again

_log = logging.getLogger("shopcast_gateway.workers.worker")  # the process has it as __main__


class _Worker:
    def __init__(self, link: Link[FromWorker, ToWorker], frontend: Frontend) -> None:
        self._link, self._frontend, self._switch = link, frontend, frontend.switch
        self._server: GatewayServer | None = None
        self._wanted: Assignment | None = None
        self._news, self._done = asyncio.Event(), 0
        self._count = second_calls(frontend.registry) if frontend.registry else None
        self._compared: Compared | None = None

    async def run(self, begin: Begin) -> float:
        """Until it is told to stop: returns what running calls get then, in seconds."""
        carrying_out = asyncio.create_task(self._carry_out(begin))
        reporting = asyncio.create_task(self._keep_reporting())
        sharing = asyncio.create_task(self._keep_sharing())
        receiving = asyncio.create_task(self._receive())
        tasks = (carrying_out, reporting, sharing, receiving)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and task is not receiving:
                    task.result()
            return receiving.result()
        finally:
            over = (carrying_out, sharing, receiving)
            for task in over:
                task.cancel()
            await asyncio.gather(*over, return_exceptions=True)
            if self._server is not None:  # reports go on: who lets calls end does not stand still
                told = receiving.done() and not receiving.cancelled()
                await self._server.stop(receiving.result() if told else 0.0)
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    async def _receive(self) -> float:
        while (message := await self._link.receive()) is not None:
            match message:
                case Assignment():
                    self._wanted = message
                    self._news.set()
                case GiveUp(model):
                    for engine in (self._switch.engine, self._switch.trial_engine):
                        if engine is not None:
                            engine.give_up(model)
                case Forget():
                    self._switch.forget()
                case Spent(spendings):
                    if self._frontend.access is not None:
                        self._frontend.access.quotas.charge(spendings)
                case Stop(grace_s):
                    return grace_s
                case Begin():
                    raise AssertionError
        _log.error("who looks after the workers has gone: this one ends")
        return 0.0

    async def _carry_out(self, begin: Begin) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            assert self._wanted is not None  # noqa: S101 - there are news
            wanted = self._wanted
            if await self._reach(self._follow(wanted)):
                await self._answer(begin, wanted)
                await self._reach(self._try_out(wanted.trial))

    async def _reach(self, doing: Awaitable[None]) -> bool:
        """Whether a Triton could be reached; where not, it is time to try again."""
        try:
            await doing
        except (StartupError, GatewayError, Refused) as error:
            # It has ended, and who looks after it will say where the next one is.
            _log.warning("version and Triton that are to serve, or are on trial: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _AGAIN_S)
            self._news.set()
            return False
        return True

    async def _answer(self, begin: Begin, wanted: Assignment) -> None:
        """Let callers in once there is a model, and say what has been done. Raises StartupError."""
        if self._server is None and self._switch.engine is not None:
            self._server = self._frontend.build_server(
                begin.port,
                shared=True,
                withdrawn=lambda: self._link.send(Forget()),
                before=begin.files,
            )
            self._tell(wanted)
            await self._server.start()
        self._tell(wanted)
        self._done = wanted.number
        self._report()

    def _tell(self, wanted: Assignment) -> None:
        """Let health say what there is to say."""
        if self._server is None:
            return
        self._server.set_serving(wanted.able)
        self._server.set_accepting(True)
        self._server.tell_adoption(wanted.refusal)
        if wanted.leaving:
            self._server.announce()

    async def _follow(self, wanted: Assignment) -> None:
        """Answer with the version that is to serve, and with none on trial that is not wanted any
        more. What was before ends with its calls."""
        switch = self._switch
        switch.off = not wanted.able
        now, trial = switch.engine, wanted.trial
        on_trial = switch.trial_engine
        if on_trial is not None and (trial is None or trial.place.number != on_trial.number):
            self._compare()
            self._report()
            await switch.put_on_trial(None, None)
        if wanted.serving is None:
            if now is not None:
                await switch.take_out()
        elif now is None or now.number != wanted.serving.number:
            engine = await self._attach(wanted.serving)
            if now is not None:
                await engine.take_over(now)
            switch.replace(engine)
        else:
            now.follow(wanted.serving.rotation)

    async def _try_out(self, trial: OnTrial | None) -> None:
        """Answer some people with the version on trial, too. Until it can be reached, the one that
        serves answers all."""
        switch = self._switch
        if trial is None or switch.engine is None:
            return
        if switch.trial is not None and switch.trial_engine is not None:
            switch.trial_engine.follow(trial.place.rotation)
            switch.adjust_trial(trial.share, trial.shadow)
            return
        engine = await self._attach(trial.place)
        await engine.take_over(switch.engine)
        one = Trial(
            engine.version,
            engine,
            self._frontend.directory,
            share=trial.share,
            shadow=trial.shadow,
            busy=self._frontend.busy,
        )
        await switch.put_on_trial(one, engine)

    async def _attach(self, place: Place) -> Engine:
        settings = self._frontend.settings

        def tell(change: RotationChange) -> None:
            if isinstance(change, Ejected):
                self._link.send(Failing(place.number, change.address))
            elif not isinstance(change, Moved) and self._count is not None:
                self._count(change)

        status = RotationStatus(tuple(place.rotation) or (place.address,), [tell])
        return await Engine.attach(
            settings.repository,
            place.version,
            Addresses(status, settings.hedge_after_s),
            Shared(self._frontend.directory, self._switch.histories, self._frontend.recorder),
            number=place.number,
            rotation=place.rotation,
        )

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            self._compare()
            self._report()

    async def _keep_sharing(self) -> None:
        access = self._frontend.access
        while True:
            await asyncio.sleep(SHARE_S)
            if access is not None and (spendings := access.quotas.take_spent()):
                self._link.send(Spent(spendings))

    def _compare(self) -> None:
        trial, engine = self._switch.trial, self._switch.trial_engine
        if trial is not None and engine is not None:
            self._compared = Compared.of(engine.number, trial)

    def _report(self) -> None:
        if self._server is not None:
            self._link.send(Report(self._done, self._switch.held, self._compared))


async def work(end: socket.socket) -> None:
    """Answer until the other end says so, or has gone."""
    make_ready()
    link = await Link.over(end, FROM_WORKER, TO_WORKER)
    begin = await link.receive()
    if not isinstance(begin, Begin):
        return
    begin.settings.logs.set_up(begin.number)
    settings = _with_room(begin.settings)
    try:
        async with AsyncExitStack() as stack:
            directory = await open_directory(
                settings.directory, keys=settings.directory_key, checked=True
            )
            stack.push_async_callback(directory.close)
            access = access_of(settings, begin.files)
            opening = open_frontend(settings, directory, access)
            frontend = await stack.enter_async_context(opening)
            await _Worker(link, frontend).run(begin)
    except StartupError as error:
        link.send(Failed(str(error)))
    await link.close()


def _with_room(settings: ServeSettings) -> ServeSettings:
    """Without metrics, where there is no room for their files."""
    folder = os.environ.get(METRICS_FOLDER)
    if folder is None:
        return settings
    try:
        allocate(Path(folder))
    except OSError as error:
        _log.error(
            "this worker counts nothing, %s has no room for its metrics (%s): make some, or set"
            " TMPDIR to another folder, and start the gateway again",
            folder,
            os.strerror(error.errno or 0),
        )
        return replace(settings, metrics_port=None)
    return settings


def main() -> None:
    """The only argument is the number of a socket that is open."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # who looks after us says when
    # One that stands still does not see that its parent has gone, and would keep the port.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    asyncio.run(work(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()

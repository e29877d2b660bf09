"""The process that looks after workers: it keeps the port, the Triton and the model, tells the
workers what to answer with, and replaces one that ends."""

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from prometheus_client import Counter, Gauge

from shopcast_gateway.backend.rotation import Change as RotationChange
from shopcast_gateway.backend.rotation import Moved
from shopcast_gateway.core.adoption_status import AdoptionStatus
from shopcast_gateway.core.trial import Trial
from shopcast_gateway.engine import Engine, Switch
from shopcast_gateway.errors import StartupError
from shopcast_gateway.held_folder import HeldFolder
from shopcast_gateway.settings import ServeSettings
from shopcast_gateway.transport.authorisation import Access
from shopcast_gateway.transport.binding import reserve_port
from shopcast_gateway.transport.credentials import TlsFiles
from shopcast_gateway.transport.quotas import Quotas
from shopcast_gateway.triton.status import Repaired, Restarted, TritonStatus
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
    in_all,
)
from shopcast_gateway.workers.registry import METRICS_FOLDER, PoolRegistry

SILENCE_S = 30.0
"""After which a worker that reports nothing is ended."""
_START_S = 60.0
_LOOK_S = 1.0
_PAUSES_S = (0.5, 10.0)  # between replacements: the second one's, doubled each time; the longest
_CALM_S = 60.0  # after which a worker that ends is replaced at once again
_MARGIN_S = 15.0  # beyond the grace of calls, for what a worker does at its end

_log = logging.getLogger(__name__)


class Worker:
    """A process that answers. report: the last one; None until it answers."""

    def __init__(
        self, process: asyncio.subprocess.Process, link: Link[ToWorker, FromWorker], number: int
    ) -> None:
        self.process, self.number, self._link = process, number, link
        self.report: Report | None = None
        self.compared: dict[int, Compared] = {}

    @classmethod
    async def start(cls, number: int, metrics: Path | None) -> "Worker":
        """A new process. metrics: the folder of the values that processes share."""
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        environment.pop(METRICS_FOLDER, None)
        if metrics is not None:
            environment[METRICS_FOLDER] = str(metrics)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "shopcast_gateway.workers.worker"),
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,  # Ctrl-C is for us to handle
            )
        return cls(process, await Link.over(ours, TO_WORKER, FROM_WORKER), number)

    def send(self, message: ToWorker) -> None:
        """Tell it something."""
        self._link.send(message)

    async def receive(self) -> FromWorker | None:
        """The next message; None when there is none any more. Raises TimeoutError after a silence
        that is too long."""
        limit_s = SILENCE_S if self.report is not None else _START_S
        # Looks are counted, not time: who stood still together with its workers, as on a machine
        # that was paused, would take that for their silence.
        for _ in range(round(limit_s / _LOOK_S)):
            with suppress(TimeoutError):
                return await asyncio.wait_for(self._link.receive(), _LOOK_S)
        raise TimeoutError

    def holds(self, engine: Engine, number: int) -> bool:
        """Whether it may call the Triton of an engine that the assignment of this number does
        without."""
        report = self.report
        return report is None or report.number < number or engine.number in report.held

    async def end(self) -> None:
        """Leave nothing of it."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._link.close()


class Pool:
    """Workers on one port. Stands where a GatewayServer and its Switch stand with one process: what
    the switch has, all workers answer with."""

    def __init__(
        self,
        settings: ServeSettings,
        status: AdoptionStatus,
        port: int,
        registry: PoolRegistry | None,
        metrics: Path | None,
        access: Access | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        """access: what is asked on the admin port; its quotas are those of the workers, too. tls:
        of the workers."""
        self._tls = tls
        self.port, self.registry = port, registry
        self._access = access
        self.switch = Switch(changed=self._assign, released=self._released)
        self._settings, self._status, self._metrics = settings, status, metrics
        self._workers: set[Worker] = set()
        self._keeping: list[asyncio.Task[None]] = []
        self._sharing: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._number, self._able, self._leaving = 0, True, False
        self._ended_compared: list[Compared] = []
        self._reported = asyncio.Event()
        self._stopping = asyncio.Event()
        self._up: Gauge | None = None
        self._replaced: Counter | None = None
        if registry is not None:
            self._up = Gauge("shopcast_workers", "Processes that answer.", registry=registry)
            self._replaced = Counter(
                "shopcast_workers_replaced",
                "Processes that ended by themselves.",
                registry=registry,
            )

    @property
    def trial(self) -> Trial | None:
        """What is on trial, once every worker that answers has it, too."""
        engine = self.switch.trial_engine
        reports = [one.report for one in self._workers if one.report is not None]
        if engine is None or any(engine.number not in report.held for report in reports):
            return None
        return self.switch.trial

    async def start(self) -> None:
        """Start the workers; returns when all answer. Raises StartupError when one cannot."""
        first = [asyncio.get_running_loop().create_future() for _ in range(self._settings.workers)]
        self._keeping = [
            asyncio.create_task(self._keep(number, up)) for number, up in enumerate(first)
        ]
        await asyncio.gather(*first)
        if self._access is not None:
            self._sharing = asyncio.create_task(self._share(self._access.quotas))
        self._looking = asyncio.create_task(self._keep_looking())

    async def wait(self) -> None:
        """Return when the workers are told to stop."""
        await self._stopping.wait()

    def set_accepting(self, accepting: bool) -> None:
        """Nothing: a worker accepts from its start to its end."""

    def set_serving(self, serving: bool) -> None:
        """Whether predictions can be made."""
        self._able = serving
        self._assign()

    def tell_adoption(self, _: str | None) -> None:
        """The status has changed."""
        self._assign()

    def announce(self) -> None:
        """As GatewayServer.announce, in every worker."""
        self._leaving = True
        self._assign()

    async def stop(self, grace_s: float) -> None:
        """As GatewayServer.stop, in every worker; their processes have ended then."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for task in (self._sharing, self._looking):
            if task is not None:
                task.cancel()
        for worker in self._workers:
            worker.send(Stop(grace_s))
        if self._keeping:
            _, hanging = await asyncio.wait(self._keeping, timeout=grace_s + _MARGIN_S)
            for task in hanging:
                _log.warning("stopping: a worker that was not over is ended")
                task.cancel()
            await asyncio.gather(*self._keeping, return_exceptions=True)

    def tell_triton(self, _: TritonStatus, change: Repaired | Restarted | None) -> None:
        """What was done to the Triton."""
        if isinstance(change, Repaired) and change.hung:
            self._tell(GiveUp(change.model))

    def tell_rotation(self, change: RotationChange) -> None:
        """Which of several Tritons take calls."""
        if isinstance(change, Moved):
            self._assign()

    def _assign(self) -> None:
        self._number += 1
        self._tell(self._assignment())

    def _tell(self, message: ToWorker, *, but: Worker | None = None) -> None:
        for worker in self._workers:
            if worker is not but:
                worker.send(message)

    async def _share(self, quotas: Quotas) -> None:
        while True:
            await asyncio.sleep(SHARE_S)
            if spendings := quotas.take_spent():
                self._tell(Spent(spendings))

    def _assignment(self) -> Assignment:
        engine, trial, trial_engine = (
            self.switch.engine,
            self.switch.trial,
            self.switch.trial_engine,
        )
        return Assignment(
            self._number,
            None if engine is None else Place.of(engine),
            None
            if trial is None or trial_engine is None
            else OnTrial(Place.of(trial_engine), trial.share, trial.shadow),
            self._able and not self.switch.off,
            self._status.refusal,
            self._leaving,
        )

    async def _released(self, engine: Engine) -> None:
        number = self._number
        while any(worker.holds(engine, number) for worker in self._workers):
            self._reported.clear()
            await self._reported.wait()

    async def settled(self) -> None:
        """Return once every worker that answers does so as it is told now."""
        number = self._number
        while any(one.report and one.report.number < number for one in self._workers):
            self._reported.clear()
            await self._reported.wait()

    async def _keep(self, number: int, up: "asyncio.Future[None]") -> None:
        """One worker after the other. up: set when the first answers."""
        first_s, longest_s = _PAUSES_S
        pause_s = 0.0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                why = await self._attend(number, up)
            except Exception as error:  # no memory, no file handles: there may be again
                why = f"it could not be started ({type(error).__name__})"
            if self._stopping.is_set():
                return
            if not up.done():
                up.set_exception(StartupError(why))
                return
            if self._replaced is not None:
                self._replaced.inc()
            pause_s = 0.0 if time.monotonic() - began > _CALM_S else pause_s
            _log.error("worker %d ended: %s; another takes its place", number, why)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, longest_s) or first_s

    async def _attend(self, number: int, up: "asyncio.Future[None]") -> str:
        """One worker from start to end. Returns why it ended."""
        worker = await Worker.start(number, self._metrics)
        self._workers.add(worker)
        why = ""
        try:
            if self._stopping.is_set():
                return "it was not needed any more"
            worker.send(Begin(self._settings, number, self.port, self._files()))
            worker.send(self._assignment())
            if self._access is not None:
                worker.send(Spent(self._access.quotas.lacking()))
            while (message := await worker.receive()) is not None:
                if isinstance(message, Failed):
                    why = message.sentence
                elif isinstance(message, Forget):
                    self._tell(message, but=worker)
                elif isinstance(message, Spent):
                    if self._access is not None:
                        self._access.quotas.charge(message.spendings)
                    self._tell(message, but=worker)
                elif isinstance(message, Failing):
                    self._eject(message)
                else:
                    self._take(worker, message, up)
            await worker.process.wait()
        except TimeoutError:
            why = "it stands still"
        finally:
            self._workers.discard(worker)
            self._ended_compared += worker.compared.values()
            self._reported.set()
            self._count()
            await asyncio.shield(worker.end())
            if self.registry is not None:
                self.registry.fold(worker.process.pid)
        return why or f"with status {worker.process.returncode}"

    def _files(self) -> dict[Path, bytes]:
        """What the files of certificates and callers hold that is in force."""
        files: dict[Path, bytes] = {}
        if self._tls is not None:
            self._tls.changed()
            files.update(self._tls.held)
        if self._access is not None:
            files.update(self._access.look())
        return files

    async def _keep_looking(self) -> None:
        """Know what files held that fitted, for a worker that begins when they do not."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._files()

    def _eject(self, failing: Failing) -> None:
        for engine in (self.switch.engine, self.switch.trial_engine):
            if engine is not None and engine.number == failing.engine:
                engine.eject(failing.address)
        self._assign()  # where it was not ejected, who failed there is to try again

    def _take(self, worker: Worker, report: Report, up: "asyncio.Future[None]") -> None:
        began, worker.report = worker.report is None, report
        self._reported.set()
        if began:
            self._count()
        if not up.done():
            up.set_result(None)
        if report.compared is not None:
            worker.compared[report.compared.engine] = report.compared
            self._compare()

    def _count(self) -> None:
        if self._up is not None:
            self._up.set(sum(worker.report is not None for worker in self._workers))

    def _compare(self) -> None:
        """What all workers have counted of the trial is what is told of it."""
        trial, engine = self.switch.trial, self.switch.trial_engine
        if trial is None or engine is None:
            return
        counted = [one for worker in self._workers for one in worker.compared.values()]
        counted = [c for c in (*counted, *self._ended_compared) if c.engine == engine.number]
        trial.answered = sum(one.answered for one in counted)
        trial.comparison = in_all(counted)


@asynccontextmanager
async def open_pool(
    settings: ServeSettings, status: AdoptionStatus, access: Access | None = None
) -> AsyncIterator[Pool]:
    """A pool that has its port, and no workers yet; lets go of the model at the end. access: as of
    Pool. Raises StartupError."""
    with (
        reserve_port(settings.host, settings.port) as kept,
        HeldFolder("metrics") as folder,
    ):
        registry, metrics = None, None
        if settings.metrics_port is not None:
            metrics = folder
            registry = PoolRegistry(metrics)
        port = int(kept.getsockname()[1])
        tls = None
        if settings.tls is not None:
            tls = TlsFiles(settings.tls)
            tls.begin()
        pool = Pool(settings, status, port, registry, metrics, access, tls)
        try:
            yield pool
        finally:
            await pool.switch.put_on_trial(None, None)
            await pool.switch.close()

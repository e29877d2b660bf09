"""A model on a Triton, and the switch that predictions go through."""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shopcast_gateway.backend.triton import TritonBackend
from shopcast_gateway.core.adoption import Refused, adopt, check, replay
from shopcast_gateway.core.adoption_status import AdoptionStatus, Refusal
from shopcast_gateway.core.histories import Histories
from shopcast_gateway.core.model import Model
from shopcast_gateway.core.prediction import ModelPredictor
from shopcast_gateway.core.prior import PriorPredictor
from shopcast_gateway.core.protocol import Prediction, PredictQuery
from shopcast_gateway.core.stages import UNRECORDED, Recorder
from shopcast_gateway.core.trial import Trial
from shopcast_gateway.core.vectors import ItemVectors
from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.errors import StartupError, Unavailable
from shopcast_gateway.fleet import Addresses, Fleet
from shopcast_gateway.probe import Probe, parts_of
from shopcast_gateway.triton.environment import locate
from shopcast_gateway.triton.process import TritonProcess
from shopcast_gateway.triton.status import TritonStatus

_RESTARTS = 5
_RESTARTS_WITHIN_S = 600.0
_PAUSES_S = (1.0, 10.0)  # between restarts: the second one's, doubled each time, and the longest
_DEATH_S = 5.0  # a Triton that failed a call by dying has ended by then
_RETIRE_S = 65.0  # longer than any deadline a call may have
_AGAIN_S = (1.0, 10.0)  # pauses before a version that failed for a passing reason is tried again
_TAKE_OVER_S = 10.0
_ATTACH_S = 10.0  # for one inference

_log = logging.getLogger(__name__)


class TritonDied(StartupError):
    """The server ended by itself while a version was being taken up: it may be tried again."""


class Tritons:
    """Where engines run: in a Triton of their own each, or all in one or several elsewhere.

    One model name has one configuration, for all its versions: versions of other widths, or for
    another backend, cannot be loaded beside each other. A second server for the new version can,
    and leaves nothing of the old one behind.
    """

    def __init__(
        self,
        repository: Path,
        *,
        url: str | None,
        home: Path,
        log: Path,
        several: Addresses | None = None,
    ) -> None:
        """url: of one elsewhere. several: those elsewhere, in place of it."""
        self.repository, self._url, self._home, self._log = repository, url, home, log
        self.several = several
        self._starts: deque[float] = deque(maxlen=_RESTARTS)

    async def start(self) -> TritonProcess | None:
        """A new server; None where there is one elsewhere. Raises StartupError."""
        if self._url is not None:
            return None
        environment = locate(self._home)
        return await TritonProcess.start(environment, self.repository, log=self._log)

    def count_death(self) -> float:
        """How long to wait before another is started, in seconds. Raises StartupError when servers
        keep ending."""
        now = time.monotonic()
        self._starts.append(now)
        if len(self._starts) == _RESTARTS and now - self._starts[0] < _RESTARTS_WITHIN_S:
            raise StartupError(
                f"Triton ended {_RESTARTS} times within {_RESTARTS_WITHIN_S / 60:.0f} minutes: see"
                f" {self._log}"
            )
        before = sum(now - start < _RESTARTS_WITHIN_S for start in self._starts) - 1
        first, longest = _PAUSES_S
        return min(first * 2 ** (before - 1), longest) if before else 0.0

    def address(self, process: TritonProcess | None) -> str:
        """host:port of the KServe v2 gRPC service."""
        if process is not None:
            return process.grpc_address
        assert self._url is not None  # noqa: S101 - else there is a process
        return self._url


@dataclass(frozen=True, slots=True)
class Shared:
    """What all engines of a process use. histories: whoever answers next may need what another one
    has read. recorder: is told of what engines do once they serve."""

    directory: Directory
    histories: Histories
    recorder: Recorder = UNRECORDED


_numbers = itertools.count(1)


class Engine:
    """A version that answers. address: host:port of its Triton, or of several. number: no other
    engine of this process has it; in a worker it is that of the engine which it follows.
    """

    def __init__(
        self,
        version: int,
        predictor: ModelPredictor,
        vectors: ItemVectors,
        backend: TritonBackend | Fleet,
        triton: TritonProcess | None,
        address: str,
        model: Model,
        number: int | None = None,
    ) -> None:
        self._model = model
        self.version, self.address = version, address
        self.number = next(_numbers) if number is None else number
        self._predictor, self._vectors = predictor, vectors
        self._backend, self._triton = backend, triton
        self._calls, self._idle = 0, asyncio.Event()
        self._idle.set()

    @classmethod
    async def start(cls, tritons: Tritons, shared: Shared, version: int) -> "Engine":
        """Start a Triton and adopt a version there. Raises StartupError, and Refused when the
        version must not serve."""
        if tritons.several is not None:
            fleet = await Fleet.adopt(tritons.repository, version, tritons.several)
            address = ", ".join(tritons.several.status.addresses)
            return cls._of(version, fleet.model, shared, fleet, address)
        process = await tritons.start()
        backend: TritonBackend | None = None
        try:
            address = tritons.address(process)
            backend = await TritonBackend.connect(address, repository=tritons.repository)
            model = await adopt(tritons.repository, version, backend)
        except BaseException as error:
            died = process is not None and await _died(process, error)
            async with AsyncExitStack() as stack:
                if process is not None:
                    stack.push_async_callback(lambda: asyncio.shield(process.kill()))
                if backend is not None:
                    stack.push_async_callback(backend.close)
                    if process is None:
                        await backend.put_back()
            if died:
                raise TritonDied(f"Triton ended while version {version} was loaded") from error
            raise
        return cls._of(version, model, shared, backend, address, triton=process)

    @classmethod
    async def attach(
        cls,
        repository: Path,
        version: int,
        addresses: Addresses,
        shared: Shared,
        *,
        number: int,
        rotation: Mapping[str, bool],
    ) -> "Engine":
        """A version that another process has adopted, on Tritons that are that process's to look
        after. rotation: of several addresses, as in `follow`. Raises StartupError, Refused, and
        what Scoring.infer raises."""
        backend: TritonBackend | Fleet
        if rotation:
            backend = fleet = await Fleet.attach(repository, version, addresses, rotation)
            model = fleet.model
        else:
            manifest, tokeniser = await check(repository, version)
            [address] = addresses.status.addresses
            backend = await TritonBackend.connect(address, repository=repository)
            model = Model(manifest, tokeniser, backend)
        try:
            await model.try_behavior(timeout_s=_ATTACH_S)
        except BaseException:
            await backend.close()
            raise
        address = ", ".join(addresses.status.addresses)
        return cls._of(version, model, shared, backend, address, number=number)

    @classmethod
    def _of(
        cls,
        version: int,
        model: Model,
        shared: Shared,
        backend: TritonBackend | Fleet,
        address: str,
        *,
        triton: TritonProcess | None = None,
        number: int | None = None,
    ) -> "Engine":
        directory, recorder = shared.directory, shared.recorder
        model.record(recorder)  # from now on: not the replay of its goldens
        vectors = ItemVectors(model, directory, recorder=recorder)
        predictor = ModelPredictor(model, vectors, directory, shared.histories, recorder=recorder)
        return cls(version, predictor, vectors, backend, triton, address, model, number)

    @classmethod
    async def first_that_passes(
        cls,
        tritons: Tritons,
        shared: Shared,
        versions: Iterable[int],
        status: AdoptionStatus,
    ) -> "Engine":
        """The first of the versions that may serve; the status is told of those that may not.
        Raises StartupError when none may."""
        for version in versions:
            try:
                return await cls.start_patiently(tritons, shared, version)
            except Refused as error:
                _log.error("version %d is refused: %s", version, error)
                status.refused(version, Refusal(error.reason, str(error)))
        told = "; ".join(f"version {v}: {why.sentence}" for v, why in status.refusals.items())
        raise StartupError(
            f"no published version in {tritons.repository} can serve ({told}): publish one with"
            " `platform build-model`"
        )

    @classmethod
    async def start_patiently(
        cls, tritons: Tritons, shared: Shared, version: int, *, outliving: bool = False
    ) -> "Engine":
        """As `start`, in several attempts where a busy machine may have been the cause. outliving:
        also where Triton ended meanwhile."""
        for pause_s in _AGAIN_S:
            try:
                return await cls.start(tritons, shared, version)
            except (Refused, TritonDied) as error:
                if not (outliving if isinstance(error, TritonDied) else error.reason == "replay"):
                    raise
                _log.warning("version %d is tried again in %g s: %s", version, pause_s, error)
            await asyncio.sleep(pause_s)
        return await cls.start(tritons, shared, version)

    async def take_over(self, other: "Engine") -> None:
        """Get ready for the calls of another engine; takes _TAKE_OVER_S at most."""
        await self._vectors.take_over(other._vectors, timeout_s=_TAKE_OVER_S)

    async def ended(self) -> int:
        """Wait for its Triton to end; returns the exit status. Forever where it is elsewhere."""
        if self._triton is None:
            await asyncio.get_running_loop().create_future()
            raise AssertionError
        return await self._triton.wait()

    async def watch(
        self, status: TritonStatus, able: Callable[[bool], None], *, on_trial: bool = False
    ) -> None:
        """As Probe.run; forever where its Triton is elsewhere. on_trial: as of Fleet.watch."""
        if isinstance(self._backend, Fleet):
            await self._backend.watch(status, able, on_trial=on_trial)
            return
        parts, own = parts_of(self._model), self._triton is not None
        again = partial(replay, self._model)
        await Probe(self._backend, parts, again, status, able, own=own).run()

    def give_up(self, model: str) -> None:
        """Fail the calls to a model that hang, as TritonBackend.give_up."""
        if isinstance(self._backend, TritonBackend):
            self._backend.give_up(model)

    @property
    def rotation(self) -> dict[str, bool]:
        """Which of several Tritons take calls, by address; empty where there is one."""
        return self._backend.rotation if isinstance(self._backend, Fleet) else {}

    def follow(self, rotation: Mapping[str, bool]) -> None:
        """Of several Tritons, call those that another process says take calls."""
        if isinstance(self._backend, Fleet):
            self._backend.follow(rotation)

    def eject(self, address: str) -> None:
        """As Fleet.eject, where it has several Tritons."""
        if isinstance(self._backend, Fleet):
            self._backend.eject(address)

    async def kill(self) -> None:
        """End its Triton if it is its own; `ended` returns then."""
        if self._triton is not None:
            await self._triton.kill()

    async def close(self) -> None:
        """Keep what was encoded, let go of the Triton, and stop it if it is its own."""
        async with AsyncExitStack() as stack:  # whatever fails, no server is left
            if self._triton is not None:
                stack.push_async_callback(self._triton.stop)
            stack.push_async_callback(self._backend.close)
            await self._vectors.close()

    async def retire(self) -> None:
        """Close it once its calls have ended."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _RETIRE_S)
        await self.close()

    @property
    def prior(self) -> PriorPredictor:
        """What answers in its place while its Triton is away; outlives it."""
        return self._predictor.prior

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        """As Predictor.predict."""
        self._calls += 1
        self._idle.clear()
        try:
            return await self._predictor.predict(query, timeout_s=timeout_s)
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()


async def _died(process: TritonProcess, error: BaseException) -> bool:
    """Whether a server ended by itself, which a failed load or replay may be the first sign of."""
    if not isinstance(error, StartupError) and not (
        isinstance(error, Refused) and error.reason in ("load", "replay")
    ):
        return False
    try:
        await asyncio.wait_for(process.wait(), _DEATH_S)
    except TimeoutError:
        return False
    return True


def _nothing() -> None:
    pass


class Switch:
    """Answers with the engine that is there, or some people with the one on trial. While there is
    none or it is off, with the base rates of the last one where they will do; else UNAVAILABLE."""

    trial: Trial | None = None
    prior: PriorPredictor | None = None  # of the engine that was closed
    off = False

    def __init__(
        self,
        recorder: Recorder = UNRECORDED,
        *,
        changed: Callable[[], None] = _nothing,
        released: Callable[[Engine], Awaitable[None]] | None = None,
    ) -> None:
        """changed: called when there is another engine or trial. released: waits until nobody else
        calls the Triton of an engine that was replaced."""
        self._recorder = recorder
        self.histories = Histories()
        """For all its engines: whoever answers next may need what another one has read."""
        self._changed, self._released = changed, released
        self._engine: Engine | None = None
        self._trial_engine: Engine | None = None
        self._retiring: dict[asyncio.Task[None], Engine] = {}

    @property
    def engine(self) -> Engine | None:
        """What answers."""
        return self._engine

    @engine.setter
    def engine(self, engine: Engine | None) -> None:
        self._engine = engine
        self._changed()

    @property
    def held(self) -> tuple[int, ...]:
        """Numbers of all engines that are called, or may still be."""
        engines = (self._engine, self._trial_engine, *self._retiring.values())
        return tuple(engine.number for engine in engines if engine is not None)

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        """As Predictor.predict."""
        made = await self._predict(query, timeout_s=timeout_s)
        self._recorder.answer(made.evidence.level, made.evidence.reason)
        return made

    async def _predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        engine = self.engine
        if engine is not None and not self.off:
            if self.trial is None:
                return await engine.predict(query, timeout_s=timeout_s)
            return await self._try(self.trial, engine, query, timeout_s)
        prior = self.prior if engine is None else engine.prior
        if prior is None:
            raise Unavailable("no model is loaded")
        return await prior.predict(query, timeout_s=timeout_s)

    async def _try(
        self, trial: Trial, engine: Engine, query: PredictQuery, timeout_s: float
    ) -> Prediction:
        began = time.monotonic()
        if (answer := await trial.predict(query, timeout_s=timeout_s)) is not None:
            return answer
        left_s = timeout_s - (time.monotonic() - began)
        serving = self._engine or engine  # it may have been replaced meanwhile
        answer = await serving.predict(query, timeout_s=left_s)
        trial.compare(query, answer)
        return answer

    async def put_on_trial(self, trial: Trial | None, engine: Engine | None) -> None:
        """Try a version, or none; the one before ends with its calls. engine: the trial's."""
        old, old_engine = self.trial, self._trial_engine
        self.trial, self._trial_engine = trial, engine
        if old_engine is not None and old_engine is not engine:
            self._retire(old_engine)
        self._changed()
        if old is not None:
            await old.close()

    def adjust_trial(self, share: float, shadow: float) -> None:
        """Let the version on trial answer so many, from now on."""
        assert self.trial is not None  # noqa: S101 - there is one to adjust
        self.trial.share, self.trial.shadow = share, shadow
        self._changed()

    @property
    def trial_engine(self) -> Engine | None:
        """The engine of the version on trial."""
        return self._trial_engine

    def forget(self) -> None:
        """What somebody's events may be used for has become less: drop the copies of histories."""
        self.histories.clear()

    def replace(self, engine: Engine) -> None:
        """Take new calls to another engine; the one before ends with its calls."""
        if self._engine is not None:
            self._retire(self._engine)
        self.engine = engine

    def _retire(self, old: Engine) -> None:
        task = asyncio.create_task(self._let_go(old))
        self._retiring[task] = old
        task.add_done_callback(self._retired)

    async def _let_go(self, old: Engine) -> None:
        if self._released is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._released(old), _RETIRE_S)
        await old.retire()

    def _retired(self, task: asyncio.Task[None]) -> None:
        del self._retiring[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("an engine that was replaced did not close cleanly", exc_info=error)
        self._changed()

    async def take_out(self) -> None:
        """Close the engine; what was replaced before goes on to its end."""
        engine, self.engine = self.engine, None
        if engine is not None:
            self.prior = engine.prior
            await engine.close()

    async def close(self) -> None:
        """Take the engine out, and wait for those before it."""
        await self.take_out()
        await asyncio.gather(*self._retiring, return_exceptions=True)

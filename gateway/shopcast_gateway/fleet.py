"""One version on several Tritons that are elsewhere: who takes calls, and who comes back when."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shopcast_domain.manifest import BEHAVIOR, ENCODER
from shopcast_gateway.backend.balanced import BalancedBackend, Member
from shopcast_gateway.backend.rotation import Ejected, Moved, RotationStatus
from shopcast_gateway.backend.triton import TritonBackend
from shopcast_gateway.core.adoption import Refused, check, load_and_replay, replay
from shopcast_gateway.core.model import CALLS, Model
from shopcast_gateway.errors import GatewayError, StartupError
from shopcast_gateway.probe import LIMIT_S, Probe, parts_of
from shopcast_gateway.triton.status import Repaired, Restarted, TritonStatus

STRAGGLERS_S = 30.0
"""How long the others are waited for once a version has passed on one."""
FIRST_PAUSE_S = 1.0
"""Before a server that takes no calls is tried again; each pause is twice the one before,"""
LONGEST_PAUSE_S = 8.0
"""up to this."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Several Tritons. hedge_after_s: as of BalancedBackend."""

    status: RotationStatus
    hedge_after_s: float | None = None


class Seat:
    """A server of a fleet. alone: the version as this server answers. whole: both models do."""

    def __init__(self, member: Member, backend: TritonBackend, alone: Model) -> None:
        self.member, self.backend, self.alone = member, backend, alone
        self.whole = False

    async def adopt(self) -> None:
        """Load the version, replay its goldens, and join. Raises Refused, StartupError."""
        await self.backend.check_live()
        await load_and_replay(self.alone, self.backend)
        self._join()

    async def readmit(self) -> None:
        """As `adopt`, and nothing is loaded where the models answer."""
        try:
            await self.alone.try_behavior(timeout_s=LIMIT_S)
            await self.alone.try_encoder(timeout_s=LIMIT_S)
            await replay(self.alone)
        except (GatewayError, Refused):
            await self.adopt()
        else:
            self._join()

    def leave(self) -> None:
        """Take no calls; those that hang are asked elsewhere."""
        self.member.leave()
        for model in (ENCODER, BEHAVIOR):
            self.backend.give_up(model)

    def _join(self) -> None:
        self.whole = True
        self.member.join()


class Fleet:
    """Several Tritons that answer for one version. model: scored by whichever takes the call."""

    def __init__(
        self, seats: Sequence[Seat], balanced: BalancedBackend, model: Model, status: RotationStatus
    ) -> None:
        self.model = model
        self._seats, self._balanced, self._status = seats, balanced, status
        self._adopting: dict[Seat, asyncio.Task[None]] = {}
        self._health: TritonStatus | None = None  # told of while it is watched
        self._tell_able: Callable[[bool], None] | None = None
        self._able, self._on_trial = True, False

    @classmethod
    async def adopt(cls, repository: Path, version: int, addresses: Addresses) -> "Fleet":
        """Take a version up wherever it passes.

        Raises Refused where it passes on none that answers, StartupError where none answers.
        """
        fleet = await cls._of(repository, version, addresses)
        try:
            await fleet._adopt()
        except BaseException:
            await asyncio.gather(*(seat.backend.put_back() for seat in fleet._seats))
            await fleet.close()
            raise
        return fleet

    @classmethod
    async def attach(
        cls, repository: Path, version: int, addresses: Addresses, rotation: Mapping[str, bool]
    ) -> "Fleet":
        """A version that another process has taken up, and looks after. rotation: as in `follow`.
        Raises Refused."""
        fleet = await cls._of(repository, version, addresses)
        fleet.follow(rotation)
        return fleet

    @classmethod
    async def _of(cls, repository: Path, version: int, addresses: Addresses) -> "Fleet":
        """None of its servers takes calls yet. Raises Refused."""
        manifest, tokeniser = await check(repository, version)
        seats = []
        for address in addresses.status.addresses:
            backend = TritonBackend.open(address, repository=repository)
            alone = Model(manifest, tokeniser, backend)
            seats.append(Seat(Member(address, backend), backend, alone))
        status = addresses.status
        balanced = BalancedBackend(
            [seat.member for seat in seats], status, hedge_after_s=addresses.hedge_after_s
        )
        model = Model(manifest, tokeniser, balanced, calls=lambda: CALLS * max(1, balanced.up))
        return cls(seats, balanced, model, status)

    @property
    def rotation(self) -> dict[str, bool]:
        """Who takes calls, by address."""
        return {seat.member.address: seat.member.up for seat in self._seats}

    def follow(self, rotation: Mapping[str, bool]) -> None:
        """Let those take calls that may, by address, and no others."""
        for seat in self._seats:
            up = rotation.get(seat.member.address, False)
            if up and not seat.member.up:
                seat.member.join()
            elif seat.member.up and not up:
                seat.leave()

    def eject(self, address: str) -> None:
        """Take a server out that failed calls of another process, unless it is the last one."""
        for seat in self._seats:
            if seat.member.address == address and seat.member.up and self._balanced.up > 1:
                _log.error("%s is ejected: a worker's calls to it failed", address)
                seat.leave()
                self._status.tell(Ejected(address))

    async def watch(
        self, health: TritonStatus, able: Callable[[bool], None], *, on_trial: bool = False
    ) -> None:
        """Let everyone take calls who answers, and nobody else; forever. able: as for Probe.
        on_trial: the version does not serve."""
        self._health, self._tell_able, self._on_trial = health, able, on_trial
        keeping = [asyncio.create_task(self._keep(seat)) for seat in self._seats]
        try:
            await asyncio.gather(*keeping)
        finally:
            self._health = self._tell_able = None
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)

    async def close(self) -> None:
        """Close every channel."""
        for task in self._adopting.values():
            task.cancel()
        await asyncio.gather(*self._adopting.values(), return_exceptions=True)
        await self._balanced.close()

    async def _adopt(self) -> None:
        self._adopting = {seat: asyncio.create_task(seat.adopt()) for seat in self._seats}
        waiting, patience_s = set(self._adopting.values()), None
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return
            if self._balanced.up:
                patience_s = STRAGGLERS_S
        if self._balanced.up:
            return
        errors = [task.exception() for task in self._adopting.values()]
        for error in errors:
            if error is not None and not isinstance(error, StartupError):
                raise error
        names = ", ".join(seat.member.address for seat in self._seats)
        raise StartupError(
            f"No Triton server answers at any of {names}: start one or correct the addresses"
        )

    async def _keep(self, seat: Seat) -> None:
        attempt = self._adopting.pop(seat, None)
        while True:
            self._tell(seat)
            if not seat.member.up:
                await self._wait_for(seat, attempt)
                self._tell(seat)
            attempt = None
            await self._watch(seat)
            _log.error("%s takes no calls until it answers again", seat.member.address)

    async def _wait_for(self, seat: Seat, attempt: "asyncio.Task[None] | None") -> None:
        """Until a server may take calls again."""
        pause_s, said = FIRST_PAUSE_S, ""
        while True:
            try:
                if attempt is None:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                await (attempt or seat.readmit())
                break
            except (Refused, StartupError, GatewayError) as error:
                if str(error) != said:  # said once, not with every try
                    said = str(error)
                    _log.warning("%s takes no calls: %s", seat.member.address, error)
            except Exception:  # no threads, no file handles: the others go on being watched
                _log.exception("%s could not be tried", seat.member.address)
            attempt = None
        _log.info("%s takes calls", seat.member.address)

    async def _watch(self, seat: Seat) -> None:
        """Until a server takes no calls any more: it was ejected, or a probe of it failed."""

        def able(answers: bool) -> None:
            if not answers:
                seat.leave()

        parts, again = parts_of(seat.alone), partial(replay, seat.alone)
        probe = Probe(seat.backend, parts, again, self._status_of(seat), able, own=False)
        tasks = {
            asyncio.create_task(probe.run()),
            asyncio.create_task(seat.member.left.wait()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _status_of(self, seat: Seat) -> TritonStatus:
        def tell(now: TritonStatus, change: Repaired | Restarted | None) -> None:
            seat.whole = now.up
            if isinstance(change, Repaired) and self._health is not None:
                self._health.repaired(change.model, hung=change.hung)
            self._tell(seat)

        return TritonStatus(up=True, listeners=[tell])

    def _tell(self, seat: Seat) -> None:
        """Say who takes calls, and whether predictions can be made."""
        if self._health is None or self._tell_able is None:
            return
        self._status.tell(Moved(seat.member.address, seat.member.up, self._on_trial))
        whole = any(one.whole and one.member.up for one in self._seats)
        if whole != self._health.up:
            self._health.set_up(whole)
        able = self._balanced.up > 0
        if able != self._able:
            self._able = able
            self._tell_able(able)

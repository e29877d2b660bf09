"""Callers of a gateway, in closed and in open loops, and what became of their calls."""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shopcast.v1 import event_service_pb2, event_service_pb2_grpc, types_pb2
from shopcast.v1 import prediction_service_pb2 as pb
from shopcast.v1 import prediction_service_pb2_grpc as services

PATIENCE_S = 90.0
"""For what takes some seconds on a quiet machine."""
USERS = 20
SETTLED = 20
"""Good calls in a row after which all is well again."""
NOTICED_S = 2.5
"""After which it shows that somebody answers nobody: a second, where the machine is quiet."""
_PAUSE_S = 0.05  # of a caller that was not answered
_KINDS = ("purse", "lamp", "trail shoe", "kettle", "rain coat", "desk", "tent", "novel")
_LEVELS, _REASONS = pb.ServiceLevel, pb.LevelReason
FULL, NO_HISTORY, PRIOR = (
    _LEVELS.Value(f"SERVICE_LEVEL_{name}") for name in ("FULL", "NO_HISTORY", "PRIOR")
)

Request = Callable[[int], pb.PredictRequest | event_service_pb2.RecordEventsRequest]


def requests(*, items: int = 3, lowest_level: int = FULL, title: str = "") -> Request:
    """Makes the request of a number. Titles repeat, or are all the same where one is given: steady
    state encodes nothing."""

    def make(number: int) -> pb.PredictRequest:
        account = types_pb2.Account(platform="web", platform_user_id=f"u-{number % USERS}")
        offered = [
            types_pb2.Item(
                item_id=f"i-{at}", title=title or _KINDS[at % len(_KINDS)], price=10.0 + at % 90
            )
            for at in range(number % 7, number % 7 + items)
        ]
        return pb.PredictRequest(account=account, items=offered, lowest_level=lowest_level)

    ready = [make(number) for number in range(7 * USERS)]
    return lambda number: ready[number % len(ready)]


def unseen(*, items: int = 3) -> Request:
    """Makes requests whose every title is new, so that each is encoded."""
    numbers = itertools.count()

    def make(number: int) -> pb.PredictRequest:
        account = types_pb2.Account(platform="web", platform_user_id=f"u-{number % USERS}")
        offered = []
        for at in range(items):
            title = f"{_KINDS[at % len(_KINDS)]} of {time.monotonic_ns()} {next(numbers)}"
            offered.append(types_pb2.Item(item_id=f"i-{at}", title=title))
        return pb.PredictRequest(account=account, items=offered, lowest_level=FULL)

    return make


def recorded(*, events: int) -> Request:
    """Makes requests to record so many new events."""
    numbers = itertools.count(time.time_ns())

    def make(number: int) -> event_service_pb2.RecordEventsRequest:
        request = event_service_pb2.RecordEventsRequest()
        for at in range(events):
            event = request.events.add(event_id=f"e-{next(numbers)}")
            event.account.platform = "web"
            event.account.platform_user_id = f"many-{(number + at) % 5_000}"
            event.kind = types_pb2.EVENT_KIND_VIEW
            event.item.item_id = f"i-{at}"
            event.time.GetCurrentTime()
        return request

    return make


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call of the callers `who`. began, ended: seconds of time.monotonic.

    reason: why the level is not FULL, or the ErrorInfo of an error; "-" where there is none, as in
    what gRPC itself says. version: of the model that answered. retry_after_s: of RetryInfo.
    """

    who: str
    began: float
    ended: float
    status: str
    level: str = "-"
    reason: str = "-"
    version: str = ""
    retry_after_s: float | None = None

    @property
    def good(self) -> bool:
        """Answered, from everything there is."""
        return (self.status, self.level) == ("OK", "FULL")


class Clients:
    """Callers over several connections. outcomes: of all their calls, as they ended."""

    def __init__(self, address: str, *, channels: int = 4) -> None:
        self.outcomes: list[Outcome] = []
        # A pool of its own each: else they share one connection.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)]
        self._channels = [grpc.aio.insecure_channel(address, options) for _ in range(channels)]
        self._stubs = [services.PredictionServiceStub(channel) for channel in self._channels]
        self._events = [event_service_pb2_grpc.EventServiceStub(one) for one in self._channels]
        self._number = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    def of(self, who: str, *, since: float = 0.0) -> list[Outcome]:
        """The outcomes of some callers' calls that began since a time."""
        return [one for one in self.outcomes if one.who == who and one.began >= since]

    async def ask(self, who: str, request: Request, timeout_s: float) -> Outcome:
        """One call."""
        self._number += 1
        at, asked = self._number % len(self._stubs), request(self._number)
        began = time.monotonic()
        try:
            if isinstance(asked, pb.PredictRequest):
                told = (await self._stubs[at].Predict(asked, timeout=timeout_s)).evidence
            else:
                await self._events[at].RecordEvents(asked, timeout=timeout_s)
                told = pb.Evidence(level=FULL)
        except grpc.aio.AioRpcError as error:
            outcome = _failed(who, began, error)
        else:
            outcome = Outcome(
                who,
                began,
                time.monotonic(),
                "OK",
                _LEVELS.Name(told.level).removeprefix("SERVICE_LEVEL_"),
                _REASONS.Name(told.level_reason).removeprefix("LEVEL_REASON_")
                if told.level_reason
                else "-",
                told.model_version,
            )
        self.outcomes.append(outcome)
        return outcome

    @asynccontextmanager
    async def closed(
        self, who: str, request: Request, *, callers: int, timeout_s: float
    ) -> AsyncIterator[None]:
        """Callers that each ask again when they are answered, for as long as the body runs."""
        stop = False

        async def caller() -> None:
            while not stop:
                if (await self.ask(who, request, timeout_s)).status != "OK":
                    await asyncio.sleep(_PAUSE_S)

        tasks = [asyncio.create_task(caller()) for _ in range(callers)]
        try:
            yield
        finally:
            stop = True
            await asyncio.gather(*tasks)

    async def open(
        self,
        who: str,
        request: Request,
        *,
        rate: float,
        calls: int,
        timeout_s: Callable[[int], float],
    ) -> None:
        """So many calls, `rate` of them a second, whatever becomes of them."""
        began, tasks = time.monotonic(), []
        for number in range(calls):
            tasks.append(asyncio.create_task(self.ask(who, request, timeout_s(number))))
            await asyncio.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))
        await asyncio.gather(*tasks)

    async def crowd(self, request: Request, *, seconds: float) -> list[Outcome]:
        """More callers than there is room for if they all waited, who have a second each; returns
        the outcomes since it could be noticed that nobody is answered."""
        began, rate = time.monotonic(), 120.0
        await self.open(
            "crowd", request, rate=rate, calls=int(rate * seconds), timeout_s=lambda _: 1.0
        )
        return self.of("crowd", since=began + NOTICED_S)

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        """Wait for something, while callers go on."""
        end = time.monotonic() + PATIENCE_S
        while not await asyncio.to_thread(holds):
            assert time.monotonic() < end, f"{what}: not within {PATIENCE_S:.0f} s"
            await asyncio.sleep(0.1)

    async def until_good(self, who: str, since: float) -> float:
        """Wait until calls that began since a time are all good again; returns how long it took,
        in seconds."""
        await self.until(
            lambda: _good_since(self.of(who, since=since)) is not None, f"{who}: all is well again"
        )
        found = _good_since(self.of(who, since=since))
        assert found is not None
        return found - since


def _good_since(outcomes: Sequence[Outcome]) -> float | None:
    """When the last that was not good ended, if enough have been good since."""
    bad = max((one.ended for one in outcomes if not one.good), default=0.0)
    good = [one for one in outcomes if one.good and one.began >= bad]
    if len(good) < SETTLED:
        return None
    return bad or min(one.began for one in good)


def _failed(who: str, began: float, error: grpc.aio.AioRpcError) -> Outcome:
    ended, reason, retry_after_s = time.monotonic(), "-", None
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return Outcome(who, began, ended, error.code().name, reason=reason, retry_after_s=retry_after_s)


def statuses(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many ended with which status."""
    counts: dict[str, int] = defaultdict(int)
    for one in outcomes:
        counts[one.status] += 1
    return dict(counts)


def quantile_ms(outcomes: Iterable[Outcome], share: float) -> float:
    """How long calls took, in milliseconds."""
    took = sorted(one.ended - one.began for one in outcomes)
    return took[min(int(share * len(took)), len(took) - 1)] * 1000


def table(title: str, outcomes: Iterable[Outcome], *remarks: str) -> str:
    """What callers saw, as text: a row per status, level and reason."""
    groups: dict[tuple[str, ...], list[Outcome]] = defaultdict(list)
    for one in outcomes:
        groups[one.who, one.status, one.level, one.reason].append(one)
    head = ("callers", "status", "level", "reason", "calls", "p50 ms", "p99 ms")
    rows = [
        (
            *key,
            str(len(found)),
            f"{quantile_ms(found, 0.5):.0f}",
            f"{quantile_ms(found, 0.99):.0f}",
        )
        for key, found in sorted(groups.items())
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if at > 3 else text.ljust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    return "\n".join((title, *(f"  {line.rstrip()}" for line in (*lines, *remarks))))

"""How long the stages of a prediction take, and what else is counted, whoever keeps the counts."""

import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Literal, NamedTuple, Protocol, get_args

from shopcast_gateway.core.protocol import Level, Reason

Stage = Literal["admission", "look_up", "tokenise", "queue", "encode", "score"]
"""admission: until its turn comes. look_up: in the directory. tokenise: item texts. queue: until a
batch starts. encode, score: a call to the model server."""
STAGES: tuple[Stage, ...] = get_args(Stage)
Place = Literal["memory", "store"]
PLACES: tuple[Place, ...] = get_args(Place)
Source = Literal["memory", "store", "encoded"]
SOURCES: tuple[Source, ...] = get_args(Source)
Refuser = Literal["early", "rows", "bulk", "deadline", "texts", "events"]
"""early: no room, before the request was read. rows: no room. bulk: no room for bulk work.
deadline: at this pace it would be late. texts: too many item texts wait to be encoded, or to be in
time. events: too many wait to be recorded, or to be in time."""
REFUSERS: tuple[Refuser, ...] = get_args(Refuser)
_MOST_PARTS = 100


class Recorder(Protocol):
    """Is told of predictions, from the event loop: each of these must be quick."""

    def stage(self, stage: Stage, duration_s: float) -> None:
        """A stage has ended; of what goes as a batch, once for the batch."""
        ...

    def batch(self, model: str, rows: int, late: int) -> None:
        """A batch starts. late: how many of its rows had no time left then."""
        ...

    def items(self, place: Place, count: int) -> None:
        """Where so many items of predictions were read."""
        ...

    def vectors(self, source: Source, count: int) -> None:
        """Where so many item vectors came from."""
        ...

    def answer(self, level: Level, reason: Reason | None) -> None:
        """A prediction was made."""
        ...

    def refusal(self, by: Refuser) -> None:
        """A call was refused because we are full."""
        ...

    def admitted(self, rows: int) -> None:
        """How many rows run or wait now."""
        ...


class Unrecorded:
    """Keeps nothing."""

    def stage(self, stage: Stage, duration_s: float) -> None:
        """As Recorder.stage."""

    def batch(self, model: str, rows: int, late: int) -> None:
        """As Recorder.batch."""

    def items(self, place: Place, count: int) -> None:
        """As Recorder.items."""

    def vectors(self, source: Source, count: int) -> None:
        """As Recorder.vectors."""

    def answer(self, level: Level, reason: Reason | None) -> None:
        """As Recorder.answer."""

    def refusal(self, by: Refuser) -> None:
        """As Recorder.refusal."""

    def admitted(self, rows: int) -> None:
        """As Recorder.admitted."""


UNRECORDED = Unrecorded()


class Interval(NamedTuple):
    """When a stage ran: nanoseconds since the epoch."""

    stage: Stage
    began_ns: int
    ended_ns: int

    @classmethod
    def ended_now(cls, stage: Stage, duration_s: float) -> "Interval":
        """One that ends now."""
        now_ns = time.time_ns()
        return cls(stage, now_ns - round(duration_s * 1e9), now_ns)

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return (self.ended_ns - self.began_ns) / 1e9


class Spent:
    """What one request, one batch, or a call of several requests has spent.

    traceparent: of the trace it belongs to, as W3C Trace Context has it.
    """

    __slots__ = ("_alongside", "_parts", "own", "traceparent")

    def __init__(self, traceparent: str | None = None) -> None:
        self.traceparent = traceparent
        self.own: list[Interval] = []
        self._alongside: dict[str, dict[Stage, Interval]] = {}
        self._parts: list[Spent] = []

    def part(self) -> "Spent":
        """What one request of a call spends. A stream has no end: only the first are kept."""
        part = Spent(self.traceparent)
        if len(self._parts) < _MOST_PARTS:
            self._parts.append(part)
        return part

    def add(self, stage: Stage, duration_s: float) -> None:
        """A stage that ends now."""
        self.own.append(Interval.ended_now(stage, duration_s))

    def waited(self, group: str, intervals: Iterable[Interval]) -> None:
        """Of parts of one group, which run at the same time, the longest counts."""
        longest = self._alongside.setdefault(group, {})
        for one in intervals:
            if one.stage not in longest or longest[one.stage].duration_s < one.duration_s:
                longest[one.stage] = one

    def intervals(self) -> Iterator[Interval]:
        """All that counts, parts included."""
        yield from self.own
        for group in self._alongside.values():
            yield from group.values()
        for part in self._parts:
            yield from part.intervals()

    def total(self) -> dict[Stage, float]:
        """Seconds by stage, in the order of STAGES; without stages that did not occur."""
        spent: dict[Stage, float] = {}
        for one in self.intervals():
            spent[one.stage] = spent.get(one.stage, 0.0) + one.duration_s
        return {stage: spent[stage] for stage in STAGES if stage in spent}


SPENT: ContextVar[Spent | None] = ContextVar("shopcast_spent", default=None)
"""Where what runs now adds what it spends; None where nobody wants to know."""


class timed:  # noqa: N801 - a context manager, read like a function
    """Adds what its body takes to SPENT, and tells a recorder."""

    __slots__ = ("_began", "_recorder", "_stage")

    def __init__(self, stage: Stage, recorder: Recorder = UNRECORDED) -> None:
        self._stage, self._recorder, self._began = stage, recorder, 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        duration_s = time.perf_counter() - self._began
        self._recorder.stage(self._stage, duration_s)
        if (spent := SPENT.get()) is not None:
            spent.add(self._stage, duration_s)

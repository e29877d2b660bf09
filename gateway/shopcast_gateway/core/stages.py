"""How long the stages of a prediction take, and what else is counted, whoever keeps the counts."""

import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Literal, Protocol, get_args

from shopcast_gateway.core.protocol import Level, Reason

Stage = Literal["admission", "look_up", "tokenise", "queue", "encode", "score"]
"""admission: until its turn comes. look_up: in the directory. tokenise: item texts. queue: until a
batch starts. encode, score: a call to the model server."""
STAGES: tuple[Stage, ...] = get_args(Stage)
Source = Literal["memory", "store", "encoded"]
SOURCES: tuple[Source, ...] = get_args(Source)
Refuser = Literal["early", "rows", "bulk", "texts"]
"""early: no room, before the request was read. rows: no room. bulk: no room for bulk work. texts:
too many item texts wait to be encoded."""
REFUSERS: tuple[Refuser, ...] = get_args(Refuser)


class Recorder(Protocol):
    """Is told of predictions, from the event loop: each of these must be quick."""

    def stage(self, stage: Stage, duration_s: float) -> None:
        """A stage has ended; of what goes as a batch, once for the batch."""
        ...

    def batch(self, model: str, rows: int, late: int) -> None:
        """A batch starts. late: how many of its rows had no time left then."""
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


class Unrecorded:
    """Keeps nothing."""

    def stage(self, stage: Stage, duration_s: float) -> None:
        """As Recorder.stage."""

    def batch(self, model: str, rows: int, late: int) -> None:
        """As Recorder.batch."""

    def vectors(self, source: Source, count: int) -> None:
        """As Recorder.vectors."""

    def answer(self, level: Level, reason: Reason | None) -> None:
        """As Recorder.answer."""

    def refusal(self, by: Refuser) -> None:
        """As Recorder.refusal."""


UNRECORDED = Unrecorded()


class Spent:
    """What one request, or one batch, has spent: seconds by stage."""

    __slots__ = ("_alongside", "stages")

    def __init__(self) -> None:
        self.stages: dict[Stage, float] = {}
        self._alongside: dict[str, dict[Stage, float]] = {}

    def add(self, stage: Stage, duration_s: float) -> None:
        """After what was before it."""
        self.stages[stage] = self.stages.get(stage, 0.0) + duration_s

    def waited(self, group: str, stages: Mapping[Stage, float]) -> None:
        """Of parts of one group, which run at the same time, the longest counts."""
        longest = self._alongside.setdefault(group, {})
        for stage, duration_s in stages.items():
            longest[stage] = max(longest.get(stage, 0.0), duration_s)

    def total(self) -> dict[Stage, float]:
        """All of it, in the order of STAGES; without stages that did not occur."""
        parts = (self.stages, *self._alongside.values())
        return {
            stage: sum(part.get(stage, 0.0) for part in parts)
            for stage in STAGES
            if any(stage in part for part in parts)
        }


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

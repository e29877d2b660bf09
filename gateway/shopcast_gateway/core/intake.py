"""How many events may wait to be recorded: what is more is refused at once, to be sent again."""

from collections.abc import Sequence
from typing import Protocol

from shopcast_domain.events import Event
from shopcast_gateway.core.room import Room
from shopcast_gateway.core.stages import UNRECORDED, Recorder
from shopcast_gateway.directory.types import RecordResult
from shopcast_gateway.errors import Overloaded

MAX_EVENTS = 50_000
CALL_EVENTS = 4
"""What a call costs besides its events, in events."""
_FEW = 200


class Recording(Protocol):
    """What is needed of a Directory, and does what it does there."""

    async def record(self, events: Sequence[Event]) -> RecordResult:
        """Keep events, all or none."""
        ...


class Intake:
    """Lets events be recorded that will be on disk in time. Refused ones are not: the caller knows,
    and sends them again. max_events: of all that wait, a call taken for CALL_EVENTS more."""

    def __init__(
        self,
        directory: Recording,
        *,
        max_events: int = MAX_EVENTS,
        recorder: Recorder = UNRECORDED,
    ) -> None:
        self._directory, self._recorder = directory, recorder
        self._room = Room("events", most=max_events, few=_FEW, smallest=CALL_EVENTS + 1)

    def early_refusal(self, waiting: int) -> Overloaded | None:
        """As Room.early_refusal."""
        if refusal := self._room.early_refusal(waiting):
            self._recorder.refusal("early")
        return refusal

    async def record(self, events: Sequence[Event], *, timeout_s: float) -> RecordResult:
        """As Directory.record; raises Overloaded before any work is done."""
        units = CALL_EVENTS + len(events)
        self._room.expect(timeout_s)
        if refusal := self._room.refusal(units, timeout_s=timeout_s):
            self._recorder.refusal("events")
            raise refusal
        with self._room.take(units):
            return await self._directory.record(events)

"""What becomes of a version that was promoted: adopted or refused."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from shopcast_gateway.core.adoption_status import AdoptionStatus, Change, Refusal


class Outcomes:
    """What has become of versions since it was made."""

    def __init__(self) -> None:
        self._found: dict[int, Refusal | None] = {}  # None: adopted
        self._changed = asyncio.Event()

    def tell(self, status: AdoptionStatus, change: Change) -> None:
        """As a listener of AdoptionStatus."""
        if isinstance(change, Refusal):
            self._found.update(
                {version: one for version, one in status.refusals.items() if one is change}
            )
        elif status.wanted is not None:
            self._found.pop(status.wanted, None)
            if status.wanted == status.serving:
                self._found[status.wanted] = None
        self._changed.set()
        self._changed = asyncio.Event()

    async def of(self, version: int) -> Refusal | None:
        """Why a version is refused, None where it is adopted; waits until either is known."""
        while version not in self._found:
            await self._changed.wait()
        return self._found[version]


@contextmanager
def following(status: AdoptionStatus) -> Iterator[Outcomes]:
    """What becomes of versions meanwhile: begin before the change that is to be followed."""
    outcomes = Outcomes()
    listener = outcomes.tell
    status.listeners.append(listener)
    try:
        yield outcomes
    finally:
        status.listeners.remove(listener)

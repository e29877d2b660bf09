"""Which of several model servers take calls, and what was done about those that failed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Did = Literal["retry", "hedge", "refused"]
"""A call was sent to another server because the first one failed or hung; because it was slow; or
was not, since the retry budget was used up."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A server takes calls from now on, or none. on_trial: those for the version on trial."""

    address: str
    up: bool
    on_trial: bool = False


@dataclass(frozen=True, slots=True)
class Ejected:
    """A server was taken out because calls to it failed."""

    address: str


Change = Did | Moved | Ejected


@dataclass(slots=True)
class RotationStatus:
    """addresses: of all servers. listeners: are told of what happens."""

    addresses: Sequence[str]
    listeners: list[Callable[[Change], None]] = field(default_factory=list)

    def tell(self, what: Change) -> None:
        """Something happened."""
        for listener in self.listeners:
            listener(what)

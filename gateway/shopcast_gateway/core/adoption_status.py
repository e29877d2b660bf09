"""Which version was asked for, which one serves, and why they differ if they do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a version must not serve. reason: a word that metrics count; sentence: for people."""

    reason: str
    sentence: str


Change = Refusal | Literal["wanted", "adopted"]


@dataclass(slots=True)
class AdoptionStatus:
    """wanted: the version that is to serve. serving: the one that does. refusals: by version.
    listeners: are told of every change, and which it is."""

    wanted: int | None = None
    serving: int | None = None
    refusals: dict[int, Refusal] = field(default_factory=dict)
    listeners: list[Callable[["AdoptionStatus", Change], None]] = field(default_factory=list)

    @property
    def refusal(self) -> str | None:
        """Why the version that is to serve does not."""
        if self.wanted is None or self.wanted == self.serving or self.wanted not in self.refusals:
            return None
        return f"version {self.wanted} is refused: {self.refusals[self.wanted].sentence}"

    def want(self, version: int) -> None:
        """A version is to serve."""
        self.wanted = version
        self._tell("wanted")

    def adopted(self, version: int) -> None:
        """A version serves from now on."""
        self.serving = version
        self.refusals.pop(version, None)
        self._tell("adopted")

    def refused(self, version: int, refusal: Refusal) -> None:
        """A version must not serve; what did goes on."""
        self.refusals[version] = refusal
        self._tell(refusal)

    def _tell(self, change: Change) -> None:
        for listener in self.listeners:
            listener(self, change)

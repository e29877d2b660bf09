"""Whether the model server answers, and what was done to make it answer."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Repaired:
    """A model that did not answer does so again, loaded anew. hung: calls that came before wait for
    what is no more."""

    model: str
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Restarted:
    """A server of our own was started in place of one that ended."""


@dataclass(slots=True)
class TritonStatus:
    """up: both models answer, as far as is known. listeners: are told of every change, and of what
    was done, if anything was."""

    up: bool = False
    listeners: list[Callable[["TritonStatus", Repaired | Restarted | None], None]] = field(
        default_factory=list
    )

    def set_up(self, up: bool) -> None:
        """Whether both models answer."""
        self.up = up
        self._tell(None)

    def repaired(self, model: str, *, hung: bool = False) -> None:
        """A model was loaded anew and answers. hung: as of Repaired."""
        self._tell(Repaired(model, hung))

    def restarted(self) -> None:
        """A server is started in place of one that ended."""
        self._tell(Restarted())

    def _tell(self, change: Repaired | Restarted | None) -> None:
        for listener in self.listeners:
            listener(self, change)

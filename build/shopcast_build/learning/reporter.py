"""Where progress goes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from shopcast_build.learning.examples import Progress


class Reporter(Protocol):
    """Shows progress, stage by stage."""

    def stage(self, title: str) -> AbstractContextManager[Progress]:
        """A stretch of work; the context's value takes (done, total)."""
        ...


class Silent:
    """A Reporter that says nothing."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Nothing is shown."""
        yield lambda done, total: None

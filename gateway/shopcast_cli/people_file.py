"""A file that grows person by person, and goes on where a kill stopped it."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shopcast_cli.console import fail


class PeopleFile:
    """One JSON object a line. Until it is whole it is `NAME.partial`, and `NAME.partial.json` says
    how far it got. Raises OSError.

    cursor: to ask for the next page with. people: how many are written. source: where people come
    from; what was written from elsewhere is begun anew.
    """

    def __init__(self, path: Path, source: str) -> None:
        self._path, self._source = path, source
        self._partial = path.with_name(path.name + ".partial")
        self._state = path.with_name(path.name + ".partial.json")
        self.cursor, self.people, self.finished = "", 0, False

    def __enter__(self) -> Self:
        size = 0
        with suppress(OSError, ValueError, KeyError, TypeError):  # else it begins anew
            state = json.loads(self._state.read_text("utf-8"))
            if state["source"] == self._source and self._partial.stat().st_size >= state["size"]:
                self.cursor, self.people, size = state["cursor"], state["people"], state["size"]
        # For the owner only: it holds what people did.
        descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._file = os.fdopen(descriptor, "r+b")
        self._file.truncate(size)  # what was not said to be written
        self._file.seek(size)
        return self

    def add(self, people: Sequence[dict[str, Any]], cursor: str) -> None:
        """Append a page; an empty cursor makes the file whole."""
        for person in people:
            self._file.write(json.dumps(person, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.cursor, self.people = cursor, self.people + len(people)
        if not cursor:
            self._partial.replace(self._path)
            self._state.unlink(missing_ok=True)
            self.finished = True
            return
        state = {
            "source": self._source,
            "cursor": cursor,
            "people": self.people,
            "size": self._file.tell(),
        }
        draft = self._state.with_name(self._state.name + ".new")
        draft.write_text(json.dumps(state), encoding="utf-8")
        draft.replace(self._state)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def write_person(path: Path, person: dict[str, Any]) -> None:
    """Write what is kept about one person, for the owner of the file only. Ends the command with
    one sentence where that fails."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)  # it may have been there
            json.dump(person, file, indent=1, ensure_ascii=False)
    except OSError as error:
        fail(f"{path} cannot be written ({error.strerror}): name another file with --output")

"""A file that grows person by person, and goes on where a kill stopped it."""

import fcntl
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BufferedRandom
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shopcast_cli.console import fail

if TYPE_CHECKING:
    from shopcast_gateway.directory.protocol import Directory

_PAGE = 500
_CHANGES = 5_000
_BEGINNINGS = 5


class PeopleFile:
    """One JSON object a line. Until it is whole it is `NAME.partial`, and `NAME.partial.json` says
    how far it got. Raises OSError; a folder ends the command with one sentence.

    cursor: to ask for the next page with. people: how many are written. journal: the number of the
    newest change of who is who when the first of them was. source: where people come from; what was
    written from elsewhere is begun anew.
    """

    def __init__(self, path: Path, source: str) -> None:
        if path.is_dir():
            fail(f"{path} is a folder: name a file with --output")
        self._path, self._source = path, source
        self._partial = path.with_name(path.name + ".partial")
        self._state = path.with_name(path.name + ".partial.json")
        self.cursor, self.people, self.journal, self.finished = "", 0, 0, False

    def __enter__(self) -> Self:
        self._file = self._sole()
        size = 0
        with suppress(OSError, ValueError, KeyError, TypeError):  # else it begins anew
            state = json.loads(self._state.read_text("utf-8"))
            there = os.fstat(self._file.fileno()).st_size
            if state["source"] == self._source and there >= state["size"]:
                self.cursor, self.people, self.journal, size = (
                    state[name] for name in ("cursor", "people", "journal", "size")
                )
        self._cut(size)  # what was not said to be written
        return self

    def _sole(self) -> BufferedRandom:
        """The partial file, open for this process alone. Another one that writes it ends the
        command with one sentence."""
        while True:
            # For the owner only: it holds what people did.
            descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            file = os.fdopen(descriptor, "r+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                fail(f"another export is writing {self._path}: wait for it, or name another file")
            # Whoever was first may have made it whole in between.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._partial.stat()):
                    return file
            file.close()

    def _cut(self, size: int) -> None:
        self._file.truncate(size)
        self._file.seek(size)

    def begin_anew(self) -> None:
        """Forget whom it holds."""
        self.cursor, self.people = "", 0
        self._cut(0)
        self._state.unlink(missing_ok=True)

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
            "journal": self.journal,
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


async def copy_people(
    directory: "Directory", file: PeopleFile, advance: Callable[[int], None]
) -> None:
    """Write who is not in the file yet, or everybody anew where it may hold somebody who was erased
    since it was begun; people who are erased all the time end the command with one sentence.
    advance: is told how many are written."""
    begun = 0
    while not file.finished:
        page, cursor = await directory.people(file.cursor, limit=_PAGE)
        # Asked after the page was read: whoever is erased from now on was there when it was.
        file.journal, erased = await _changes_since(directory, file.journal)
        if erased and (file.people or page):
            begun += 1
            if begun > _BEGINNINGS:
                fail("people are erased faster than everybody can be exported: try again later")
            file.begin_anew()
        else:
            file.add(page, cursor)
        advance(file.people)


async def _changes_since(directory: "Directory", number: int) -> tuple[int, bool]:
    """The number of the newest change of who is who, and whether one since erased somebody."""
    from shopcast_gateway.directory.types import ChangeKind

    erased = False
    while changes := await directory.changes(number, limit=_CHANGES):
        number = changes[-1].number
        erased |= any(change.kind is ChangeKind.ERASED for change in changes)
    return number, erased


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

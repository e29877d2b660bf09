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
    newest change of who is who that is known. changed: ids of people who were joined or parted
    since the file was begun. source: where people come from; what was
    written from elsewhere is begun anew.
    """

    def __init__(self, path: Path, source: str) -> None:
        if path.is_dir():
            fail(f"{path} is a folder: name a file with --output")
        self._path, self._source = path, source
        self._partial = path.with_name(path.name + ".partial")
        self._state = path.with_name(path.name + ".partial.json")
        self.cursor, self.people, self.journal, self.finished = "", 0, 0, False
        self.changed: set[str] = set()

    def __enter__(self) -> Self:
        self._file = self._sole()
        size = 0
        with suppress(OSError, ValueError, KeyError, TypeError):  # else it begins anew
            state = json.loads(self._state.read_text("utf-8"))
            there = os.fstat(self._file.fileno()).st_size
            if state["source"] == self._source and there >= state["size"]:
                self.changed = set(state["changed"])
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
        self.changed.clear()
        self._cut(0)
        self._state.unlink(missing_ok=True)

    def add(
        self,
        people: Sequence[dict[str, Any]],
        cursor: str,
        anew: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Append a page; an empty cursor makes the file whole. anew: who changed as they are now,
        in place of what was written of them; with the last page."""
        _write(self._file, people)
        self.cursor, self.people = cursor, self.people + len(people)
        if not cursor:
            if self.changed:
                self._rewrite(anew)
            self._partial.replace(self._path)
            self._state.unlink(missing_ok=True)
            self.finished = True
            return
        state = {
            "source": self._source,
            "cursor": cursor,
            "people": self.people,
            "journal": self.journal,
            "changed": sorted(self.changed),
            "size": self._file.tell(),
        }
        draft = self._state.with_name(self._state.name + ".new")
        draft.write_text(json.dumps(state), encoding="utf-8")
        draft.replace(self._state)

    def _rewrite(self, anew: Sequence[dict[str, Any]]) -> None:
        """Replace the partial file by one with those who changed as they are now."""
        gone = self.changed | {person["person_id"] for person in anew}
        draft = self._partial.with_name(self._partial.name + ".new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            self._file.seek(0)
            kept = 0
            for line in self._file:
                if json.loads(line)["person_id"] not in gone:
                    file.write(line)
                    kept += 1
            _write(file, anew)
        self.people = kept + len(anew)
        draft.replace(self._partial)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _write(file: BufferedRandom, people: Sequence[dict[str, Any]]) -> None:
    """Append people, and have them on disk."""
    for person in people:
        file.write(json.dumps(person, ensure_ascii=False).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


async def copy_people(
    directory: "Directory", file: PeopleFile, advance: Callable[[int], None]
) -> None:
    """Write who is not in the file yet, or everybody anew where it may hold somebody who was erased
    since it was begun; people who are erased all the time end the command with one sentence. Who
    was joined or parted since is written as they are at the end, so that each account is there
    once. advance: is told how many are written."""
    if not file.cursor:
        file.journal, _, _ = await _changes_since(directory, file.journal)
    begun = 0
    while not file.finished:
        page, cursor = await directory.people(file.cursor, limit=_PAGE)
        # Asked after the page was read: whoever changes from now on was there when it was.
        file.journal, changed, erased = await _changes_since(directory, file.journal)
        file.changed |= changed
        again: dict[str, dict[str, Any]] = {}
        waiting = set() if cursor else set(file.changed)
        while waiting and not erased:
            for known in waiting:
                again.pop(known, None)
                if person := await directory.export_found(known):
                    again[person["person_id"]] = person
            file.journal, waiting, erased = await _changes_since(directory, file.journal)
            file.changed |= waiting
        if erased:
            begun += 1
            if begun > _BEGINNINGS:
                fail("people are erased faster than everybody can be exported: try again later")
            file.begin_anew()
        else:
            file.add(page, cursor, [*again.values()])
        advance(file.people)


async def _changes_since(directory: "Directory", number: int) -> tuple[int, set[str], bool]:
    """The number of the newest change of who is who; whose ids those since are about, and whether
    one erased somebody, or may have: where the directory is an older state of what it was."""
    from shopcast_gateway.directory.types import ChangeKind
    from shopcast_gateway.errors import ChangesLost

    about: set[str] = set()
    erased = False
    while True:
        try:
            changes = await directory.changes(number, limit=_CHANGES)
        except ChangesLost:  # who was erased before may be back, and whom the file holds be gone
            number, erased = 0, True
            continue
        if not changes:
            return number, about, erased
        number = changes[-1].number
        for change in changes:
            about |= {change.person_id, change.other_person_id or change.person_id}
            erased |= change.kind is ChangeKind.ERASED


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

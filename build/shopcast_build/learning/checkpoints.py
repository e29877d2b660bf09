"""A build's folder: what it needs to go on after a kill, and its curves.

Every stage of training has a folder of its own within. While the stage runs it holds the Trainer's
checkpoints; once it is done, only the weights it ended with.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shopcast_build.data.disk import writing
from shopcast_build.data.errors import DataError
from shopcast_build.learning import processes
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.tracking import Tracker, open_trackers
from shopcast_domain.manifest import (
    BEHAVIOR,
    Manifest,
    ManifestError,
    manifest_path,
    published_versions,
    read_manifest,
)
from shopcast_repository.locking import locked, replace_file

RUNS = Path("runs")
RUN_FILE = "run.json"
_STAGES = "stages"
_FINISHED = "finished.pt"
_COMPLETE = "complete"
_PUBLISHING, _PUBLISHED = "publishing", "published"
_LOCK = ".build.lock"
_IRRELEVANT = ("tracking", "threads")


class StageFolder:
    """Where one stage keeps its checkpoints. What cannot be written raises DataError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def newest(self) -> Path | None:
        """The newest checkpoint that was written whole."""
        whole = [mark.parent for mark in self.path.glob(f"checkpoint-*/{_COMPLETE}")]
        return max(whole, key=step_of, default=None)

    def complete(self, step: int) -> None:
        """Every process has written its part of a checkpoint; the ones before can go."""
        processes.wait()
        if processes.is_first():
            written = self.path / f"checkpoint-{step}"
            with writing(self.path):
                (written / _COMPLETE).touch()
            for checkpoint in self.path.glob("checkpoint-*"):
                if checkpoint != written:
                    shutil.rmtree(checkpoint)

    def finish(self, state: dict[str, Any]) -> None:
        """The stage is done: keep what it ended with in place of the checkpoints."""
        if processes.is_first():
            with writing(self.path):
                save(state, self.path / _FINISHED)
            for checkpoint in self.path.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        processes.wait()

    def finished(self) -> dict[str, Any] | None:
        """What the stage ended with, if it did."""
        path = self.path / _FINISHED
        return load(path) if path.is_file() else None


class Run:
    """The folder of one build. Raises DataError where it holds another one already."""

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        self.folder = folder
        self.trackers: tuple[Tracker, ...] = ()
        self._stages = 0
        self._finished = False
        if (folder / _PUBLISHED).is_file():
            raise DataError(
                f"The build in {folder} was finished and published: to build anew, name another"
                " folder with --run-folder."
            )
        if (folder / RUN_FILE).is_file() and not resume:
            raise DataError(
                f"{folder} holds a build already: add --resume to go on with it, or name another"
                " folder with --run-folder."
            )

    def track(self, settings: BuildSettings) -> None:
        """Open the trackers. Raises DataError for one that cannot be."""
        if processes.is_first():
            shown = settings.model_dump(mode="json")
            self.trackers = open_trackers(settings.tracking, self.folder, shown)

    def begin(self, settings: BuildSettings, **inputs: Any) -> None:
        """Say what is built. A build that goes on has to be the same.

        inputs: digests of what it is built from, by name. Raises DataError naming what differs.
        """
        shown = settings.model_dump(mode="json")
        told = {k: v for k, v in shown.items() if k not in _IRRELEVANT}
        self._identify({**inputs, "number of processes": processes.count(), "settings": told})

    def log(self, stage: str, values: Mapping[str, float]) -> None:
        """Tell the trackers how something ended."""
        for tracker in self.trackers:
            tracker.log(stage, values, 0)

    def _identify(self, here: dict[str, Any]) -> None:
        path = self.folder / RUN_FILE
        there = json.loads(path.read_text()) if path.is_file() else None
        processes.wait()  # all have looked before the first one writes
        if there is None:
            if processes.is_first():
                self._write(path, json.dumps(here, indent=2))
            processes.wait()
            return
        for name, old, new in _differences(there, here):
            raise DataError(
                f"{self.folder} holds the checkpoints of another build ({name} is {_short(old)}"
                f" there and {_short(new)} here): leave --resume out and name another folder with"
                " --run-folder, or build as before."
            )

    def _write(self, path: Path, text: str) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.encode())
        except OSError as error:
            raise _cannot_hold(self.folder, error) from None

    def stage(self, title: str) -> StageFolder:
        """The folder of the next stage; a build that goes on asks for the same ones in turn."""
        self._stages += 1
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        folder = self.folder / _STAGES / f"{self._stages:02}-{slug}"
        if processes.is_first():
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
        processes.wait()
        return StageFolder(folder)

    @property
    def states(self) -> Path:
        """Where encoded texts are kept until the build is published."""
        return self.folder / _STAGES / "states"

    def publishing(self, created: datetime) -> None:
        """What is published from now on says that it was made at this time, in UTC."""
        self._write(self.folder / _PUBLISHING, created.isoformat())

    def published(self, repository: Path) -> Manifest | None:
        """The version that this build published before it was killed."""
        path = self.folder / _PUBLISHING
        if not path.is_file():
            return None
        created = datetime.fromisoformat(path.read_text())
        for version in published_versions(repository):
            try:
                manifest = read_manifest(manifest_path(repository, BEHAVIOR, version))
            except ManifestError:
                continue
            if manifest.created == created and manifest.artefact.derived_from is None:
                return manifest
        return None

    def finish(self) -> None:
        """The build is published: nobody has to go on with it."""
        self._finished = True
        if processes.is_first():
            (self.folder / _PUBLISHED).touch()
            shutil.rmtree(self.folder / _STAGES, ignore_errors=True)

    def close(self) -> None:
        """Close the trackers, and tell them whether the build was published."""
        for tracker in self.trackers:
            tracker.close(failed=not self._finished)


@contextmanager
def open_run(folder: Path | None, *, resume: bool = False) -> Iterator[Run]:
    """Meet the other processes, if there are any, and open the folder of a build.

    folder: None for a new one in RUNS or, to resume, the newest there. Raises DataError, also where
    another build runs in it.
    """
    processes.join()
    try:
        chosen = processes.from_first(_choose(folder, resume=resume))
        with _held(chosen), closing(Run(chosen, resume=resume)) as run:
            yield run
    finally:
        processes.leave()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Build in a folder alone. The first process holds it for all; all are told if it cannot."""
    busy = DataError(
        f"Another build is running in {folder}: wait for it, or name another folder with"
        " --run-folder."
    )
    refused: DataError | None = None
    with ExitStack() as stack:
        if processes.is_first():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder / _LOCK, busy))
            except DataError as error:
                refused = error
            except OSError as error:
                refused = _cannot_hold(folder, error)
        if refused := processes.from_first(refused):
            raise refused
        try:
            yield
        finally:
            # What stopped before it began leaves no folder that nobody named.
            begun = [path.name for path in folder.glob("*")] != [_LOCK]
            if processes.is_first() and folder.parent == RUNS and not begun:
                shutil.rmtree(folder, ignore_errors=True)


def _cannot_hold(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder} cannot hold a build ({error.strerror}): name another folder with --run-folder."
    )


def _choose(folder: Path | None, *, resume: bool) -> Path:
    if folder is not None:
        if resume and not (folder / RUN_FILE).is_file():
            raise DataError(
                f"{folder} holds no build to go on with: leave --resume out, or name its folder"
                " with --run-folder."
            )
        return folder
    if not resume:
        return RUNS / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%fZ")
    begun = [stages.parent for stages in RUNS.glob(f"*/{_STAGES}")]
    open_ones = [run for run in begun if not (run / _PUBLISHED).is_file()]
    if not open_ones:
        raise DataError(
            f"There is no build to go on with in {RUNS}/: leave --resume out, or name its folder"
            " with --run-folder."
        )
    return max(open_ones)


def save(state: dict[str, Any], path: Path) -> None:
    """Write tensors and numbers; whoever finds the file finds all of it."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read what save wrote, onto the CPU."""
    return torch.load(path, map_location="cpu", weights_only=True)


def digest(arrays: Iterable[np.ndarray[Any, Any]], texts: Iterable[str] = ()) -> str:
    """sha256 of the content of arrays and texts, in their order."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    for text in texts:
        found.update(text.encode() + b"\0")
    return found.hexdigest()


def step_of(checkpoint: Path) -> int:
    """Steps done when a checkpoint was written."""
    return int(checkpoint.name.split("-")[1])


def _differences(
    there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for name in dict.fromkeys((*there, *here)):
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = "" if name == "settings" else f"{prefix}{name}."
            found += _differences(old, new, inner)
        elif old != new:
            found.append((f"{prefix}{name}", old, new))
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 12 else f"{text[:12]}..."

"""The folder of a simulation: written beside its place, then put there in one step."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

MANIFEST = "simulation.json"
_REFUSED = re.compile(r"\(os error (\d+)\)")  # so polars tells what a disk said


def files_of(folder: Path) -> list[str]:
    """Relative paths of all files below a folder, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256, in hex, of every file below a folder."""
    digests = {}
    for name in files_of(folder):
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write simulation.json: `content`, and the digest of every other file."""
    document = {**content, "sha256": digests_of(folder)}
    (folder / MANIFEST).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _holds_only_a_simulation(folder: Path) -> bool:
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        return set(files_of(folder)) <= {MANIFEST, *listed}
    except (OSError, ValueError, TypeError, KeyError):
        return False


def require_replaceable(out: Path) -> None:
    """Raise FileExistsError unless `out` is absent, empty or an earlier simulation and no more."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a new or an empty folder.")
    if any(out.iterdir()) and not _holds_only_a_simulation(out):
        raise FileExistsError(
            f"{out} holds files that no earlier simulation wrote; name a new or an empty folder."
        )


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A fresh folder that takes the place of `out` when the block ends well, else vanishes.

    Raises FileExistsError, before the block or after it, if `out` must not be replaced, and OSError
    where the disk takes no more.
    """
    out = out.resolve()
    require_replaceable(out)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        require_replaceable(out)
        if out.exists():
            out.rename(old)
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        if isinstance(error, pl.exceptions.ComputeError) and (found := _REFUSED.search(str(error))):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(out)) from None
        raise
    shutil.rmtree(old, ignore_errors=True)

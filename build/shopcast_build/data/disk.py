"""Files that a build writes on its way, and what it says when a disk takes no more."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shopcast_build.data.errors import DataError

_SIGNS = ("os error", "inline_container")
"""In what polars and safetensors, and torch, raise where the system refuses to write."""


@contextmanager
def writing(folder: Path | None = None) -> Iterator[None]:
    """Write below a folder, None for the temporary one. Raises DataError, with what to do, where
    the system refuses."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not any(sign in str(error) for sign in _SIGNS):
            raise
        # torch does not pass on why a file got less than it was given.
        why = getattr(error, "strerror", None) or "its disk is probably full"
        if folder is None:
            place = Path(tempfile.tempdir or "the temporary folder")
            remedy = "or have TMPDIR name a folder on another disk, and run this again"
        else:
            place, remedy = folder, "and run this again, a build with --resume"
        raise DataError(f"{place} cannot be written ({why}): make room there {remedy}.") from error


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder in TMPDIR that goes when it is done with. Raises DataError."""
    with ExitStack() as stack:
        with writing():
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix))
        yield Path(folder)

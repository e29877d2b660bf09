"""Atomic publication of a release into a Triton model repository.

A release is an encoder version and a behaviour version. Both are staged in the repository, flushed
to disk, and renamed into place, the behaviour model last: its manifest marks a whole release.
Whatever a kill or a full disk leaves behind is either in `.staging`, or an encoder version without
a behaviour model; neither is ever served, and the next publication removes both.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    MANIFEST,
    Manifest,
    version_folders,
)
from shopcast_repository.digests import sha256
from shopcast_repository.errors import PublishError
from shopcast_repository.locking import deciding, flush, flush_tree, sole_writer
from shopcast_repository.serving import SERVING, keep_serving, read_serving

STAGING = ".staging"
MODELS = (ENCODER, BEHAVIOR)


def publish(
    repository: Path,
    write: Callable[[Path, Path, int], Manifest],
) -> Manifest:
    """Publish the next version. The first one of a repository serves from then on; what serves is
    otherwise left to `serving.promote`.

    write: fills two empty folders (encoder, behaviour) for a version number and returns the
    manifest, its `files` still empty. Raises RepositoryError; the repository is then as it was.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with sole_writer(repository):
            read_serving(repository)  # before the work: were it broken, what follows would fail
            sweep(repository)
            version = _next_version(repository)
            staged = {model: repository / STAGING / model for model in MODELS}
            try:
                for folder in staged.values():
                    folder.mkdir(parents=True)
                manifest = write(staged[ENCODER], staged[BEHAVIOR], version)
                manifest = manifest.model_copy(update={"files": _digests(staged, version)})
                text = manifest.model_dump_json(indent=1)
                for folder in staged.values():
                    (folder / MANIFEST).write_text(text, encoding="utf-8")
                for model, folder in staged.items():
                    flush_tree(folder)
                    (repository / model).mkdir(exist_ok=True)
                with deciding(repository):
                    for model, folder in staged.items():
                        folder.rename(repository / model / str(version))
                        flush(repository / model)
                    _tell(repository, version)
            finally:
                sweep(repository)
            return manifest
    except OSError as error:
        raise PublishError(
            f"publishing into {repository} failed ({error.strerror}), nothing was changed:"
            " check that the folder can be written and has room"
        ) from error


def check_place(repository: Path, size: int) -> None:
    """Find out before the work what publishing would say after it.

    size: bytes that a version has at least. Raises PublishError where the repository cannot be
    written, or has less room.
    """
    places = (repository, *repository.absolute().parents)
    there = next(place for place in places if os.access(place, os.F_OK))  # the rest is hidden, too
    if not os.access(there, os.W_OK | os.X_OK):
        raise PublishError(
            f"nothing can be published into {repository}, as {there} cannot be written: let this"
            " user write there, or name another --repository"
        )
    if (free := shutil.disk_usage(there).free) < size:
        raise PublishError(
            f"{repository} has room for {free / 1e6:.1f} MB, and a version has {size / 1e6:.1f} MB"
            " or more: make room there, or name another --repository"
        )


def sweep(repository: Path) -> None:
    """Remove what an interrupted publication left."""
    staging = repository / STAGING
    if staging.is_symlink():
        staging.unlink()  # nothing is moved or removed outside of the repository
    shutil.rmtree(staging, ignore_errors=True)
    # Where there is a behaviour model, if without its manifest, somebody may mend the version.
    behaviors = set(version_folders(repository / BEHAVIOR))
    for encoder in version_folders(repository / ENCODER):
        if encoder not in behaviors:
            shutil.rmtree(repository / ENCODER / str(encoder))


def _next_version(repository: Path) -> int:
    return 1 + max((v for model in MODELS for v in version_folders(repository / model)), default=0)


def _digests(staged: dict[str, Path], version: int) -> dict[str, str]:
    return {
        f"{model}/{version}/{path.relative_to(folder).as_posix()}": sha256(path)
        for model, folder in staged.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _tell(repository: Path, version: int) -> None:
    """Say what serves, which is the first version where nobody has said so."""
    try:
        keep_serving(repository, version)
    except OSError as error:
        raise PublishError(
            f"version {version} is published in {repository}, but {SERVING} could not be"
            f" written ({error.strerror}): make room or rights, then run `platform models"
            f" promote {version}`"
        ) from error

"""Atomic publication of a release into a Triton model repository.

A release is an encoder version and a behaviour version. Both are staged in the repository, flushed
to disk, and renamed into place, the behaviour model last: its manifest marks a whole release.
Whatever a kill or a full disk leaves behind is either in `.staging`, or an encoder version that no
manifest of a behaviour model names; neither is ever served, and the next publication removes both.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shopcast_build.learning import triton_config
from shopcast_domain.manifest import (
    BEHAVIOR,
    CONFIG,
    ENCODER,
    MANIFEST,
    Manifest,
    published_versions,
)

STAGING = ".staging"
_LOCK = ".publish.lock"
_MODELS = (ENCODER, BEHAVIOR)


class PublishError(Exception):
    """Nothing was published. One sentence says why and what to do."""


def publish(
    repository: Path,
    write: Callable[[Path, Path, int], Manifest],
    configs: Mapping[str, triton_config.ServedModel],
) -> Manifest:
    """Publish the next version.

    write: fills two empty folders (encoder, behaviour) for a version number and returns the
    manifest, its `files` still empty. configs: what Triton has to know, by model name.
    Raises PublishError; the repository is then as it was.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _sole_publisher(repository):
            _sweep(repository)
            version = _next_version(repository)
            staged = {model: repository / STAGING / model for model in _MODELS}
            try:
                for folder in staged.values():
                    folder.mkdir(parents=True)
                manifest = write(staged[ENCODER], staged[BEHAVIOR], version)
                for model, folder in staged.items():
                    triton_config.write(configs[model], folder / CONFIG)
                manifest = manifest.model_copy(update={"files": _digests(staged, version)})
                text = manifest.model_dump_json(indent=1)
                for folder in staged.values():
                    (folder / MANIFEST).write_text(text, encoding="utf-8")
                for model, folder in staged.items():
                    _flush_tree(folder)
                    (repository / model).mkdir(exist_ok=True)
                for model, folder in staged.items():
                    folder.rename(repository / model / str(version))
                    _flush(repository / model)
            finally:
                _sweep(repository)
            _renew_configs(repository, version)
            return manifest
    except OSError as error:
        raise PublishError(
            f"publishing into {repository} failed ({error.strerror}), nothing was changed:"
            " check that the folder can be written and has room"
        ) from error


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _sole_publisher(repository: Path) -> Iterator[None]:
    with (repository / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PublishError(
                f"another build is publishing into {repository}: wait for it and run this again"
            ) from None
        yield


def _sweep(repository: Path) -> None:
    """Remove what an interrupted publication left."""
    shutil.rmtree(repository / STAGING, ignore_errors=True)
    newest = max(published_versions(repository), default=0)
    for encoder in _versions(repository / ENCODER):
        if encoder > newest:
            shutil.rmtree(repository / ENCODER / str(encoder))


def _versions(folder: Path) -> list[int]:
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []


def _next_version(repository: Path) -> int:
    return 1 + max((v for model in _MODELS for v in _versions(repository / model)), default=0)


def _digests(staged: dict[str, Path], version: int) -> dict[str, str]:
    return {
        f"{model}/{version}/{path.relative_to(folder).as_posix()}": sha256(path)
        for model, folder in staged.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _renew_configs(repository: Path, version: int) -> None:
    """Give a Triton that is started by hand the newest configuration; the gateway reads the one of
    the version it loads."""
    try:
        for model in _MODELS:
            folder = repository / model
            partial = folder / f".{CONFIG}.partial"
            shutil.copyfile(folder / str(version) / CONFIG, partial)
            _flush(partial)
            partial.replace(folder / CONFIG)
    except OSError as error:
        raise PublishError(
            f"version {version} is published in {repository}, but {CONFIG} of a model could not be"
            f" renewed ({error.strerror}): only a Triton started by hand reads it, copy it from the"
            " version's folder"
        ) from error


def _flush_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

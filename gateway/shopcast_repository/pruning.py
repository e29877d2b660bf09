"""Removing old versions, each in one step."""

import shutil
from pathlib import Path

from shopcast_domain.manifest import BEHAVIOR, ENCODER, published_versions
from shopcast_repository.errors import RepositoryError
from shopcast_repository.locking import deciding, flush, sole_writer
from shopcast_repository.publishing import STAGING, sweep
from shopcast_repository.serving import read_serving
from shopcast_repository.versions import all_versions


def superfluous(repository: Path, keep: int) -> list[int]:
    """The versions that pruning would remove, oldest first: all but the newest `keep`, the one that
    serves, those that rolling back leads to, and the one on trial. Raises RepositoryError."""
    versions = all_versions(repository)
    said = read_serving(repository)
    needed = {*versions[-max(keep, 1) :]}
    if said is not None:
        needed |= {*said.versions}  # a gateway that refused the newest serves an earlier one
        if said.trial is not None:
            needed.add(said.trial.version)
    return [version for version in versions if version not in needed]


def prune(repository: Path, keep: int) -> list[int]:
    """Remove superfluous versions and return them.

    The behaviour model goes first, out of sight in one rename, and with it its manifest: a kill at
    any point leaves a version whole or gone. Raises RepositoryError.
    """
    all_versions(repository)
    try:
        with sole_writer(repository):
            sweep(repository)
            staging = repository / STAGING
            with deciding(repository):
                removed = superfluous(repository, keep)
                staging.mkdir(exist_ok=True)
                for version in removed:
                    for model in (BEHAVIOR, ENCODER):
                        folder = repository / model / str(version)
                        if folder.is_dir():
                            folder.rename(staging / f"{model}-{version}")
                            flush(repository / model)
            shutil.rmtree(staging)
            sweep(repository)
    except OSError as error:
        left = len(published_versions(repository))
        raise RepositoryError(
            f"pruning {repository} failed ({error.strerror or error}), {left} versions are left,"
            " each whole: make room or rights there, and run this again"
        ) from error
    return removed

"""Finding what is published."""

from pathlib import Path

from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    Manifest,
    ManifestError,
    manifest_path,
    published_versions,
    read_manifest,
)
from shopcast_repository.errors import RepositoryError, UnknownVersion


def all_versions(repository: Path) -> list[int]:
    """The published versions, oldest first, at least one. Raises RepositoryError."""
    if not repository.is_dir():
        what = "a file" if repository.exists() else "not there"
        raise RepositoryError(
            f"{repository} is {what}, no model repository: name the folder that `platform"
            " build-model` published into with --repository"
        )
    try:
        versions = published_versions(repository)
    except OSError as error:
        raise RepositoryError(
            f"{repository} cannot be read ({error.strerror}): let this user read it"
        ) from None
    if not versions:
        known = any((repository / model).is_dir() for model in (ENCODER, BEHAVIOR))
        what = "holds no published version" if known else "is no model repository of shopcast"
        raise RepositoryError(
            f"{repository} {what}: publish one with `platform build-model --repository"
            f" {repository}`"
        )
    return versions


def find_manifest(repository: Path, version: int) -> Manifest:
    """The manifest of a published version. Raises UnknownVersion, RepositoryError,
    ManifestError."""
    versions = all_versions(repository)
    if version not in versions:
        raise UnknownVersion(
            f"there is no version {version} in {repository}: it has {', '.join(map(str, versions))}"
        )
    manifest = read_manifest(manifest_path(repository, BEHAVIOR, version))
    if manifest.behavior_version != version:
        raise ManifestError(
            f"the manifest of version {version} in {repository} is that of version"
            f" {manifest.behavior_version}: publish the model again with `platform build-model`"
        )
    return manifest

"""Whether a version is, byte for byte, what was published."""

from pathlib import Path

from shopcast_domain.manifest import (
    BEHAVIOR,
    ENCODER,
    MANIFEST,
    Manifest,
    manifest_path,
    read_manifest,
)
from shopcast_repository.digests import sha256


def verify(repository: Path, version: int) -> list[str]:
    """What is wrong with a published version, one sentence each, in the order of its files.

    Reads every file. The manifest is kept twice, so that a change of one copy is seen too. Raises
    ManifestError when the behaviour model's copy cannot be read at all.
    """
    manifest = read_manifest(manifest_path(repository, BEHAVIOR, version))
    return [
        *_manifests(repository, version, manifest),
        *_files(repository, manifest),
        *_strangers(repository, manifest),
    ]


def _manifests(repository: Path, version: int, manifest: Manifest) -> list[str]:
    if manifest.behavior_version != version:
        return [f"{BEHAVIOR}/{version}/{MANIFEST} is the manifest of another version"]
    other = manifest_path(repository, ENCODER, manifest.encoder_version)
    name = other.relative_to(repository).as_posix()
    try:
        same = other.read_bytes() == manifest_path(repository, BEHAVIOR, version).read_bytes()
    except OSError as error:
        return [f"{name} cannot be read ({error.strerror})"]
    return [] if same else [f"{name} differs from that of the behaviour model: one was changed"]


def _files(repository: Path, manifest: Manifest) -> list[str]:
    found = []
    for name, expected in manifest.files.items():
        try:
            digest = sha256(repository / name)
        except OSError as error:
            found.append(f"{name} cannot be read ({error.strerror})")
            continue
        if digest != expected:
            found.append(f"{name} is not the file that was published: its digest differs")
    return found


def _strangers(repository: Path, manifest: Manifest) -> list[str]:
    manifests = {
        manifest_path(repository, ENCODER, manifest.encoder_version),
        manifest_path(repository, BEHAVIOR, manifest.behavior_version),
    }
    there = {
        path.relative_to(repository).as_posix()
        for own in manifests
        for path in own.parent.rglob("*")
        # What lies behind a linked folder is not looked into.
        if (path.is_symlink() or not path.is_dir()) and path not in manifests
    }
    return [f"{name} was not published" for name in sorted(there - set(manifest.files))]

"""Versions to publish beside version 1: the same, or with something wrong."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from shopcast_domain.manifest import BEHAVIOR, ENCODER, Manifest, manifest_path, read_manifest
from shopcast_repository.served import write_configs


def again(repository: Path, change: Callable[[Path, Path, Manifest], Manifest]) -> int:
    """Publish version 1 once more, with something changed, whole by its digests."""
    number = 1 + max(int(path.name) for path in (repository / BEHAVIOR).glob("[0-9]*"))
    folders = {model: repository / model / str(number) for model in (ENCODER, BEHAVIOR)}
    for model, folder in folders.items():
        shutil.copytree(repository / model / "1", folder)
    manifest = read_manifest(manifest_path(repository, BEHAVIOR, 1)).model_copy(
        update={"encoder_version": number, "behavior_version": number}
    )
    manifest = change(folders[ENCODER], folders[BEHAVIOR], manifest)
    for folder in folders.values():
        (folder / "config.pbtxt").unlink()
        (folder / "manifest.json").unlink()
    write_configs(manifest, folders)
    files = {
        f"{model}/{number}/{path.relative_to(folder).as_posix()}": hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for model, folder in folders.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = manifest.model_copy(update={"files": files}).model_dump_json()
    for folder in folders.values():
        (folder / "manifest.json").write_text(text)
    return number


def nothing(encoder: Path, behavior: Path, manifest: Manifest) -> Manifest:
    """The same again."""
    return manifest


def torn_graph(encoder: Path, behavior: Path, manifest: Manifest) -> Manifest:
    """Half a graph."""
    path = behavior / "model.onnx"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
    return manifest

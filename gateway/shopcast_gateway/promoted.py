"""Which published versions may serve, and in which order."""

from pathlib import Path

from shopcast_gateway.errors import StartupError
from shopcast_repository.errors import RepositoryError
from shopcast_repository.serving import Serving as Said
from shopcast_repository.serving import read_serving
from shopcast_repository.versions import all_versions


def versions_to_try(repository: Path) -> tuple[list[int], Said | None]:
    """Published versions in the order in which they may serve: the one that is to, those that did
    before it, and where nobody has said so, from the newest down; and what was said. Raises
    StartupError."""
    try:
        published, said = all_versions(repository), read_serving(repository)
    except RepositoryError as error:
        raise StartupError(str(error)) from None
    if said is None:
        return published[::-1], None
    versions = [version for version in said.versions[::-1] if version in published]
    if not versions:
        raise StartupError(
            f"the version that is to serve is not in {repository}: name one that is with `platform"
            " models promote`"
        )
    return versions, said

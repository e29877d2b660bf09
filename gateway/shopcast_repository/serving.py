"""Which version serves, and which one is on trial: `serving.json` at the root of a repository.

Publishing does not change what serves, except for the first version of a repository; promoting and
rolling back do. A gateway reads the file when it starts and whenever it changes.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shopcast_domain.manifest import BEHAVIOR, CONFIG, ENCODER, published_versions
from shopcast_repository.errors import RepositoryError
from shopcast_repository.locking import deciding, replace_files
from shopcast_repository.verification import verify
from shopcast_repository.versions import all_versions, find_manifest

SERVING = "serving.json"
_REMEMBERED = 100

Version = Annotated[int, Field(ge=1)]


class Change(BaseModel):
    """One change of what serves. at: UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: datetime
    action: Literal["first", "promote", "rollback"]
    version: Version
    before: Version | None
    forced: bool = False


class Trial(BaseModel):
    """A version beside the one that serves. share: of the people, whom it answers (a canary).
    shadow: of the other predictions, which it answers for comparison only; 0 to 1 each. at: when
    it was put on trial or its shares were changed, in UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Version
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    shadow: Annotated[float, Field(ge=0, le=1)] = 0.0
    at: datetime | None = None


class Serving(BaseModel):
    """versions: those that rolling back leads to, the one that serves last. changes: oldest first,
    the newest hundred. trial: what is tried beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    versions: Annotated[tuple[Version, ...], Field(min_length=1)]
    changes: tuple[Change, ...] = ()
    trial: Trial | None = None

    @property
    def version(self) -> int:
        """The one that serves."""
        return self.versions[-1]

    @property
    def before(self) -> int | None:
        """The one that rolling back leads to."""
        return self.versions[-2] if len(self.versions) > 1 else None


def read_serving(repository: Path) -> Serving | None:
    """What serves; None where nobody has said so. Raises RepositoryError where it is unreadable."""
    path = repository / SERVING
    try:
        return Serving.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RepositoryError(
            f"{path} cannot be read ({error.strerror}): it must be a file that this user may read"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RepositoryError(
            f"{path} does not say which version serves ({where}: {first['msg']}): if a newer"
            " shopcast wrote it, upgrade; else move it away, which forgets what rolling back leads"
            " to, and name a version with `platform models promote`"
        ) from None


def serving_version(repository: Path) -> int | None:
    """The version that serves, the newest where nobody has said so; None where there is none."""
    said = read_serving(repository)
    return said.version if said else max(published_versions(repository), default=None)


def promote(repository: Path, version: int, *, force: bool = False) -> Serving:
    """Let a published version serve; a trial ends.

    force: even one that was published although its gate had failed. Raises RepositoryError when the
    version is not there, not whole, or failed its gate; ManifestError when it cannot be read.
    """
    failed = _failed_gate(repository, version, force=force)

    def promoted(said: Serving | None) -> Serving:
        before = serving_version(repository)
        stack = said.versions if said else () if before in (None, version) else (before,)
        kept = tuple(v for v in stack if v != version)
        return _changed(said, (*kept, version), "promote", forced=failed)

    return _write(repository, promoted)


def try_out(repository: Path, trial: Trial, *, force: bool = False) -> Serving:
    """Put a version on trial beside the one that serves, from now on; a trial before it ends, and
    one that is over begins anew. Raises as `promote`, and RepositoryError for the version that
    serves."""
    _failed_gate(repository, trial.version, force=force)
    trial = trial.model_copy(update={"at": datetime.now(UTC)})

    def tried(said: Serving | None) -> Serving:
        serving = serving_version(repository)
        if serving is None or serving == trial.version:
            raise RepositoryError(f"version {trial.version} serves already: try another")
        return (said or _changed(None, (serving,), "first")).model_copy(update={"trial": trial})

    return _write(repository, tried, trial.version)


def rollback(repository: Path) -> Serving:
    """Take the last change back: a trial ends, or where there is none, the version serves that did
    so before. Raises RepositoryError when there is none, or it is not whole."""
    all_versions(repository)

    def rolled_back(said: Serving | None) -> Serving:
        if said is not None and said.trial is not None:
            return said.model_copy(update={"trial": None})
        standing = set(published_versions(repository))
        stack = [v for v in (said.versions if said else ())[:-1] if v in standing]
        if said is None or not stack:
            raise RepositoryError(
                f"no version served in {repository} before this one: name one with `platform models"
                " promote`"
            )
        return _changed(said, tuple(stack), "rollback")

    return _write(repository, rolled_back)


def end_trial(repository: Path) -> Serving:
    """End the trial; what serves goes on. Raises RepositoryError where there is none."""
    all_versions(repository)

    def ended(said: Serving | None) -> Serving:
        if said is None or said.trial is None:
            raise RepositoryError(f"no version is on trial in {repository}: there is none to end")
        return said.model_copy(update={"trial": None})

    return _write(repository, ended)


def keep_serving(repository: Path, published: int) -> None:
    """Write down what goes on serving after a publication: where nobody has said so, the newest of
    the earlier versions, or this one if it is the first. For who is `deciding`; mends what a kill
    left out of step."""
    earlier = [version for version in published_versions(repository) if version != published]
    first = max(earlier, default=published)
    _put(repository, read_serving(repository) or _changed(None, (first,), "first"))


def _changed(
    said: Serving | None,
    versions: tuple[int, ...],
    action: Literal["first", "promote", "rollback"],
    *,
    forced: bool = False,
) -> Serving:
    change = Change(
        at=datetime.now(UTC),
        action=action,
        version=versions[-1],
        before=said.version if said else None,
        forced=forced,
    )
    return Serving(
        versions=versions, changes=(*(said.changes if said else ()), change)[-_REMEMBERED:]
    )


def _failed_gate(repository: Path, version: int, *, force: bool) -> bool:
    """Whether a version failed its gate. Raises RepositoryError where it did and that matters."""
    failures = find_manifest(repository, version).gate.failures
    if failures and not force:
        raise RepositoryError(
            f"version {version} failed its gate before it was published ({failures[0].finding}):"
            " take it all the same with --force"
        )
    return bool(failures)


def _write(
    repository: Path, change: Callable[[Serving | None], Serving], version: int | None = None
) -> Serving:
    """version: the one that must be whole; None is the one that is to serve."""
    try:
        with deciding(repository):
            serving = change(read_serving(repository))
            version = version or serving.version
            if problems := verify(repository, version):
                raise RepositoryError(
                    f"version {version} is not whole ({problems[0]}), so it must not serve:"
                    " publish it again, or name another with `platform models promote`"
                )
            _put(repository, serving)
    except OSError as error:
        where = error.filename or repository / SERVING
        raise RepositoryError(
            f"{where} cannot be written ({error.strerror}): make room or rights there, and run this"
            " again"
        ) from error
    return serving


def _put(repository: Path, serving: Serving) -> None:
    """Write it, and then the configurations for a Triton that is started by hand; the gateway reads
    those of the version it loads."""
    configs = {
        folder / CONFIG: (folder / str(serving.version) / CONFIG).read_bytes()
        for folder in (repository / ENCODER, repository / BEHAVIOR)
    }
    replace_files({repository / SERVING: serving.model_dump_json(indent=1).encode(), **configs})

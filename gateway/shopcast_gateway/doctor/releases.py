"""What is published, and whether the version that serves is what it says it is."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from shopcast_domain.manifest import (
    BEHAVIOR,
    CONFIG,
    ENCODER,
    FALLBACK,
    MANIFEST,
    Manifest,
    ManifestError,
    published_versions,
    version_folders,
)
from shopcast_domain.tokeniser import TOKENISER, ItemTokeniser
from shopcast_gateway.core.adoption import Refused, check_contract
from shopcast_gateway.doctor.finding import Answer, Installation, Skip, failed, ok, parts, warning
from shopcast_gateway.errors import StartupError
from shopcast_gateway.promoted import versions_to_try
from shopcast_repository import triton_config
from shopcast_repository.digests import sha256
from shopcast_repository.errors import RepositoryError
from shopcast_repository.publishing import STAGING
from shopcast_repository.served import fallback_of, served_models
from shopcast_repository.serving import SERVING, read_serving
from shopcast_repository.triton_config import ServedModel, shape_of
from shopcast_repository.verification import verify
from shopcast_repository.versions import all_versions, find_manifest

_AGAIN = (
    "let another version serve with `platform models promote`, or publish this one again with"
    " `platform build-model`"
)
_DRIFT_S = 60.0  # by which the clocks of two machines may differ


def served_manifest(repository: Path) -> Manifest:
    """The manifest of the version that a gateway would try first. Raises Skip."""
    try:
        return find_manifest(repository, versions_to_try(repository)[0][0])
    except (StartupError, RepositoryError, ManifestError, OSError):
        raise Skip("there is no version to look at that could serve, see repository") from None


def repository(installation: Installation) -> list[Answer]:
    """Whether the versions are, byte for byte, what was published, and which one serves."""
    folder = installation.repository
    try:
        versions = all_versions(folder)
    except RepositoryError as error:
        return [failed(*parts(error, _AGAIN)), *_leftovers(folder, [])]
    except OSError as error:
        return [failed(f"{folder} cannot be read ({error.strerror})", "let this user read it")]
    try:
        serves = versions_to_try(folder)[0][0]
    except StartupError:
        serves = None
    answers = [
        *_record(folder, versions),
        *(one for version in versions if (one := _version(folder, version, serves)) is not None),
        *_leftovers(folder, versions),
    ]
    named = ", ".join(map(str, versions))
    return answers or [ok(f"published and whole: {named}; version {serves} serves")]


def _record(folder: Path, versions: list[int]) -> list[Answer]:
    """What is wrong with the record of what serves."""
    promote = f"name one of {', '.join(map(str, versions))} with `platform models promote`"
    try:
        said = read_serving(folder)
    except RepositoryError as error:
        return [failed(*parts(error, "let this user read it"))]
    if said is None:
        return [warning(f"{SERVING} is missing, so the newest version serves", promote)]
    if said.version not in versions:
        return [failed(f"{SERVING} names version {said.version}, which is not published", promote)]
    return _by_hand(folder, said.version)


def _by_hand(folder: Path, serves: int) -> list[Answer]:
    """Which configurations of a Triton that is started by hand are not those of the version that
    serves; no gateway reads them."""
    answers = []
    for model in (ENCODER, BEHAVIOR):
        try:
            wanted = (folder / model / str(serves) / CONFIG).read_bytes()
        except OSError:
            continue  # told with the version
        try:
            same = (folder / model / CONFIG).read_bytes() == wanted
        except OSError:
            same = False
        if not same:
            answers.append(
                warning(
                    f"{model}/{CONFIG} is missing or not that of version {serves}, so a Triton that"
                    " is started by hand serves otherwise than gateways do",
                    f"write it again with `platform models promote {serves}`",
                )
            )
    return answers


def _version(folder: Path, version: int, serves: int | None) -> Answer | None:
    """What is wrong with a version; only that of the one that serves keeps anybody from serving."""
    say = failed if version == serves else warning
    try:
        problems = verify(folder, version)
    except ManifestError as error:
        unread = isinstance(error.__context__, OSError)
        found, remedy = (str(error), _AGAIN) if unread else parts(error, _AGAIN)
        return say(f"version {version}: {found}", remedy)
    if not problems:
        return None
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return say(
        f"version {version} is not whole: {problems[0]}{more}",
        f"`platform models verify {version}` says all; {_AGAIN}"
        if version == serves
        else "do not promote it; publish it again, or leave it to `platform models prune`",
    )


def _leftovers(folder: Path, versions: list[int]) -> list[Answer]:
    """What a publication that was interrupted leaves, or one that is running now."""
    sweeps = "the next publication removes it; where one is running, wait for it"
    encoders, behaviors = (
        set(version_folders(folder / ENCODER)),
        set(version_folders(folder / BEHAVIOR)) - set(versions),
    )
    staged = warning(f"{STAGING} is left of an interrupted publication", sweeps)
    return [
        *([staged] if (folder / STAGING).exists() else []),
        *(
            warning(f"{ENCODER}/{number} belongs to no published version", sweeps)
            for number in sorted(encoders - behaviors - set(versions))
        ),
        *(
            warning(
                f"{BEHAVIOR}/{number} has no {MANIFEST}, so it is no published version",
                f"put a copy of {ENCODER}/{number}/{MANIFEST} there, or remove the folder",
            )
            for number in sorted(behaviors)
        ),
    ]


def features(installation: Installation) -> list[Answer]:
    """Whether the version that serves was built for the features that are computed here."""
    manifest = served_manifest(installation.repository)
    try:
        check_contract(manifest)
    except Refused as error:
        return [failed(*parts(error, _AGAIN))]
    return [ok(f"version {manifest.behavior_version} reads the features that are computed here")]


def vocabulary(installation: Installation) -> list[Answer]:
    """Whether the version that serves reads texts as it did when it was built."""
    manifest = served_manifest(installation.repository)
    said, name = manifest.tokeniser, f"{ENCODER}/{manifest.encoder_version}/{TOKENISER}"
    path = installation.repository / name
    try:
        tokeniser = ItemTokeniser.load(path, max_tokens=said.max_tokens, pad_id=said.pad_id)
        digest = sha256(path)
    except Exception:  # tokenizers raises nothing more specific
        return [failed(f"{name} is missing or no tokeniser", _AGAIN)]
    if tokeniser.vocabulary != said.vocabulary:
        return [
            failed(
                f"{name} has {tokeniser.vocabulary:,} tokens, the manifest says"
                f" {said.vocabulary:,}",
                _AGAIN,
            )
        ]
    if digest != said.sha256:
        return [failed(f"{name} is another file than the manifest says: its digest", _AGAIN)]
    found = tokeniser.encode([golden.text for golden in manifest.goldens])
    for number, (ids, golden) in enumerate(zip(found, manifest.goldens, strict=True)):
        if tuple(ids) != golden.token_ids:
            return [failed(f"golden {number} gives other tokens than at build time", _AGAIN)]
    return [ok(f"{said.vocabulary:,} tokens, {len(manifest.goldens)} goldens give theirs")]


def warm_up(installation: Installation) -> list[Answer]:
    """Whether the configurations of the version that serves say what its manifest says, and warm up
    every shape that requests will have."""
    manifest = served_manifest(installation.repository)
    answers, count = [], 0
    for name, model in served_models(manifest).items():
        fallback = fallback_of(model)
        for file, said in ((CONFIG, model), (FALLBACK, fallback)):
            if said is None:
                continue
            where = f"{name}/{model.version}/{file}"
            count += len(list(said.warm_ups()))
            if (problem := _configured(installation.repository / where, said)) is not None:
                answers.append(failed(f"{where} {problem}", _AGAIN))
    return answers or [ok(f"{count} warm-up requests cover every shape that is served")]


def _configured(path: Path, model: ServedModel) -> str | None:
    """What is wrong with a configuration."""
    try:
        warmed = triton_config.warm_up_of(triton_config.read_proto(path))
        same = triton_config.read(path) == model
    except (OSError, ValueError):
        return "is missing or no configuration of a served model"
    wanted = [
        (rows, {tensor.name: shape_of(tensor, sizes) for tensor in model.inputs}, sizes)
        for rows, sizes in model.warm_ups()
    ]
    missing = [(rows, sizes) for rows, shapes, sizes in wanted if (rows, shapes) not in warmed]
    if missing:
        rows, sizes = missing[0]
        return f"does not warm up {_sizes({'rows': rows, **sizes})}"
    if len(warmed) != len(wanted):
        return f"warms up {len(warmed)} shapes and {len(wanted)} are served"
    return None if same else "does not say what the manifest says"


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size} {axis}" for axis, size in sizes.items())


def clock(installation: Installation) -> list[Answer]:
    """Whether the clock stands behind the newest version, which was published in the past."""
    published: list[datetime] = []
    for version in published_versions(installation.repository):
        try:
            created = find_manifest(installation.repository, version).created
        except (RepositoryError, ManifestError):
            continue
        # A time without a zone is UTC, wherever this machine stands.
        published.append(created if created.tzinfo else created.replace(tzinfo=UTC))
    if not published:
        raise Skip("there is no version to compare the clock with, see repository")
    newest, now_s = max(published), time.time()
    now = datetime.fromtimestamp(now_s, UTC)
    if now_s < newest.timestamp() - _DRIFT_S:
        return [
            failed(
                f"the clock says {_moment(now)}, before the newest version was published at"
                f" {_moment(newest)}",
                "set the clock",
            )
        ]
    return [ok(f"{_moment(now)}, after the newest version was published")]


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"

"""Versions, what serves and what is on trial: protos to arguments and back."""

from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from shopcast.v1 import model_admin_service_pb2 as messages
from shopcast_domain.events import Outcome
from shopcast_domain.manifest import Manifest, ManifestError
from shopcast_gateway.core.adoption_status import AdoptionStatus
from shopcast_gateway.core.trial import Comparison, Trial
from shopcast_gateway.transport.checks import Checks
from shopcast_repository.serving import Serving, read_serving, serving_version
from shopcast_repository.serving import Trial as Wanted
from shopcast_repository.versions import all_versions, find_manifest

MAX_WAIT_S = 300.0
"""Longest wait for an adoption."""


def promotion(request: messages.PromoteModelRequest) -> tuple[int, float]:
    """The version, and how many seconds to wait for it. Raises BadRequest."""
    checks = Checks()
    _version(checks, request.version)
    wait_s = checks.duration(request, "wait")
    checks.finish()
    return request.version, min(wait_s or 0.0, MAX_WAIT_S)


def patience_s(request: messages.RollBackModelRequest) -> float:
    """How many seconds to wait for the version before. Raises BadRequest."""
    checks = Checks()
    wait_s = checks.duration(request, "wait")
    checks.finish()
    return min(wait_s or 0.0, MAX_WAIT_S)


def trial_query(request: messages.SetTrialRequest) -> Wanted:
    """Raises BadRequest."""
    checks = Checks()
    _version(checks, request.version)
    for field in ("share", "shadow"):
        if not 0 <= getattr(request, field) <= 1:  # NaN fails too
            checks.fail(field, "must be a number from 0 to 1")
    if request.share == request.shadow == 0:
        checks.fail("share", "must be above 0 where shadow is 0")
    checks.finish()
    return Wanted(version=request.version, share=request.share, shadow=request.shadow)


def _version(checks: Checks, version: int) -> None:
    if version < 1:
        checks.fail("version", "must be 1 or more")


def list_response(repository: Path, status: AdoptionStatus) -> messages.ListModelsResponse:
    """What is published, read from the repository. Raises RepositoryError."""
    versions = all_versions(repository)
    wanted, said = serving_version(repository), read_serving(repository)
    trial = said.trial if said else None
    response = messages.ListModelsResponse()
    for version in versions:
        one = response.models.add(
            version=version,
            serving=version == status.serving,
            wanted=version == wanted,
            on_trial=trial is not None and version == trial.version,
            refusal=_refusal(status, version),
        )
        try:
            _describe(one, find_manifest(repository, version))
        except ManifestError as error:  # one broken manifest must not hide the others
            one.problem = str(error)
    return response


def _describe(one: messages.ModelVersion, manifest: Manifest) -> None:
    training, artefact = manifest.training, manifest.artefact
    created = Timestamp()
    created.FromDatetime(manifest.created)
    one.MergeFrom(
        messages.ModelVersion(
            created=created,
            published_as=training.published_as,
            target=artefact.target,
            device=artefact.device,
            precision=artefact.precision,
            layers=artefact.layers,
            derived_from=artefact.derived_from,
            log_loss=manifest.metrics.get(training.published_as, {}).get("log_loss"),
            forced=manifest.gate.forced,
            currency=training.currency,
        )
    )


def read_state(
    repository: Path, status: AdoptionStatus, running: Trial | None
) -> messages.ServingState:
    """What serves now, by the repository and the gateway. Raises RepositoryError."""
    newest = all_versions(repository)[-1]
    said = read_serving(repository)
    return state(said or Serving(versions=(newest,)), status, running)


def state(said: Serving, status: AdoptionStatus, running: Trial | None) -> messages.ServingState:
    """said: what is to serve. running: the trial of this gateway."""
    made = messages.ServingState(
        serving=status.serving,
        wanted=said.version,
        before=said.before,
    )
    if said.version != status.serving and (why := _refusal(status, said.version)):
        made.refusal = why
    if said.trial is not None:
        made.trial.CopyFrom(_trial(said.trial, status, running))
    return made


def _trial(wanted: Wanted, status: AdoptionStatus, running: Trial | None) -> messages.ModelTrial:
    made = messages.ModelTrial(
        version=wanted.version,
        share=wanted.share,
        shadow=wanted.shadow,
        refusal=_refusal(status, wanted.version),
    )
    if running is not None and running.version == wanted.version:
        made.running = True
        made.answered = running.answered
        made.ClearField("refusal")
        made.comparison.CopyFrom(_comparison(running.comparison))
    return made


def _comparison(found: Comparison) -> messages.TrialComparison:
    difference = (found.trial - found.serving) / max(found.items, 1)
    return messages.TrialComparison(
        compared=found.compared,
        failed=found.failed,
        skipped=found.skipped,
        items=found.items,
        flips=found.flips,
        rank_correlation=(
            found.rank_correlation / found.correlations if found.correlations else None
        ),
        buy_difference=float(difference[Outcome.BUY]),
        return_difference=float(difference[Outcome.RETURN]),
    )


def _refusal(status: AdoptionStatus, version: int) -> str | None:
    refusal = status.refusals.get(version)
    return refusal.sentence if refusal else None

"""Calls about which version serves, for a client of the admin port of a gateway."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration

from shopcast.v1 import model_admin_service_pb2 as messages
from shopcast_client.building import built, duration, unfit
from shopcast_client.calls import Caller


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A published version. serving: whether the gateway asked serves it, wanted: whether it is to.
    refusal: why that gateway refused it. problem: why its manifest cannot be read; the fields after
    it are empty then. log_loss: of a build; derived_from: the version it was exported from;
    currency: what prices are to be in, None for that of each platform."""

    version: int
    serving: bool
    wanted: bool
    on_trial: bool
    refusal: str | None
    problem: str | None
    created: datetime | None
    published_as: str
    target: str
    device: str
    precision: str
    layers: int
    derived_from: int | None
    log_loss: float | None
    forced: bool
    currency: str | None


@dataclass(frozen=True, slots=True)
class TrialComparison:
    """What two versions said of the same predictions. rank_correlation: mean of Spearman's, None
    where no prediction has one; differences: of mean probabilities, trial less serving."""

    compared: int
    failed: int
    skipped: int
    items: int
    flips: int
    rank_correlation: float | None
    buy_difference: float
    return_difference: float


@dataclass(frozen=True, slots=True)
class ModelTrial:
    """A version on trial. share: of the people, whom it answers; shadow: of the other predictions,
    0 to 1 each. running: whether the gateway asked has taken it up, refusal: why not. answered:
    predictions that it gave to callers. comparison: None unless it runs."""

    version: int
    share: float
    shadow: float
    running: bool
    refusal: str | None
    answered: int
    comparison: TrialComparison | None


@dataclass(frozen=True, slots=True)
class ServingState:
    """serving: the version that the gateway asked serves, None until it adopted one. wanted: the
    one that is to serve, refusal: why the gateway refuses it. before: the one that rolling back
    leads to, once no trial is left."""

    serving: int | None
    wanted: int
    refusal: str | None
    before: int | None
    trial: ModelTrial | None


class ModelCalls(Caller):
    """Which version serves, and which one is tried. Every call raises a ShopcastError."""

    async def models(self) -> list[ModelVersion]:
        """Every published version, oldest first."""
        request = messages.ListModelsRequest()
        response = await self._call(self._connection.model_admin.ListModels, request)
        return [_version(one) for one in response.models]

    async def serving(self) -> ServingState:
        """What serves, what is to serve and what is on trial."""
        request = messages.GetServingRequest()
        response = await self._call(self._connection.model_admin.GetServing, request)
        return _state(response.state)

    async def promote_model(
        self, version: int, *, force: bool = False, wait_s: float = 0.0
    ) -> ServingState:
        """Let a version serve. force: even one that failed its gate. wait_s: until the gateway has
        adopted it, 300 at most, within the client's timeout; Refused where it may not serve."""
        request = built(
            messages.PromoteModelRequest, version=version, force=force, wait=_wait(wait_s)
        )
        response = await self._call(self._connection.model_admin.PromoteModel, request)
        return _state(response.state)

    async def roll_back_model(self, *, wait_s: float = 0.0) -> ServingState:
        """End the trial, or where there is none, let the version serve that did so before."""
        request = messages.RollBackModelRequest(wait=_wait(wait_s))
        response = await self._call(self._connection.model_admin.RollBackModel, request)
        return _state(response.state)

    async def set_trial(
        self, version: int, *, share: float = 0.0, shadow: float = 0.0, force: bool = False
    ) -> ServingState:
        """Put a version on trial, or change the shares of its trial."""
        request = built(
            messages.SetTrialRequest, version=version, share=share, shadow=shadow, force=force
        )
        response = await self._call(self._connection.model_admin.SetTrial, request)
        return _state(response.state)

    async def end_trial(self) -> ServingState:
        """End the trial; what serves goes on."""
        request = messages.EndTrialRequest()
        response = await self._call(self._connection.model_admin.EndTrial, request)
        return _state(response.state)


def _wait(wait_s: float) -> Duration | None:
    if not wait_s:
        return None
    try:
        return duration(timedelta(seconds=wait_s), "wait")
    except (TypeError, ValueError, OverflowError):
        raise unfit("wait", "must be a number of seconds") from None


def _version(one: messages.ModelVersion) -> ModelVersion:
    return ModelVersion(
        version=one.version,
        serving=one.serving,
        wanted=one.wanted,
        on_trial=one.on_trial,
        refusal=one.refusal if one.HasField("refusal") else None,
        problem=one.problem if one.HasField("problem") else None,
        created=one.created.ToDatetime(UTC) if one.HasField("created") else None,
        published_as=one.published_as,
        target=one.target,
        device=one.device,
        precision=one.precision,
        layers=one.layers,
        derived_from=one.derived_from if one.HasField("derived_from") else None,
        log_loss=one.log_loss if one.HasField("log_loss") else None,
        forced=one.forced,
        currency=one.currency if one.HasField("currency") else None,
    )


def _state(one: messages.ServingState) -> ServingState:
    return ServingState(
        serving=one.serving if one.HasField("serving") else None,
        wanted=one.wanted,
        refusal=one.refusal if one.HasField("refusal") else None,
        before=one.before if one.HasField("before") else None,
        trial=_trial(one.trial) if one.HasField("trial") else None,
    )


def _trial(one: messages.ModelTrial) -> ModelTrial:
    found = one.comparison
    comparison = TrialComparison(
        compared=found.compared,
        failed=found.failed,
        skipped=found.skipped,
        items=found.items,
        flips=found.flips,
        rank_correlation=found.rank_correlation if found.HasField("rank_correlation") else None,
        buy_difference=found.buy_difference,
        return_difference=found.return_difference,
    )
    return ModelTrial(
        version=one.version,
        share=one.share,
        shadow=one.shadow,
        running=one.running,
        refusal=one.refusal if one.HasField("refusal") else None,
        answered=one.answered,
        comparison=comparison if one.HasField("comparison") else None,
    )

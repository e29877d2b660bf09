"""ModelAdminService: the commands `platform models ...` as calls."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from shopcast.v1 import model_admin_service_pb2 as messages
from shopcast.v1 import model_admin_service_pb2_grpc
from shopcast_domain.manifest import ManifestError
from shopcast_gateway.core.adoption_outcome import Outcomes, following
from shopcast_gateway.core.adoption_status import AdoptionStatus, Refusal
from shopcast_gateway.core.trial import Trial
from shopcast_gateway.errors import (
    NotAdopted,
    NotFound,
    NotPossible,
    Overtaken,
    Unavailable,
    VersionRefused,
)
from shopcast_gateway.transport import convert_models
from shopcast_gateway.transport.interceptor import Context
from shopcast_repository import serving
from shopcast_repository.errors import RepositoryError, UnknownVersion

_LOOK_S = 0.5

P = ParamSpec("P")
R = TypeVar("R")


async def at_once() -> None:
    """Of one process, which answers with what it has adopted."""


@dataclass(frozen=True, slots=True)
class Administered:
    """What is administered. status: of this gateway. trial: the one that runs in it. settled:
    returns once calls are answered as the status says."""

    repository: Path
    status: AdoptionStatus
    trial: Callable[[], Trial | None]
    settled: Callable[[], Awaitable[None]] = at_once


class ModelAdminService(model_admin_service_pb2_grpc.ModelAdminServiceServicer):
    """Writes what is to serve to the repository, from where every gateway takes it up."""

    def __init__(self, administered: Administered, draining: asyncio.Event) -> None:
        """draining: once set, nobody waits any longer for an adoption."""
        self._repository, self._status = administered.repository, administered.status
        self._trial, self._draining = administered.trial, draining
        self._settled = administered.settled

    async def ListModels(  # noqa: N802
        self, request: messages.ListModelsRequest, context: Context
    ) -> messages.ListModelsResponse:
        """What is published."""
        return await _done(convert_models.list_response, self._repository, self._status)

    async def GetServing(  # noqa: N802
        self, request: messages.GetServingRequest, context: Context
    ) -> messages.GetServingResponse:
        """What serves."""
        return messages.GetServingResponse(state=await self._state_now())

    async def PromoteModel(  # noqa: N802
        self, request: messages.PromoteModelRequest, context: Context
    ) -> messages.PromoteModelResponse:
        """Lets a version serve."""
        version, wait_s = convert_models.promotion(request)
        with following(self._status) as outcomes:
            said = await _done(serving.promote, self._repository, version, force=request.force)
            await self._adopted(outcomes, said.version, wait_s)
        return messages.PromoteModelResponse(state=await self._state_after(wait_s, said))

    async def RollBackModel(  # noqa: N802
        self, request: messages.RollBackModelRequest, context: Context
    ) -> messages.RollBackModelResponse:
        """Takes the last change back."""
        wait_s = convert_models.patience_s(request)
        with following(self._status) as outcomes:
            said = await _done(serving.rollback, self._repository)
            await self._adopted(outcomes, said.version, wait_s)
        return messages.RollBackModelResponse(state=await self._state_after(wait_s, said))

    async def SetTrial(  # noqa: N802
        self, request: messages.SetTrialRequest, context: Context
    ) -> messages.SetTrialResponse:
        """Puts a version on trial."""
        trial = convert_models.trial_query(request)
        said = await _done(serving.try_out, self._repository, trial, force=request.force)
        return messages.SetTrialResponse(state=self._state(said))

    async def EndTrial(  # noqa: N802
        self, request: messages.EndTrialRequest, context: Context
    ) -> messages.EndTrialResponse:
        """Ends the trial."""
        said = await _done(serving.end_trial, self._repository)
        return messages.EndTrialResponse(state=self._state(said))

    async def _state_now(self) -> messages.ServingState:
        return await _done(convert_models.read_state, self._repository, self._status, self._trial())

    async def _state_after(self, wait_s: float, said: serving.Serving) -> messages.ServingState:
        """said: what was written, where nobody waited; others may have written since, else."""
        return await self._state_now() if wait_s else self._state(said)

    def _state(self, said: serving.Serving) -> messages.ServingState:
        return convert_models.state(said, self._status, self._trial())

    async def _adopted(self, outcomes: Outcomes, version: int, wait_s: float) -> None:
        """Return once a version is adopted, or at once where wait_s is 0. Raises VersionRefused,
        NotAdopted, Overtaken, Unavailable."""
        if not wait_s:
            return
        outcome = asyncio.create_task(self._outcome(outcomes, version))
        drains = asyncio.create_task(self._draining.wait())
        overtaken = asyncio.create_task(self._overtaken(version))
        waits = (outcome, drains, overtaken)
        try:
            await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if not outcome.done():
                if drains.done():
                    raise Unavailable("the gateway drains")
                raise Overtaken if overtaken.done() else NotAdopted
            if (refusal := outcome.result()) is not None:
                raise VersionRefused(f"version {version} is refused: {refusal.sentence}")
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _outcome(self, outcomes: Outcomes, version: int) -> Refusal | None:
        refusal = await outcomes.of(version)
        if refusal is None:
            await self._settled()
        return refusal

    async def _overtaken(self, version: int) -> None:
        """Return once another version is to serve and the gateway is not at work on this one."""
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(RepositoryError):
                said = await asyncio.to_thread(serving.read_serving, self._repository)
                if said and said.version != version != self._status.wanted:
                    return


async def _done(ask: Callable[P, R], *given: P.args, **more: P.kwargs) -> R:
    """What a function of the repository gives, beside the event loop. Raises NotFound and
    NotPossible."""
    try:
        return await asyncio.to_thread(ask, *given, **more)
    except UnknownVersion:
        raise NotFound("no such version is published") from None
    except (RepositoryError, ManifestError) as error:
        raise NotPossible(str(error)) from None

"""What operators are told of versions, without a port."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shopcast.v1 import model_admin_service_pb2 as messages
from shopcast_domain.manifest import BEHAVIOR, ENCODER, Manifest
from shopcast_gateway.core.adoption_status import AdoptionStatus
from shopcast_gateway.errors import Overtaken
from shopcast_gateway.transport.model_admin_service import Administered, ModelAdminService
from shopcast_repository.publishing import publish
from shopcast_repository.served import write_configs
from shopcast_repository.serving import rollback


@pytest.fixture
def repository(tmp_path: Path, manifest: Manifest) -> Path:
    """Versions 1 and 2; the first one serves."""

    def write(encoder: Path, behavior: Path, version: int) -> Manifest:
        numbers = {"encoder_version": version, "behavior_version": version}
        made = manifest.model_copy(update=numbers)
        write_configs(made, {ENCODER: encoder, BEHAVIOR: behavior})
        return made

    for _ in range(2):
        publish(tmp_path / "models", write)
    return tmp_path / "models"


async def promoting(administered: Administered) -> "asyncio.Task[messages.PromoteModelResponse]":
    """Promote version 2 and wait for it to be taken up; returns once it is to serve."""
    service = ModelAdminService(administered, draining=asyncio.Event())
    context: Any = None
    request = messages.PromoteModelRequest(version=2)
    request.wait.FromSeconds(60)
    promotion = asyncio.create_task(service.PromoteModel(request, context))
    wanted = 1
    while wanted != 2:
        await asyncio.sleep(0.01)
        wanted = (await service.GetServing(messages.GetServingRequest(), context)).state.wanted
    return promotion


async def test_who_waits_for_a_version_is_told_that_another_was_named_before_it_was_taken_up(
    repository: Path,
) -> None:
    status = AdoptionStatus(wanted=1, serving=1)
    promotion = await promoting(Administered(repository, status, lambda: None))
    rollback(repository)
    with pytest.raises(Overtaken):
        await asyncio.wait_for(promotion, 20)


async def test_who_waits_for_a_version_is_told_once_calls_are_answered_with_it(
    repository: Path,
) -> None:
    status = AdoptionStatus(wanted=1, serving=1)
    settled = asyncio.Event()

    async def settle() -> None:
        await settled.wait()

    promotion = await promoting(Administered(repository, status, lambda: None, settle))
    status.want(2)
    status.adopted(2)
    await asyncio.sleep(0.05)
    assert not promotion.done(), "workers answer with version 1"
    settled.set()
    assert (await promotion).state.serving == 2


async def test_who_waited_is_told_what_somebody_else_has_decided_meanwhile(
    repository: Path,
) -> None:
    status = AdoptionStatus(wanted=1, serving=1)
    promotion = await promoting(Administered(repository, status, lambda: None))
    rollback(repository)
    while not promotion.done():  # the gateway had begun with it
        status.want(2)
        status.adopted(2)
        await asyncio.sleep(0.01)
    told = promotion.result().state
    assert (told.serving, told.wanted) == (2, 1)

"""Models administered over the admin port of a real gateway, of one process and of several."""

import asyncio
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from versions import again, nothing, torn_graph

from shopcast_client import Item, Refused, ServingState, ShopcastClient

if TYPE_CHECKING:
    from tests.conftest import Gateway

Serve = Callable[..., "Gateway"]
PATIENCE_S = 120.0


async def until(
    admin: ShopcastClient, holds: Callable[[ServingState], bool], each: Callable[[], object]
) -> ServingState:
    end = time.monotonic() + PATIENCE_S
    while not holds(state := await admin.serving()):
        assert time.monotonic() < end, state
        await asyncio.gather(*(each() for _ in range(4)))  # type: ignore[call-overload]
        await asyncio.sleep(0.1)
    return state


def ended_calls(gateway: "Gateway") -> dict[tuple[str, str], float]:
    """By method and status. Fails where a metric or a sample is there twice."""
    found = re.search(r"metrics on port (\d+)", gateway.said)
    assert found
    with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/metrics", timeout=20) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        keys = [(one.name, tuple(sorted(one.labels.items()))) for one in family.samples]
        assert len(keys) == len(set(keys)), family.name
    [requests] = [one for one in families if one.name == "shopcast_requests"]
    ended = [one for one in requests.samples if one.name == "shopcast_requests_total"]
    return {(one.labels["method"].lstrip("/"), one.labels["code"]): one.value for one in ended}


@pytest.mark.parametrize("workers", [1, 2])
def test_versions_are_promoted_tried_refused_and_taken_back(
    repository: Path, store: Path, serve: Serve, workers: int
) -> None:
    second, torn = again(repository, nothing), again(repository, torn_graph)
    options = ("--admin-port", 0, "--metrics-port", 0, "--workers", workers)
    gateway = serve(repository, store, *options).wait_ready()
    port = re.search(r"administration on port (\d+)", gateway.said)
    assert port

    async def see() -> None:
        async with (
            ShopcastClient(f"127.0.0.1:{port[1]}", timeout_s=PATIENCE_S + 10) as admin,
            ShopcastClient(gateway.address, timeout_s=20.0) as caller,
        ):

            async def ask() -> str:
                items = [Item("i-1", title="Trail shoe"), Item("i-2", title="Lamp")]
                return (
                    await caller.predict(platform="web", user_id="u-1", items=items)
                ).evidence.model_version

            assert (await admin.serving()).serving == 1
            assert [one.version for one in await admin.models()] == [1, second, torn]
            await admin.set_trial(second, share=0.0, shadow=1.0)
            tried = await until(
                admin,
                lambda state: bool(
                    state.trial and state.trial.comparison and state.trial.comparison.compared > 5
                ),
                ask,
            )
            assert tried.trial
            assert tried.trial.running
            assert tried.trial.comparison
            assert tried.trial.comparison.flips == 0, "it is the same again"
            assert (await admin.end_trial()).trial is None
            assert (await admin.promote_model(second, wait_s=PATIENCE_S)).serving == second
            await asyncio.sleep(2.0 if workers > 1 else 0.0)  # each takes it up by itself
            assert await ask() == str(second)
            with pytest.raises(Refused):
                await admin.promote_model(torn, wait_s=PATIENCE_S)
            assert (await admin.roll_back_model(wait_s=PATIENCE_S)).serving == second
            assert (await admin.roll_back_model(wait_s=PATIENCE_S)).serving == 1

    asyncio.run(see())
    counted = ended_calls(gateway)
    assert counted["shopcast.v1.ModelAdminService/RollBackModel", "OK"] == 2
    assert counted["shopcast.v1.ModelAdminService/PromoteModel", "FAILED_PRECONDITION"] == 1
    assert counted["shopcast.v1.PredictionService/Predict", "OK"] > 5
    assert gateway.stop() == 0
    log = gateway.log.read_text()
    audited = re.findall(r"shopcast_gateway\.audit .*ModelAdminService/(\w+)", log)
    assert {"PromoteModel", "RollBackModel", "SetTrial", "EndTrial"} <= set(audited)

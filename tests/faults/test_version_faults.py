"""A version is promoted while calls run: a good one is taken up, a broken one is refused, and no
caller notices but by the version in the answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from faults.clients import Clients, requests, statuses
from faults.processes import metric, tritons_of
from versions import again, nothing, torn_graph

if TYPE_CHECKING:
    from faults.conftest import Tell
    from tests.conftest import Gateway, Platform


@asynccontextmanager
async def promoted(
    platform: "Platform", models: Path, number: int, gateway: "Gateway"
) -> AsyncIterator[None]:
    """While the body runs; then the version before serves again."""
    where = ("--repository", models)
    done = await asyncio.to_thread(platform, "models", "promote", number, *where)
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        done = await asyncio.to_thread(platform, "models", "rollback", *where)
        assert done.returncode == 0, done.stderr
    async with Clients(gateway.address) as clients:
        await clients.until(
            lambda: (
                metric(gateway, "shopcast_model_version") == 1
                and metric(gateway, "shopcast_model_refused") == 0
                and tritons_of(gateway) == 1
            ),
            "the version before serves alone",
        )


async def test_a_version_is_swapped_under_load_without_a_failed_call(
    gateway: "Gateway", models: Path, platform: "Platform", tell: "Tell"
) -> None:
    number = again(models, nothing)
    async with Clients(gateway.address) as clients:
        callers = clients.closed("all", requests(), callers=6, timeout_s=20.0)
        async with callers:
            await clients.until_good("all", 0.0)
            began = time.monotonic()
            async with promoted(platform, models, number, gateway):
                await clients.until(
                    lambda: clients.outcomes[-1].version == str(number), "the new one answers"
                )
                swapped_s = time.monotonic() - began
                await asyncio.sleep(1.0)
            await clients.until_good("all", time.monotonic())
    versions = {one.version for one in clients.outcomes}
    tell(
        "version swapped under load, and back",
        clients.outcomes,
        f"the new one answered {swapped_s:.1f} s after `models promote` was called",
    )
    assert statuses(clients.outcomes) == {"OK": len(clients.outcomes)}
    assert all(one.good for one in clients.outcomes)
    assert versions == {"1", str(number)}


async def test_a_broken_version_is_refused_without_a_failed_call(
    gateway: "Gateway", models: Path, platform: "Platform", tell: "Tell"
) -> None:
    number = again(models, torn_graph)
    async with (
        Clients(gateway.address) as clients,
        clients.closed("all", requests(), callers=6, timeout_s=20.0),
    ):
        await clients.until_good("all", 0.0)
        began = time.monotonic()
        async with promoted(platform, models, number, gateway):
            await clients.until(
                lambda: metric(gateway, "shopcast_model_refused") == 1, "it is refused"
            )
            refused_s = time.monotonic() - began
            await clients.until_good("all", time.monotonic())
    tell(
        "broken version promoted under load",
        clients.outcomes,
        f"refused {refused_s:.1f} s after `models promote` was called",
    )
    assert statuses(clients.outcomes) == {"OK": len(clients.outcomes)}
    assert all(one.good for one in clients.outcomes)
    assert {one.version for one in clients.outcomes} == {"1"}
    assert gateway.logged(f"version {number} is refused, version 1 goes on serving")


async def test_a_file_changed_since_it_was_published_is_not_even_promoted(
    gateway: "Gateway", models: Path, platform: "Platform"
) -> None:
    number = again(models, nothing)
    changed = models / "behavior" / str(number) / "model.onnx"
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    said = (models / "serving.json").read_text()
    done = await asyncio.to_thread(platform, "models", "promote", number, "--repository", models)
    assert done.returncode == 1
    assert "is not the file that was published" in done.stderr
    assert (models / "serving.json").read_text() == said
    assert metric(gateway, "shopcast_model_version") == 1

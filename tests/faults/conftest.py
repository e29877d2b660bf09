"""What the faults share: one model, running gateways, and the tables of what callers saw."""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults.clients import USERS, Clients, Outcome, requests, table
from redis_servers import RedisServer

from shopcast_client import Account, Event, EventKind, Item, ShopcastClient

if TYPE_CHECKING:
    from tests.conftest import Gateway

Serve = Callable[..., "Gateway"]
Tell = Callable[..., None]
TABLES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLES] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if found := config.stash[TABLES]:
        terminalreporter.section("what callers saw")
        terminalreporter.write_line("\n\n".join(found))


@pytest.fixture
def tell(pytestconfig: pytest.Config) -> Tell:
    """Keep a table of outcomes for the end of the run, before anything is asserted of them."""

    def keep(title: str, outcomes: list[Outcome], *remarks: str) -> None:
        pytestconfig.stash[TABLES].append(text := table(title, outcomes, *remarks))
        print(text)

    return keep


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A repository to publish into, copied from the one that SHOPCAST_FAULTS_REPOSITORY names, else
    built."""
    given = os.environ.get("SHOPCAST_FAULTS_REPOSITORY")
    source = Path(given) if given else request.getfixturevalue("built").repository
    return shutil.copytree(source, tmp_path_factory.mktemp("faults") / "models")


@pytest.fixture(scope="session")
def new_gateway(models: Path, serve: Serve) -> Callable[..., "Gateway"]:
    """Start a gateway whose directory knows people and items, and warm it."""

    def start(directory: object, *more: object) -> "Gateway":
        gateway = serve(models, directory, "--metrics-port", 0, *more).wait_ready()
        asyncio.run(_fill(gateway.address))
        return gateway

    return start


async def _fill(address: str) -> None:
    now = datetime.now(UTC)
    events = [
        Event(
            f"e-{user}-{at}",
            Account("web", f"u-{user}"),
            EventKind.VIEW,
            now - timedelta(hours=at + 1),
            Item(f"i-{at}", title=f"Thing {at}"),
        )
        for user in range(USERS)
        for at in range(5)
    ]
    async with ShopcastClient(address, timeout_s=20.0) as client:
        assert (await client.record_events(events)).recorded == len(events)
    async with Clients(address) as clients:
        for _ in range(5):  # the first ones encode
            assert (await clients.ask("first", requests(items=16), 20.0)).good


@pytest.fixture(scope="session")
def shared(
    new_gateway: Callable[..., "Gateway"], tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[Gateway]":
    """A gateway for faults after which it is as before."""
    gateway = new_gateway(tmp_path_factory.mktemp("shared") / "shop.db")
    yield gateway
    assert gateway.stop() == 0


@pytest.fixture
def gateway(shared: "Gateway") -> "Iterator[Gateway]":
    """The shared one, of which no fault may bring out an error that nobody foresaw."""
    logged = len(shared.log.read_text())
    yield shared
    assert shared.process.poll() is None
    assert "unforeseen error" not in shared.log.read_text()[logged:]


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        yield server.start()
    finally:
        server.kill()

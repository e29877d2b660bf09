import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Built, Gateway


@pytest.fixture(scope="session")
def gateway(
    built: "Built", serve: "Callable[..., Gateway]", tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[Gateway]":
    """A gateway with the market's model and people, for tests that only talk to it."""
    folder = tmp_path_factory.mktemp("served") / "store"
    shutil.copytree(built.store.parent, folder)
    gateway = serve(built.repository, folder / built.store.name).wait_ready()
    yield gateway
    assert gateway.stop() == 0

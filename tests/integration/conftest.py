from pathlib import Path

import pytest

from shopcast_gateway.triton.environment import TritonEnvironment, install

REPOSITORY_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def triton_environment() -> TritonEnvironment:
    """The bundled Triton in the repository's `.triton`, installed on first use."""
    return install(REPOSITORY_ROOT / ".triton", progress=print)

"""The Triton that would serve."""

import asyncio

from shopcast_gateway.doctor.finding import Answer, Installation, failed, ok, parts
from shopcast_gateway.errors import StartupError
from shopcast_gateway.triton.environment import locate

_INSTALL = "run `platform triton install`"


def triton(installation: Installation) -> list[Answer]:
    """Whether the bundled Triton is installed, or those elsewhere answer. Starts none."""
    try:
        if not installation.triton_urls:
            locate(installation.triton_home)
            return [ok(f"Triton's environment is in {installation.triton_home}")]
    except StartupError as error:
        return [failed(*parts(error, _INSTALL))]
    return [_elsewhere(installation, url) for url in installation.triton_urls]


def _elsewhere(installation: Installation, url: str) -> Answer:
    try:
        asyncio.run(_ask(installation, url))
    except StartupError as error:
        return failed(*parts(error, f"start Triton at {url}"))
    return ok(f"a Triton server answers at {url}")


async def _ask(installation: Installation, url: str) -> None:
    from shopcast_gateway.backend.triton import TritonBackend

    backend = await TritonBackend.connect(url, repository=installation.repository)
    await backend.close()

"""The Triton that would serve."""

import asyncio

from shopcast_gateway.doctor.finding import Answer, Installation, failed, ok, parts
from shopcast_gateway.errors import StartupError
from shopcast_gateway.triton.environment import locate

_INSTALL = "run `platform triton install`"


def triton(installation: Installation) -> list[Answer]:
    """Whether the bundled Triton is installed, or the one elsewhere answers. Starts none."""
    try:
        if installation.triton_url is None:
            locate(installation.triton_home)
            return [ok(f"Triton's environment is in {installation.triton_home}")]
        asyncio.run(_ask(installation, installation.triton_url))
        return [ok(f"a Triton server answers at {installation.triton_url}")]
    except StartupError as error:
        return [failed(*parts(error, _INSTALL))]


async def _ask(installation: Installation, url: str) -> None:
    from shopcast_gateway.backend.triton import TritonBackend

    backend = await TritonBackend.connect(url, repository=installation.repository)
    await backend.close()

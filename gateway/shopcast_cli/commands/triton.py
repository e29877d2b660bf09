"""`platform triton ...`."""

from pathlib import Path
from typing import Annotated

import typer

from shopcast_cli.console import err, failures, out

app = typer.Typer(no_args_is_help=True, help="The bundled Triton inference server.")


@app.callback()
def triton() -> None:
    """The bundled Triton inference server."""


@app.command()
def install(
    folder: Annotated[
        Path | None,
        typer.Option("--triton-home", help="Where; SHOPCAST_TRITON_HOME or .triton by default."),
    ] = None,
) -> None:
    """Make Triton's own environment from a pinned list: about 80 MB to download, once.

    Does nothing when it is there and current.
    """
    from shopcast_gateway.errors import StartupError
    from shopcast_gateway.triton.environment import default_folder
    from shopcast_gateway.triton.environment import install as make

    home = folder or default_folder()
    with failures(StartupError):
        make(home, progress=lambda line: err.print(f"  {line}"))
    out.print(f"Triton is ready in {home}")

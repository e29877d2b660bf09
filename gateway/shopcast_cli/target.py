"""Where a gateway is and how to connect: the same options in every command that calls one."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shopcast_cli.console import fail

if TYPE_CHECKING:
    from shopcast_client import ShopcastClient

_PLACE = "127.0.0.1:50051"
LARGEST = 2**63 - 1
"""Number of a version or a change."""


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway. ca, cert, key: PEM files; without any of them it is called in plain text.
    token_file: of a bearer token."""

    place: str = _PLACE
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token_file: Path | None = None

    def client(self, *, timeout_s: float) -> "ShopcastClient":
        """A client of it, to be opened; files that cannot be used end the command."""
        from shopcast_client import ShopcastClient

        try:
            return ShopcastClient(
                self.place,
                timeout_s=timeout_s,
                ca=self.ca,
                cert=self.cert,
                key=self.key,
                token_file=self.token_file,
            )
        except OSError as error:
            fail(f"{error.filename} cannot be read ({error.strerror}): name another")
        except ValueError as error:
            fail(error)


LOCAL = Target()
"""What is called where nothing is said."""


def _build(
    target: Annotated[str, typer.Option(help="host:port of the gateway.")] = _PLACE,
    ca: Annotated[
        Path | None,
        typer.Option(
            help="Certificate of the CA that signed the gateway's, PEM; without it, plain text.",
            envvar="SHOPCAST_CA",
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            help="Your certificate, PEM, for a gateway that asks for one.",
            envvar="SHOPCAST_CERT",
        ),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The key of --cert, PEM.", envvar="SHOPCAST_KEY")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File of the bearer token to send; to other machines only with --ca.",
            envvar="SHOPCAST_TOKEN_FILE",
        ),
    ] = None,
) -> Target:
    if (cert is None) != (key is None) or (cert and not ca):
        raise typer.BadParameter("--cert and --key go together, and with --ca", param_hint="--cert")
    return Target(target, ca, cert, key, token_file)


def calls_gateway(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command with a parameter `target: Target` the options that make one."""
    options = inspect.signature(_build).parameters
    signature = inspect.signature(command)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        target = _build(**{name: given.pop(name) for name in options})
        command(target=target, **given)

    run.__signature__ = _replaced(signature, options)  # type: ignore[attr-defined]
    return run


def administers(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command with a parameter `target: Target | None` the options that make one; it is
    None where --target is not given."""
    options = dict(inspect.signature(_build).parameters)
    place = Annotated[
        str | None,
        typer.Option(
            help="host:port of a gateway's --admin-port, whose repository is meant then; without"
            " it, --repository."
        ),
    ]
    options["target"] = options["target"].replace(default=None, annotation=place)
    signature = inspect.signature(command)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        named = {name: given.pop(name) for name in options}
        command(target=None if named["target"] is None else _build(**named), **given)

    run.__signature__ = _replaced(signature, options)  # type: ignore[attr-defined]
    return run


def _replaced(
    signature: inspect.Signature, options: Mapping[str, inspect.Parameter]
) -> inspect.Signature:
    """With the options in place of `target`."""
    parameters = list(signature.parameters.values())
    place = list(signature.parameters).index("target")
    parameters[place : place + 1] = [
        option.replace(kind=parameters[place].kind) for option in options.values()
    ]
    return signature.replace(parameters=parameters)

"""All checks, in order."""

from collections.abc import Callable
from importlib import import_module

from shopcast_gateway.doctor import machine, store, triton
from shopcast_gateway.doctor.finding import Answer, Finding, Installation, Skip, failed

Check = Callable[[Installation], list[Answer]]


def _later(module: str, name: str) -> Check:
    """A check whose module imports packages: where one is missing, the others must still run."""

    def check(installation: Installation) -> list[Answer]:
        return getattr(import_module(f"shopcast_gateway.doctor.{module}"), name)(installation)

    return check


CHECKS: dict[str, Check] = {
    "python": machine.python,
    "packages": machine.packages,
    "triton": triton.triton,
    "ports": machine.ports,
    "access": _later("access", "access"),
    "repository": _later("releases", "repository"),
    "features": _later("releases", "features"),
    "vocabulary": _later("releases", "vocabulary"),
    "warm-up": _later("releases", "warm_up"),
    "gpu": _later("targets", "gpu"),
    "backends": _later("targets", "backends"),
    "directory": store.directory,
    "clock": _later("releases", "clock"),
    "space": machine.space,
}
"""By name. A check that finds several things gives an answer to each."""


def examine(installation: Installation) -> list[Finding]:
    """What every check finds. Creates and changes nothing, starts no server, raises nothing."""
    return [
        Finding(name, answer.state, answer.found, answer.remedy)
        for name, check in CHECKS.items()
        for answer in _answers(check, installation)
    ]


def _answers(check: Check, installation: Installation) -> list[Answer]:
    try:
        return check(installation)
    except Skip as why:
        return [Answer("skipped", str(why))]
    except ModuleNotFoundError as error:
        return [Answer("skipped", f"{error.name} is missing, see packages")]
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return [
            failed(
                f"the check itself came to an end ({what})",
                "report this with the output of `platform doctor --json`",
            )
        ]

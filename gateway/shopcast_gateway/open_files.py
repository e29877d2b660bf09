"""How many files a gateway may have open; each connection takes one."""

import resource

from shopcast_gateway.errors import StartupError

LEAST = 128
"""A gateway has about 30 open before anybody connects; where it cannot, gRPC aborts the process."""


def check_open_files() -> None:
    """Raises StartupError where a gateway would soon have no file left to open."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= most < LEAST:  # negative: as many as it likes
        raise StartupError(
            f"A gateway needs {LEAST} open files and one for each connection, and this one may have"
            f" {most}: raise the limit, as with `ulimit -n 1024`"
        )

"""A gateway in a process of its own whose model is a fake; all else is the real thing.

As a program: `drain_server.py FOLDER OPTIONS`, where OPTIONS is a JSON object; prints its port once
it serves, and its admin port. port, wait_s, grace_s, clean_up_s: of the drain. admin_port: 0 takes
a free one. hang: "close" never ends then. Calls for the platform "slow" take a second, for "never"
no end, and "stubborn" ones cannot be cancelled.
"""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from hostile_server import PATIENCE_S, FakePredictor

from shopcast_gateway import runtime
from shopcast_gateway.core.protocol import Prediction, PredictQuery
from shopcast_gateway.drain import Drain
from shopcast_gateway.logs import Logs
from shopcast_gateway.settings import ServeSettings


class DrainServer:
    """The process, seen from outside."""

    def __init__(
        self,
        folder: Path,
        stdin: int = subprocess.DEVNULL,
        stderr: int | None = None,
        **options: Any,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._log = folder / "server.log"
        command = [sys.executable, __file__, str(folder), json.dumps(options)]
        with self._log.open("a") as errors:
            self._process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr or errors
            )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said, self.log
        self.port, *admin = map(int, said.split())
        self.target = f"127.0.0.1:{self.port}"
        self.admin_targets = [f"127.0.0.1:{port}" for port in admin]

    @property
    def log(self) -> str:
        """Everything it has logged."""
        return self._log.read_text()

    @property
    def steps(self) -> list[str]:
        """What it has logged of its stop."""
        return re.findall(r"stopping: (.*)", self.log)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self, limit_s: float = PATIENCE_S) -> int:
        """Its exit status, once it has ended."""
        return self._process.wait(limit_s)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class _FakeEngine:
    version, address, prior = 1, "nowhere", None

    def __init__(self, hang: str) -> None:
        self._hang = hang
        self._fake = FakePredictor()

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        if query.account.platform.startswith("slow"):
            await asyncio.sleep(1.0)
        if query.account.platform == "never":
            await asyncio.Event().wait()
        while query.account.platform == "stubborn":
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return await self._fake.predict(query, timeout_s=timeout_s)

    async def close(self) -> None:
        if self._hang == "close":
            time.sleep(3600)  # noqa: ASYNC251 - the event loop hangs, and with it all that waits for a time

    async def ended(self) -> int:
        await asyncio.Event().wait()
        return 0

    async def watch(self, *_: Any) -> None:
        await asyncio.Event().wait()

    async def kill(self) -> None:
        pass


async def _serve(folder: Path, options: dict[str, Any]) -> None:
    async def start(*_: Any) -> _FakeEngine:
        return _FakeEngine(options.get("hang", ""))

    settings = ServeSettings(
        repository=folder,
        directory=options.get("directory", str(folder / "shop.db")),
        host="127.0.0.1",
        port=options.get("port", 0),
        triton_urls=(),
        triton_home=folder,
        triton_log=folder / "triton.log",
        admin_port=options.get("admin_port"),
        drain=Drain(
            **{key: options[key] for key in ("wait_s", "grace_s", "clean_up_s") if key in options}
        ),
    )
    with (
        mock.patch.object(runtime, "versions_to_try", lambda _: ([1], None)),
        mock.patch.object(runtime.Engine, "first_that_passes", start),
    ):
        await runtime.run(
            settings,
            lambda up: print(up.address.rpartition(":")[2], up.admin or "", flush=True),
        )


if __name__ == "__main__":
    Logs().set_up()
    asyncio.run(_serve(Path(sys.argv[1]), json.loads(sys.argv[2])))

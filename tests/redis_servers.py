"""Redis servers of the tests' own: on free ports of this machine, in folders of their own."""

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

PATIENCE_S = 60.0


def free_port() -> int:
    """A port that is free, and 10,000 above it, where a node of a cluster talks to others."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            if port + 10_000 < 65_536:
                try:
                    other.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    continue
                return port


class RedisServer:
    """A redis-server process that keeps what is written to it in `folder`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it, or start it again, and wait until it answers."""
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: apt-get install redis-server"
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program, "--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--dir", str(self.folder), "--save", "", "--daemonize", "no"),
                    *("--appendonly", "yes", "--appendfsync", "always"),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            return bool(self.call("PING"))
        except (RedisError, OSError):
            return False

    def call(self, *command: Any, password: str | None = None) -> Any:
        """What a command answers."""
        with Redis(
            port=self.port, password=password, protocol=2, socket_timeout=PATIENCE_S
        ) as client:
            return client.execute_command(*command)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


class RedisCluster:
    """Three servers that share the slots."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [
            RedisServer(folder / str(number), "--cluster-enabled", "yes") for number in range(3)
        ]
        self.url = self.nodes[0].url

    def start(self) -> Self:
        """Start and join them, and wait until they agree."""
        for node in self.nodes:
            node.start()
        for node, slots in zip(self.nodes, ((0, 5460), (5461, 10922), (10923, 16383)), strict=True):
            node.call("CLUSTER", "ADDSLOTSRANGE", *slots)
            node.call("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        self.wait_until_settled()
        return self

    def wait_until_settled(self) -> None:
        """Until every node knows the others and finds the cluster well."""
        end = time.monotonic() + PATIENCE_S
        while not all(map(self._is_settled, self.nodes)):
            assert time.monotonic() < end, "the cluster does not settle"
            time.sleep(0.05)

    def _is_settled(self, node: RedisServer) -> bool:
        info = node.call("CLUSTER INFO")
        text = (
            info
            if isinstance(info, dict)
            else dict(line.split(":", 1) for line in info.decode().split())
        )
        return text["cluster_state"] == "ok" and text["cluster_known_nodes"] == "3"

    def flush(self) -> None:
        """Empty all of them."""
        for node in self.nodes:
            node.call("FLUSHALL")

    def kill(self) -> None:
        """End them at once."""
        for node in self.nodes:
            node.kill()

"""What the tests with real processes share: one market, one model, and running gateways."""

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
from filelock import FileLock
from pydantic import BaseModel

from shopcast_client import Account, Event, EventKind, Item, ShopcastClient
from shopcast_gateway.triton.environment import TritonEnvironment, install, locate

# The tests' processes share few cores, and what they compute is too small to share among threads.
# Said before the first library reads it; children inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
# As the command has it: no test tells ONNX Runtime's makers of itself.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# How long an example takes says more of what else the machine does than of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

REPOSITORY_ROOT = Path(__file__).parents[1]
DAYS = 100
PATIENCE_S = 180.0
"""For what takes seconds on a quiet machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First two files that take long and need no model: two processes work through them while a
    third builds the model that all need."""
    early = ("test_release.py", "test_exported_encoders.py")
    items.sort(key=lambda item: item.path.name not in early)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all processes of this test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def triton_environment(run_folder: Path) -> TritonEnvironment:
    """The bundled Triton that SHOPCAST_TRITON_HOME names, else the one in the repository's
    `.triton`, installed on first use."""
    if given := os.environ.get("SHOPCAST_TRITON_HOME"):
        return locate(Path(given))
    with FileLock(run_folder / "triton.lock"):
        return install(REPOSITORY_ROOT / ".triton", progress=print)


def wait_until(holds: Callable[[], Any], what: str, *, timeout_s: float = PATIENCE_S) -> Any:
    """Poll until something holds, and return it."""
    end = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < end, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.05)
    return found


@pytest.fixture(autouse=True)
def log_handlers() -> Iterator[None]:
    """Commands that set up logging in this process leave no handler on a stream that is closed."""
    before = logging.root.handlers[:]
    yield
    for handler in set(logging.root.handlers) - set(before):
        logging.root.removeHandler(handler)


@pytest.fixture(scope="session", name="wait_until")
def wait_until_fixture() -> Callable[..., Any]:
    return wait_until


def variables(**more: str) -> dict[str, str]:
    """The environment of a child: no model hub is asked."""
    quiet = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    return os.environ | quiet | more


Platform = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def platform() -> Platform:
    """Run `platform ...` as a process of its own, to its end."""

    def run(*arguments: object, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "shopcast_cli", *map(str, arguments)],
            env=variables(**more),
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * PATIENCE_S,
        )

    return run


class Built(BaseModel, frozen=True):
    """A simulated market and what the commands made of it. Read only: tests work on copies.

    report: what `build-model --json` printed. summary: what `simulate --json` printed.
    """

    events: Path
    links: Path
    repository: Path
    store: Path
    report: dict[str, Any]
    summary: dict[str, Any]


@pytest.fixture(scope="session")
def built(run_folder: Path, platform: Platform) -> Built:
    """Logs of three platforms that end last Monday, a model built from them, and a directory. Of
    the folder that SHOPCAST_TESTS_BUILT names, where one run leaves them to the next."""
    folder = Path(os.environ.get("SHOPCAST_TESTS_BUILT", run_folder / "chain"))
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "chain.json"
    with FileLock(folder / "chain.lock"):
        if not made.exists():
            told = _build(Path(tempfile.mkdtemp(dir=folder)), platform)
            made.write_text(told.model_dump_json(), encoding="utf-8")
    return Built.model_validate_json(made.read_bytes())


def _build(folder: Path, platform: Platform) -> Built:
    market, repository, store = folder / "market", folder / "models", folder / "store" / "shop.db"
    today = datetime.now(UTC).date()
    start = today - timedelta(days=today.weekday() + DAYS)

    def run(*arguments: object) -> dict[str, Any]:
        done = platform(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    size = ("--people", 300, "--platforms", 3, "--items-per-platform", 60, "--days", DAYS)
    summary = run("simulate", "--out", market, *size, "--start", start)
    logs = ("--events", market / "events", "--links", market / "links.csv")
    short = ("--encoder-steps", 4, "--head-epochs", 10)
    places = ("--repository", repository, "--run-folder", folder / "run")
    report = run("build-model", *logs, *places, *short)
    run("directory", "import", *logs, "--directory", store)
    return Built(
        events=market / "events",
        links=market / "links.csv",
        repository=repository,
        store=store,
        report=report,
        summary=summary,
    )


@pytest.fixture
def repository(built: Built, tmp_path: Path) -> Path:
    """A model repository to spoil: its files are links, so replace them, never write into them."""
    return shutil.copytree(built.repository, tmp_path / "models", copy_function=os.link)


@pytest.fixture
def store(built: Built, tmp_path: Path) -> Path:
    """A directory of the market's people to write into."""
    return shutil.copytree(built.store.parent, tmp_path / "store") / built.store.name


def listing(repository: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time of change, and every folder."""
    found = {path: path.stat() for path in repository.rglob("*")}
    return {
        str(path.relative_to(repository)): (status.st_size, status.st_mtime_ns)
        for path, status in found.items()
    }


@pytest.fixture(scope="session", name="listing")
def listing_fixture() -> Callable[[Path], dict[str, tuple[int, int]]]:
    return listing


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Gateway:
    """A `platform serve` process. address: of the gateway. triton: of its Triton."""

    def __init__(self, log: Path, arguments: tuple[object, ...], more: dict[str, str]) -> None:
        self.log = log
        self._said = log.with_suffix(".out")
        command = [sys.executable, "-m", "shopcast_cli", "serve", *map(str, arguments)]
        with log.open("w") as errors, self._said.open("w") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=log.parent,  # with a store elsewhere its Triton's log is written here
                env=variables(**more),
            )
        self.address = self.triton = ""

    def wait_ready(self) -> "Gateway":
        """Wait for the line that says where it serves."""
        found = wait_until(self._line, "the gateway serves")
        self.address, self.triton = found.groups()
        return self

    @property
    def said(self) -> str:
        """What it wrote on stdout."""
        return self._said.read_text()

    def logged(self, words: str) -> bool:
        """Whether it has logged something, or does soon: a thread of its own writes the log."""
        until = time.monotonic() + PATIENCE_S
        while words not in self.log.read_text() and time.monotonic() < until:
            time.sleep(0.05)
        return words in self.log.read_text()

    def family(self) -> list[psutil.Process]:
        """The processes it started, and theirs; those that have ended left out."""
        if self.process.poll() is not None:
            return []
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in below if _runs(one)]

    def tritons(self) -> list[psutil.Process]:
        """The Triton servers among its processes."""
        found = []
        for process in self.family():
            with suppress(psutil.NoSuchProcess):  # it may end while we look
                if process.name() == "tritonserver":
                    found.append(process)
        return found

    def meet(self, *users: str) -> None:
        """Have seen these shoppers of the platform web before."""

        async def record() -> None:
            async with ShopcastClient(self.address, timeout_s=PATIENCE_S) as client:
                now, item = datetime.now(UTC), Item("i-1")
                views = [
                    Event(f"view-{user}", Account("web", user), EventKind.VIEW, now, item)
                    for user in users
                ]
                assert (await client.record_events(views)).recorded == len(users)

        asyncio.run(record())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; returns its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def _line(self) -> "re.Match[str] | None":
        found = re.search(
            r"serving version \d+ on (\S+) \(Triton on ([^\s,)]+)", self._said.read_text()
        )
        assert found or self.process.poll() is None, self.log.read_text()
        return found


@pytest.fixture(scope="session")
def serve(
    tmp_path_factory: pytest.TempPathFactory, triton_environment: TritonEnvironment
) -> Iterator[Callable[..., Gateway]]:
    """Start `platform serve` on a free port; what still runs at the end of the session is ended."""
    started: list[Gateway] = []
    home = str(triton_environment.python_bin.parent)

    def start(repository: Path, store: Path, *more: object) -> Gateway:
        log = tmp_path_factory.mktemp("gateway") / "gateway.log"
        places = ("--repository", repository, "--directory", store)
        arguments = ("--port", 0, "--drain-wait", 0, *places, *more)
        started.append(Gateway(log, arguments, {"SHOPCAST_TRITON_HOME": home}))
        return started[-1]

    yield start
    for gateway in started:
        if gateway.process.poll() is None:
            gateway.process.kill()  # its launcher ends the rest
            gateway.process.wait()

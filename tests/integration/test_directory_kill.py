"""What record() has acknowledged survives a process killed at any moment."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from shopcast_domain.events import Account, Item
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite import SqliteDirectory

BATCH = 7

WRITER = f"""
import asyncio, sys
from pathlib import Path
from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite import SqliteDirectory

async def main():
    directory = await SqliteDirectory.open(Path(sys.argv[1]), Pseudonyms(bytes(32)))

    async def write(user):
        batch = 0
        while True:
            name = f"{{sys.argv[2]}}-{{user}}-{{batch}}"
            account = Account("shop", name)
            await directory.record([
                Event(f"{{name}}-{{n}}", account, EventKind.VIEW, 1e9 + n, Item("item"))
                for n in range({BATCH})
            ])
            print(name, flush=True)
            batch += 1

    await asyncio.gather(*map(write, range(3)))

asyncio.run(main())
"""


def write_until_killed(path: Path, run: int, alive_s: float) -> list[str]:
    """Names of the batches acknowledged by a writer that is killed `alive_s` after its first."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(run)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(alive_s)
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
    assert writer.returncode == -signal.SIGKILL
    return [line for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")]


async def test_acknowledged_events_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "directory.sqlite"
    moments = random.Random(7)
    acknowledged: list[str] = []
    for run in range(5):
        # Each run also opens the file that the one before left behind.
        acknowledged += await asyncio.to_thread(
            write_until_killed, path, run, moments.uniform(0.0, 0.25)
        )
    assert len(acknowledged) >= 5
    directory = await SqliteDirectory.open(path, Pseudonyms(bytes(32)))
    try:
        for name in acknowledged:
            account = Account("shop", name.strip())
            reading = await directory.read(account, (Item("item"),), before_s=2e9, limit=100)
            assert len(reading.window) == BATCH
        views = reading.candidates.item_tally[0, 0]
        assert views >= BATCH * len(acknowledged)
        assert views % BATCH == 0  # no call is there in part
    finally:
        await directory.close()

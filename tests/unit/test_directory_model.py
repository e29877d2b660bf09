"""Random histories: the embedded directory does as the model of directory_model.py."""

import asyncio
import tempfile
from pathlib import Path

from directory_model import (
    CROWDED_OUT,
    PSEUDONYMS,
    Operation,
    crowds,
    histories,
    play,
    play_at_once,
)
from hypothesis import example, given, settings

from shopcast_gateway.directory.sqlite import SqliteDirectory


@settings(max_examples=40, deadline=None)
@given(histories)
@example(CROWDED_OUT)
def test_any_history_reads_as_the_model_says(history: list[Operation]) -> None:
    async def run(path: Path) -> None:
        directory = await SqliteDirectory.open(path, PSEUDONYMS)
        try:
            await play(directory, history)
        finally:
            await directory.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "directory.sqlite"))


@settings(max_examples=40, deadline=None)
@given(crowds)
def test_calls_at_once_from_two_clients_leave_everything_whole(history: list[Operation]) -> None:
    async def run(path: Path) -> None:
        # What is asked here is whether it stays whole, not how long a busy disk takes.
        both = [await SqliteDirectory.open(path, PSEUDONYMS, busy_s=60.0) for _ in range(2)]
        try:
            await play_at_once(both, history)
        finally:
            for directory in both:
                await directory.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "directory.sqlite"))

"""Random histories: the embedded directory does as the model of directory_model.py."""

import asyncio
import tempfile
from pathlib import Path

from directory_model import PSEUDONYMS, Operation, histories, play
from hypothesis import given, settings

from shopcast_gateway.directory.sqlite import SqliteDirectory


@settings(max_examples=40, deadline=None)
@given(histories)
def test_any_history_reads_as_the_model_says(history: list[Operation]) -> None:
    async def run(path: Path) -> None:
        directory = await SqliteDirectory.open(path, PSEUDONYMS)
        try:
            await play(directory, history)
        finally:
            await directory.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "directory.sqlite"))

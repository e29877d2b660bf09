"""The embedded directory does what every directory must."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from directory_events import DirectoryConformance
from directory_people import IdentityConformance

from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.sqlite import SqliteDirectory


class TestSqliteDirectory(DirectoryConformance, IdentityConformance):
    @pytest.fixture
    async def directory(self, tmp_path: Path) -> AsyncIterator[Directory]:
        directory = await SqliteDirectory.open(tmp_path / "directory.sqlite", Pseudonyms(bytes(32)))
        yield directory
        await directory.close()

"""The directory in Redis does what every directory must, in one server and in a cluster."""

from collections.abc import AsyncIterator, Iterator

import pytest
from directory_events import DirectoryConformance
from directory_people import IdentityConformance
from redis_servers import RedisCluster, RedisServer

from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.redis import RedisDirectory

PSEUDONYMS = Pseudonyms(bytes(32))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster.start()
    finally:
        cluster.kill()


class TestRedisDirectory(DirectoryConformance, IdentityConformance):
    @pytest.fixture
    async def directory(self, server: RedisServer) -> AsyncIterator[Directory]:
        server.call("FLUSHALL")
        directory = await RedisDirectory.open(server.url, PSEUDONYMS, timeout_s=20)
        yield directory
        await directory.close()


class TestRedisCluster(DirectoryConformance, IdentityConformance):
    @pytest.fixture
    async def directory(self, cluster: RedisCluster) -> AsyncIterator[Directory]:
        cluster.flush()
        directory = await RedisDirectory.open(cluster.url, PSEUDONYMS, timeout_s=20)
        yield directory
        await directory.close()

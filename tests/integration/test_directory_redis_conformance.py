"""The directory in Redis does what every directory must, in one server and in a cluster."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from directory_events import DirectoryConformance
from directory_model import CROWDED_OUT, Operation, crowds, histories, play, play_at_once
from directory_people import IdentityConformance
from hypothesis import HealthCheck, example, given, settings
from redis_servers import RedisCluster, RedisServer

from shopcast_gateway.directory.protocol import Directory
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.redis import RedisDirectory

PSEUDONYMS = Pseudonyms(bytes(32))


class TestRedisDirectory(DirectoryConformance, IdentityConformance):
    @pytest.fixture
    async def directory(self, redis_server: RedisServer) -> AsyncIterator[Directory]:
        redis_server.call("FLUSHALL")
        directory = await RedisDirectory.open(redis_server.url, PSEUDONYMS, timeout_s=20)
        yield directory
        await directory.close()


class TestRedisCluster(DirectoryConformance, IdentityConformance):
    @pytest.fixture
    async def directory(self, redis_cluster: RedisCluster) -> AsyncIterator[Directory]:
        redis_cluster.flush()
        directory = await RedisDirectory.open(redis_cluster.url, PSEUDONYMS, timeout_s=20)
        yield directory
        await directory.close()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(histories)
@example(CROWDED_OUT)
def test_any_history_reads_as_the_model_says(
    redis_server: RedisServer, history: list[Operation]
) -> None:
    async def run() -> None:
        directory = await RedisDirectory.open(redis_server.url, PSEUDONYMS, timeout_s=20)
        try:
            await play(directory, history)
        finally:
            await directory.close()

    redis_server.call("FLUSHALL")
    asyncio.run(run())


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(crowds)
def test_calls_at_once_from_two_clients_leave_everything_whole(
    redis_server: RedisServer, history: list[Operation]
) -> None:
    async def run() -> None:
        directories = [
            await RedisDirectory.open(redis_server.url, PSEUDONYMS, timeout_s=20) for _ in range(2)
        ]
        try:
            await play_at_once(directories, history)
        finally:
            for directory in directories:
                await directory.close()

    redis_server.call("FLUSHALL")
    asyncio.run(run())

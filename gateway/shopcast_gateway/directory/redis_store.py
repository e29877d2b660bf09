"""A Redis server or cluster: reaching it, running scripts there, and what can go wrong."""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Self

from redis import exceptions as errors
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shopcast_gateway.directory.places import redis_url, shown, unusable
from shopcast_gateway.directory.redis_fitness import check_fit, policy_of_loss, without_log
from shopcast_gateway.directory.redis_packing import Argument
from shopcast_gateway.errors import BadRequest, StartupError, Unavailable

_log = logging.getLogger(__name__)

_CONNECTIONS = 64  # to a server at once; further calls wait for one
_LOOK_S = 10.0  # between looks at whether what is added is kept
_PAUSE_S = 0.02  # before asking a cluster again that is not settled
_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_LIBRARY = ("keys", "accounts", "links", "journal", "events", "data")
_UNSETTLED = (errors.TryAgainError, errors.ClusterError)
_AWAY = (
    errors.ConnectionError,
    errors.TimeoutError,
    errors.RedisClusterException,
    errors.ClusterError,
    errors.OutOfMemoryError,
    errors.TryAgainError,
    errors.AskError,
    OSError,
)
_COMMAND = re.compile(r"run the '([\w|]+)' command")
# What Redis 7.0 says, and newer ones, of a command that a script runs.
_FORBIDDEN_IN_SCRIPT = ("The user executing the script", "ACL failure in script")
_UNKNOWN_COMMAND = re.compile(r"unknown command '(\w+)'")
_UNKNOWN_IN_SCRIPT = "Unknown Redis command"
_NO_SUCH_DATABASE = ("DB index is out of range", "SELECT is not allowed in cluster mode")
# What Redis says of a command of many arguments while a connection has not named a user.
_UNKNOWN_CALLER = "Protocol error: unauthenticated"
_AWAY_CODES = {"BUSY", "LOADING", "LOST", "MISCONF", "NOAUTH", "NOREPLICAS", "ROTATED"}


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script as the server gets it. digest: by which it is known there. adds: what is to be
    kept, so that a server that is full refuses it."""

    source: str
    digest: str
    reads_only: bool
    adds: bool


@cache
def script(name: str) -> Script:
    """A script of redis_scripts, with what they share put after its first line."""
    folder = files("shopcast_gateway.directory") / "redis_scripts"
    head, rest = (folder / f"{name}.lua").read_text().split("\n", 1)
    shared = (folder / "library" / f"{part}.lua" for part in _LIBRARY)
    source = "\n".join((head, *(part.read_text() for part in shared), rest))
    digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(source, digest, "no-writes" in head, "flags" not in head)


class RedisStore:
    """One directory's keys in a server or cluster.

    Every call takes `timeout_s` at most, then raises Unavailable, as it does when the server is
    away or cannot be used. What such a call was to write may have been written.
    """

    def __init__(
        self, client: "Redis | RedisCluster", name: str, place: str, timeout_s: float
    ) -> None:
        self._client = client
        self._name = name
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(_CONNECTIONS)
        self._closed = self._throws_away = False
        self._without_log: frozenset[str] = frozenset()
        self._look_at_s = time.monotonic() + _LOOK_S
        self._keys = (f"{{{name}}}:meta", f"{{{name}}}:never")
        self.place = place

    @classmethod
    async def connect(cls, url: str, name: str, *, timeout_s: float) -> Self:
        """Find out whether it is a server or a cluster, and whether it will do. Raises
        StartupError."""
        url = redis_url(url)
        place = shown(url)
        if not _NAME.fullmatch(name):
            raise StartupError("A directory's name has letters, digits, `_`, `.` and `-` only.")
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            # What writes must not be sent twice; what reads is sent again below.
            "retry": Retry(NoBackoff(), 0),
        }
        try:
            client: Redis | RedisCluster = Redis.from_url(url, **options)
        except (ValueError, TypeError):
            raise unusable(url) from None
        store = cls(client, name, place, timeout_s)
        try:
            info = await store._information()
            servers = {place: info}
            if info.get("cluster_enabled"):
                await client.aclose()
                if url.startswith("unix:"):
                    raise StartupError(
                        f"{place} is a node of a cluster: name it by host and port, redis://..."
                    )
                cluster = RedisCluster.from_url(url, max_connections=2 * _CONNECTIONS, **options)
                store._client = cluster
                async with store._reaching(), store._with_rights():
                    await cluster.initialize()
                servers = await store._of_primaries(cluster)
            for address, of_one in servers.items():
                check_fit(of_one, address)
            store._without_log = without_log(servers, ())
            await store._check_rights()
        except Unavailable as error:
            await store.close()
            raise StartupError(
                f"The directory at {place} cannot be reached ({error}): start Redis there, or name"
                " another place with --directory"
            ) from None
        except BaseException:
            await store.close()
            raise
        return store

    async def run(self, name: str, *arguments: Argument) -> Any:
        """What a script answers, in one round trip. Raises Unavailable for one that adds something
        while the server throws keys away when it is full."""
        called = script(name)
        if called.adds:
            await self._check_keeping()
        async with self._reaching():
            return await self._run(called, arguments)

    async def pipeline(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """What commands answer that are sent together, with no transaction around them."""
        if not commands:
            return []
        async with self._reaching():
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            # By itself redis-py would put the command in front of what the server says.
            replies = list(await _answer(pipeline.execute(raise_on_error=False)))
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies

    def key(self, name: str) -> str:
        """A key that lies with the directory's others."""
        return f"{{{self._name}}}:{name}"

    def spread_key(self, name: str) -> str:
        """A key of the directory that may lie anywhere in a cluster."""
        return f"{self._name}:{name}"

    async def size_bytes(self) -> int:
        """Memory the server uses, or all primaries of the cluster do."""
        return sum(int(one["used_memory"]) for one in (await self._of_servers()).values())

    async def close(self) -> None:
        """Wait for what is under way, no longer than it may take, and disconnect."""
        if self._closed:
            return
        self._closed = True
        for _ in range(_CONNECTIONS):
            await self._places.acquire()
        await self._client.aclose()

    async def _of_servers(self) -> dict[str, dict[str, Any]]:
        """What the server, or each primary, says of its memory and of its log, by its address."""
        if isinstance(self._client, RedisCluster):
            return await self._of_primaries(self._client)
        async with self._reaching():
            return {self.place: await self._client.info("memory", "persistence")}

    async def _check_keeping(self) -> None:
        """As at the start, for who sets a server otherwise while it is used. Raises Unavailable."""
        if (now_s := time.monotonic()) >= self._look_at_s:
            self._look_at_s = now_s + _LOOK_S
            before = self._throws_away
            with suppress(Unavailable):  # of another primary, perhaps, than the call needs
                found = await self._of_servers()
                self._throws_away = any(map(policy_of_loss, found.values()))
                self._without_log = without_log(found, self._without_log)
            if self._throws_away and not before:
                _log.error(
                    "the directory at %s throws keys away when its memory is full: nothing is"
                    " recorded until its maxmemory-policy is noeviction",
                    self.place,
                )
        if self._throws_away:
            raise Unavailable("the directory throws keys away when its memory is full")

    async def _information(self) -> dict[str, Any]:
        """What the server says of itself; the first that it is asked. Raises StartupError."""
        async with self._reaching(), self._with_rights():
            try:
                found: dict[str, Any] = await self._client.info()
            except errors.AuthenticationError:
                raise StartupError(
                    f"{self.place} does not admit the user and password of the URL, or asks for"
                    " them: name those it knows, redis://USER:PASSWORD@HOST:PORT/0"
                ) from None
            except errors.ResponseError as error:
                if not str(error).startswith(_NO_SUCH_DATABASE):
                    raise
                raise StartupError(
                    f"{self.place} has no database of the number in the URL: name one that it has,"
                    " redis://HOST:PORT/0"
                ) from None
        return found

    async def _check_rights(self) -> None:
        """A script that may not run one of its commands would end halfway. Raises StartupError."""
        async with self._reaching(), self._with_rights():
            found = await self._run(script("rights"), (self.spread_key("never"),))
        lacking, unknown = ([command.decode() for command in of] for of in found)
        if unknown:
            raise self._without(unknown)
        if lacking:
            raise self._forbidden(lacking)

    @asynccontextmanager
    async def _with_rights(self) -> AsyncIterator[None]:
        """Raises StartupError where the user may not run what is run inside, or the server does not
        know it."""
        try:
            yield
        except errors.NoPermissionError as error:
            command = _COMMAND.search(str(error))
            found = command[1].upper() if command else "scripts"
            raise self._forbidden([found]) from None
        except errors.ResponseError as error:
            if (unknown := _UNKNOWN_COMMAND.match(str(error))) is None:
                raise
            raise self._without([unknown[1].upper()]) from None

    def _forbidden(self, commands: Sequence[str]) -> StartupError:
        return StartupError(
            f"The user of Redis at {self.place} may not run {', '.join(commands)}, or not on the"
            f" keys {{{self._name}}}:* and {self._name}:*: grant that with ACL SETUSER, or name"
            " another user in the URL"
        )

    def _without(self, commands: Sequence[str]) -> StartupError:
        return StartupError(
            f"Redis at {self.place} does not know {', '.join(commands)}: let them have their own"
            " names there (rename-command), or name another server with --directory"
        )

    async def _of_primaries(self, cluster: RedisCluster) -> dict[str, dict[str, Any]]:
        """What each primary says of itself, by its address."""
        found: dict[str, dict[str, Any]] = {}
        async with self._reaching():
            for node in cluster.get_primaries():
                found[node.name] = await cluster.info(target_nodes=node)
        return found

    async def _connect_anew(self) -> None:
        """Leave a server that was a primary: the address may lead to the new one by now.

        What is under way keeps its connection until it is over. Nodes of a cluster say themselves
        where to go.
        """
        if isinstance(self._client, Redis):
            pool = self._client.connection_pool
            await pool.update_active_connections_for_reconnect()
            with suppress(errors.RedisError, OSError):
                await pool.disconnect(inuse_connections=False)

    async def _run(self, called: Script, arguments: Sequence[Argument]) -> Any:
        command = (called.digest, len(self._keys), *self._keys, *arguments)
        repeats = 1 if called.reads_only else 0
        while True:
            try:
                return await self._evaluate(called, command)
            except errors.ConnectionError:
                # A connection that broke, perhaps long ago: nothing is done twice by reading.
                if repeats == 0:
                    raise
                repeats -= 1
            except _UNSETTLED:
                # A failover or a move of the slot is going on; the time limit ends this.
                await asyncio.sleep(_PAUSE_S)

    async def _evaluate(self, called: Script, command: tuple[Argument, ...]) -> Any:
        try:
            return await _answer(self._client.execute_command("EVALSHA", *command))
        except errors.NoScriptError:  # the server is new, or was started again
            eval_command = ("EVAL", called.source, *command[1:])
            return await _answer(self._client.execute_command(*eval_command))

    @asynccontextmanager
    async def _reaching(self) -> AsyncIterator[None]:
        """Turns what goes wrong into Unavailable. Says what the server's error is called, since its
        text may quote the command."""
        if self._closed:
            raise Unavailable("The directory is closed.")
        try:
            async with asyncio.timeout(self._timeout_s), self._places:
                yield
        except TimeoutError:
            raise Unavailable(f"no answer within {self._timeout_s:g} s") from None
        except errors.ReadOnlyError as error:
            await self._connect_anew()
            raise Unavailable(f"the directory cannot be used now: {type(error).__name__}") from None
        except _AWAY as error:
            raise Unavailable(f"the directory cannot be used now: {type(error).__name__}") from None
        except errors.ResponseError as error:
            if isinstance(error, errors.NoPermissionError) or str(error).startswith(
                _FORBIDDEN_IN_SCRIPT
            ):
                raise Unavailable(
                    "the directory cannot be used now: its user of Redis may not run a command that"
                    " is needed, or not on its keys"
                ) from None
            if _UNKNOWN_COMMAND.match(str(error)) or str(error).startswith(_UNKNOWN_IN_SCRIPT):
                raise Unavailable(
                    "the directory cannot be used now: its Redis does not know a command that is"
                    " needed"
                ) from None
            unknown = str(error).startswith(_UNKNOWN_CALLER)
            code = "NOAUTH" if unknown else str(error).split(" ", 1)[0]
            if code == "PLATFORMS":
                raise BadRequest("platform", "a directory in Redis holds 65,535 at most") from None
            if code not in _AWAY_CODES:
                raise
            raise Unavailable(f"the directory cannot be used now: {code}") from None


async def _answer(asked: Awaitable[Any]) -> Any:
    try:
        return await asked
    except AttributeError:
        # What becomes of a call in redis-py while another finds the node away, and closes its
        # connections, this call's too.
        raise errors.ConnectionError("closed meanwhile") from None

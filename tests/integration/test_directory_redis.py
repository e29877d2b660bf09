"""What is special to the directory in Redis: what it asks of servers, and servers that fail it."""

import asyncio
import contextlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from certificates import Authority
from redis_servers import RedisCluster, RedisServer, free_port

from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.directory import redis, redis_store
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.redis import RedisDirectory
from shopcast_gateway.directory.types import LinkKind, LinkStatement, Purpose, Retention
from shopcast_gateway.errors import BadRequest, StartupError, Unavailable

OLD_KEY, NEW_KEY = bytes(32), b"n" * 32
PSEUDONYMS = Pseudonyms(OLD_KEY)
RAW_ID = "anna.muster-4711@example.org"
ANNA, ANNA_B = Account("shop-a", RAW_ID), Account("shop-b", RAW_ID)
SHOE = Item("s1", "Trail shoe", "Nordwind", "shoes", 89.0)
TIMEOUT_S = 0.5
PASSWORD = "secret-password"  # noqa: S105 - of a server of the test
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
SLACK_S = 5.0  # of a busy machine


def event(n: int, account: Account = ANNA) -> Event:
    return Event(f"{account.user_id}/{n}", account, EventKind.VIEW, 1_750_000_000.0 + n, SHOE)


@contextlib.asynccontextmanager
async def opened(
    url: str, pseudonyms: Pseudonyms = PSEUDONYMS, **options: Any
) -> AsyncIterator[RedisDirectory]:
    directory = await RedisDirectory.open(url, pseudonyms, **({"timeout_s": 20.0} | options))
    try:
        yield directory
    finally:
        await directory.close()


async def views(directory: RedisDirectory, account: Account = ANNA) -> int:
    return len((await directory.read(account, (), before_s=2e9, limit=10_000)).window)


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    """The server that all tests share, empty."""
    redis_server.call("FLUSHALL")
    return redis_server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server to do harm to."""
    server = RedisServer(tmp_path / "redis")
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> RedisCluster:
    redis_cluster.flush()
    return redis_cluster


# Round trips


class Proxy:
    """Stands before a server and counts how often something is said after an answer. port: where
    new connections lead."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.round_trips = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.port)
        asks = True

        def asked() -> None:
            nonlocal asks
            self.round_trips += asks
            asks = False

        def answered() -> None:
            nonlocal asks
            asks = True

        for pair in ((reader, to_writer, asked), (to_reader, writer, answered)):
            self._tasks.add(asyncio.create_task(self._pump(*pair)))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: Callable[[], None]
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while content := await reader.read(2**16):
                passed()
                writer.write(content)
        writer.close()


async def test_every_operation_is_one_round_trip(server: RedisServer) -> None:
    vectors = {bytes([n]) * 16: np.ones(4, np.float32) for n in range(50)}
    many = [event(n, account) for account in (ANNA, ANNA_B) for n in range(1_000)]
    candidates = [Item(f"s{n}") for n in range(1_000)]
    newest = 0
    operations: dict[str, Callable[[RedisDirectory], Awaitable[Any]]] = {
        "record": lambda d: d.record(many),
        "link": lambda d: d.link(ANNA, ANNA_B, kind=LinkKind.LOGIN, confidence=0.5),
        "read": lambda d: d.read(ANNA, candidates, before_s=2e9, limit=9),
        "history": lambda d: d.history(ANNA, before_s=2e9, limit=99, as_of_s=2e9),
        "resolve": lambda d: d.resolve(ANNA),
        "resolve_many": lambda d: d.resolve_many([ANNA, ANNA_B]),
        "find": lambda d: d.find("p_" + "0" * 32),
        "changes": lambda d: d.changes(0, limit=9),
        "undo": lambda d: d.undo(newest),
        "unlink": lambda d: d.unlink(ANNA, ANNA_B),
        "split": lambda d: d.split(ANNA),
        "set_consent": lambda d: d.set_consent(ANNA, {Purpose.RISK: False}),
        "consents": lambda d: d.consents(ANNA),
        "export": lambda d: d.export(ANNA),
        "export_found": lambda d: d.export_found("p_" + "0" * 32),
        "people": lambda d: d.people("", limit=9),
        "keep_vectors": lambda d: d.keep_vectors("e", vectors),
        "vectors": lambda d: d.vectors("e", list(vectors)),
        "erase": lambda d: d.erase(ANNA),
    }
    async with Proxy(server.port) as proxy, opened(proxy.url) as directory:
        took = {}
        for _ in range(2):  # the server knows the scripts the second time
            for name, operation in operations.items():
                newest = max(
                    (one.number for one in await directory.changes(0, limit=99)), default=0
                )
                before = proxy.round_trips
                await operation(directory)
                took[name] = proxy.round_trips - before
    assert took == dict.fromkeys(operations, 1)


async def test_a_server_that_forgot_the_scripts_is_told_again(server: RedisServer) -> None:
    async with opened(server.url) as directory:
        await directory.record([event(1)])
        server.call("SCRIPT", "FLUSH")
        assert (await directory.record([event(2)])).recorded == 1
        assert await views(directory) == 2


# Privacy


async def test_raw_ids_never_reach_the_server(own_server: RedisServer) -> None:
    async with opened(own_server.url) as directory:
        await directory.record([event(n) for n in range(100)])
        await directory.link(ANNA, ANNA_B, kind=LinkKind.LOGIN, confidence=1)
        await directory.set_consent(ANNA_B, {Purpose.RISK: False})
        await directory.read(ANNA, (SHOE,), before_s=2e9, limit=10)
    written = [file.read_bytes() for file in own_server.folder.rglob("*") if file.is_file()]
    assert any(b"Trail shoe" in content for content in written)  # the search finds what is there
    for content in written:
        assert RAW_ID.encode() not in content
        assert b"muster" not in content


async def test_errors_do_not_quote_what_was_asked(own_server: RedisServer) -> None:
    async with opened(own_server.url, timeout_s=TIMEOUT_S) as directory:
        await directory.record([event(1)])
        own_server.call("ACL", "SETUSER", "default", "-evalsha", "-eval")
        with pytest.raises(Unavailable, match="may not run") as refusal:
            await directory.record([event(2)])
        assert refusal.value.__suppress_context__  # the log shows no more than the message
    assert RAW_ID not in str(refusal.value)


async def test_nothing_of_an_erased_person_stays(server: RedisServer) -> None:
    others = [Account("shop-c", f"{n}") for n in range(3)]
    async with opened(server.url) as directory:
        await directory.record([event(n, one) for one in (ANNA, ANNA_B) for n in range(70)])
        await directory.record([event(1, one) for one in others])
        await directory.link(ANNA, ANNA_B, kind=LinkKind.LOGIN, confidence=1)
        await directory.link(ANNA, others[0], kind=LinkKind.DEVICE, confidence=0.5)
        await directory.link(others[0], others[1], kind=LinkKind.LOGIN, confidence=1)
        anna = await directory.resolve(ANNA)
        assert anna is not None
        await directory.unlink(ANNA, others[0])
        await directory.erase(ANNA)
        changes = await directory.changes(0, limit=99)
        # The link of two who stay was made when they were Anna's; it does not name her any more.
        assert [change.person_id == anna.person_id for change in changes] == [False, True]
        for one in others:
            await directory.erase(one)
        assert (await directory.stats()).accounts == (await directory.stats()).people == 0
    with_people = {b"u", b"o", b"a", b"e", b"q", b"k", b"l", b"h"}
    kinds = {bytes(key).split(b":", 1)[1][:1] for key in server.call("KEYS", "*")}
    assert kinds & with_people == set()


async def test_what_was_erased_is_in_no_copy_of_the_server(own_server: RedisServer) -> None:
    own_server.call("CONFIG", "SET", "rdbcompression", "no")
    mark = "ticket-4711"

    def copies() -> list[bytes]:
        return [own_server.call("DUMP", key) for key in own_server.call("KEYS", "*")]

    async with opened(own_server.url) as directory:
        for n in range(9):
            pair = [Account(platform, f"{n}") for platform in ("shop", "app")]
            source = mark if n == 4 else "nightly"
            await directory.link(*pair, kind=LinkKind.LOGIN, confidence=1, source=source)
        assert any(mark.encode() in copy for copy in copies())
        await directory.erase(Account("shop", "4"))
        assert not any(mark.encode() in copy for copy in copies())


# Keys of pseudonyms


async def test_keys_are_rotated_while_accounts_come_back(server: RedisServer) -> None:
    async with opened(server.url) as directory:
        await directory.record([event(1), event(1, ANNA_B)])
        before = await directory.resolve(ANNA)
    both = Pseudonyms(NEW_KEY, OLD_KEY)
    async with opened(server.url) as old, opened(server.url, both) as directory:
        assert (await directory.stats()).accounts_by_key == (0, 2)
        assert (await directory.record([event(1)])).duplicates == 1
        assert (await directory.record([event(2)])).recorded == 1
        assert (await directory.stats()).accounts_by_key == (1, 1)
        after = await directory.resolve(ANNA)
        assert before is not None
        assert after is not None
        assert after.person_id == before.person_id
        assert after.accounts != before.accounts
        assert await views(directory) == 2
        for attempt in (
            old.record([event(3)]),
            old.resolve(ANNA),
            old.read(ANNA, (), before_s=2e9, limit=9),
            old.history(ANNA, before_s=2e9, limit=9),
            old.consents(ANNA),
            old.export(ANNA),
            old.erase(ANNA),
            old.undo(1),
        ):
            with pytest.raises(Unavailable, match="ROTATED"):
                await attempt
    for ring in (PSEUDONYMS, Pseudonyms(NEW_KEY)):
        with pytest.raises(StartupError, match="under a pseudonym key that is not among"):
            await RedisDirectory.open(server.url, ring)


async def test_keys_that_are_given_in_another_order_are_refused(server: RedisServer) -> None:
    for ring in (PSEUDONYMS, Pseudonyms(NEW_KEY, OLD_KEY)):
        async with opened(server.url, ring):
            pass
    with pytest.raises(StartupError, match="the newest first"):
        await RedisDirectory.open(server.url, Pseudonyms(OLD_KEY, NEW_KEY))


# Steps that keep others waiting


async def test_everybody_is_told_in_steps_of_so_many_events(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "_EVENTS_AT_ONCE", 100)
    people = [Account("shop", f"{n}") for n in range(7)]
    async with opened(server.url) as directory:
        await directory.record([event(n, one) for one in people for n in range(60)])
        told, cursor, pages = [], "", []
        while cursor or not pages:
            page, cursor = await directory.people(cursor, limit=500)
            told += page
            pages.append(len(page))
        assert told == [await directory.export(one) for one in people]
    assert pages == [2, 2, 2, 1]


async def test_even_one_person_is_compacted_in_steps_of_so_many_events(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "_EVENTS_AT_ONCE", 100)
    steps: list[tuple[int, int]] = []

    def count(done: int, total: int) -> None:
        steps.append((done, total))

    async with opened(server.url) as directory:
        await directory.link(ANNA, ANNA_B, kind=LinkKind.LOGIN, confidence=1)
        mixed = [event(n, (ANNA, ANNA_B)[n % 2]) for n in range(500)]
        await directory.record([*mixed, event(1, Account("shop", "other"))])
        assert await directory.compact(Retention(max_events=70), progress=count) == 430
        assert steps == [(0, 3)] * 4 + [(3, 3)]
        kept = await directory.history(ANNA, before_s=2e9, limit=999)
        assert [one.time_s - 1_750_000_000 for one in kept] == [*range(499, 429, -1)]
        age_s = time.time() - 1_760_000_000
        assert await directory.compact(Retention(max_age_s=age_s)) == 71


async def test_many_links_of_one_account_are_written_once(server: RedisServer) -> None:
    """Its links are packed together: written for each of them, they would be as many squared."""

    def writes() -> int:
        stats = server.call("INFO", "commandstats")
        return int(stats["cmdstat_set"]["calls"]) if "cmdstat_set" in stats else 0

    others = [Account("app", f"{n}") for n in range(200)]
    async with opened(server.url) as directory:
        before = writes()
        made = await directory.link_many(
            [LinkStatement(ANNA, one, LinkKind.DEVICE) for one in others]
        )
        assert writes() - before == 201
        assert all(one.merged for one in made)
        assert (await directory.split(ANNA)).removed == 200
        assert (await directory.stats()).people == 201


# Ways to a server


async def test_a_server_is_reached_by_its_socket(tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    server = RedisServer(tmp_path / "redis", "--unixsocket", str(socket)).start()
    try:
        async with opened(f"unix://{socket}") as directory:
            await directory.record([event(1), event(2)])
            assert await views(directory) == 2
        async with opened(server.url) as directory:
            assert await views(directory) == 2
        async with opened(f"unix://{socket}?db=1") as directory:
            assert await views(directory) == 0
    finally:
        server.kill()


async def test_a_server_is_reached_over_tls_if_its_certificate_is_known(tmp_path: Path) -> None:
    authority, ca, other_ca = Authority("known"), tmp_path / "ca.pem", tmp_path / "other.pem"
    ca.write_bytes(authority.cert)
    other_ca.write_bytes(Authority("other").cert)
    certificate, key = authority.sign("redis").write(tmp_path, "redis")
    port = free_port()
    server = RedisServer(
        tmp_path / "redis",
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
        *("--tls-ca-cert-file", str(ca)),
    ).start()
    url = f"rediss://127.0.0.1:{port}/0"
    try:
        async with opened(f"{url}?ssl_ca_certs={ca}") as directory:
            await directory.record([event(1), event(2)])
            assert await views(directory) == 2
        for unproven in (f"{url}?ssl_ca_certs={other_ca}", url, url.replace("rediss", "redis")):
            assert f"127.0.0.1:{port} cannot be reached" in await refusal(unproven)
    finally:
        server.kill()


# Servers that cannot be used


async def refusal(url: str, **options: Any) -> str:
    with pytest.raises(StartupError) as refused:
        await RedisDirectory.open(url, PSEUDONYMS, **({"timeout_s": TIMEOUT_S} | options))
    return str(refused.value)


async def test_a_database_that_is_not_there_is_refused(
    server: RedisServer, cluster: RedisCluster
) -> None:
    async with opened(server.url.replace("redis://", "Redis://").replace("/0", "/7")):
        assert server.call("INFO", "keyspace")["db7"]["keys"] == 1
    for url in (server.url.replace("/0", "/77"), cluster.url.replace("/0", "/1")):
        assert "has no database of the number in the URL" in await refusal(url, timeout_s=20)


async def test_what_is_no_redis_is_refused(server: RedisServer, tmp_path: Path) -> None:
    nobody = "redis://user:secret-password@127.0.0.1:1/0"
    assert "127.0.0.1:1 cannot be reached" in await refusal(nobody)
    assert "secret-password" not in await refusal(nobody)
    assert f"{tmp_path}/socket cannot be reached" in await refusal(f"unix://{tmp_path}/socket")
    for url in ("redis://host:port/0", "http://localhost", "redis://[bad", "redis://host/notadb"):
        assert "none that can be used" in await refusal(url)
    assert "letters" in await refusal(server.url, name="a{b}")


@pytest.mark.parametrize(
    ("lacking", "word"),
    [
        (["-zadd"], "may not run ZADD, or"),
        (["-unlink", "-hmget"], "may not run HMGET, UNLINK, or"),
        (["-@dangerous"], "may not run INFO, or"),
        (["-evalsha"], "may not run EVALSHA, or"),
        (["resetkeys", "~{shopcast}:*"], "shopcast:*"),  # not those of the vectors
        (["resetkeys"], "{shopcast}:*"),
    ],
)
async def test_a_user_of_redis_that_lacks_a_right_is_refused(
    own_server: RedisServer, lacking: list[str], word: str
) -> None:
    own_server.call("ACL", "SETUSER", "shop", "on", ">word", "~*", "+@all", *lacking)
    url = own_server.url.replace("//", "//shop:word@")
    assert word in await refusal(url, timeout_s=20)
    assert own_server.call("DBSIZE") == 0
    own_server.call("ACL", "SETUSER", "shop", "~*", "+@all")
    async with opened(url):
        pass
    unknown = await refusal(own_server.url.replace("//", "//shop:secret-password@"), timeout_s=20)
    assert "does not admit the user and password" in unknown
    assert "secret-password" not in unknown


@pytest.mark.parametrize("command", ["EVALSHA", "EVAL", "INFO", "ZADD"])
async def test_a_redis_that_calls_a_command_otherwise_is_refused(
    command: str, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path, "--rename-command", command, "another").start()
    try:
        told = await refusal(server.url, timeout_s=20)
    finally:
        server.kill()
    assert f"does not know {command}: let them have their own names" in told


async def test_a_redis_that_comes_back_without_a_command_is_away(own_server: RedisServer) -> None:
    lesser = RedisServer(own_server.folder, "--rename-command", "ZADD", "another")
    lesser.port = own_server.port
    async with opened(own_server.url) as directory:
        own_server.kill()
        lesser.start()
        try:
            for _ in range(2):  # the first finds the connection broken
                with contextlib.suppress(Unavailable):
                    await directory.resolve(ANNA)
            with pytest.raises(Unavailable, match="does not know a command"):
                await directory.record([event(1)])
        finally:
            lesser.kill()


async def test_a_redis_that_is_told_to_throw_keys_away_records_nothing_until_it_keeps_them(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_store, "_LOOK_S", 0.0)
    async with opened(own_server.url) as directory:
        await directory.record([event(1), event(1, ANNA_B)])
        own_server.call("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
        for _ in range(2):
            with pytest.raises(Unavailable, match="throws keys away"):
                await directory.record([event(2)])
        assert await directory.resolve(ANNA) is not None
        assert await directory.erase(ANNA_B) is not None
        own_server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert (await directory.record([event(2)])).recorded == 1
    assert caplog.text.count("nothing is recorded until its maxmemory-policy is noeviction") == 1


async def test_a_primary_that_cannot_be_looked_at_holds_up_no_other(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise Unavailable("one of several")

    monkeypatch.setattr(redis_store, "_LOOK_S", 0.0)
    monkeypatch.setattr(redis_store.RedisStore, "_of_servers", away)
    async with opened(own_server.url) as directory:
        assert (await directory.record([event(1)])).recorded == 1


async def test_the_rights_that_are_told_are_enough(own_server: RedisServer) -> None:
    (told,) = re.findall(r"ACL SETUSER shopcast (.*)", OPERATIONS.read_text())
    assert ">PASSWORD" in told
    own_server.call("ACL", "SETUSER", "shopcast", *told.split())
    async with opened(own_server.url.replace("//", "//shopcast:PASSWORD@")) as directory:
        await directory.record([event(1), event(2, ANNA_B)])
        await directory.link(ANNA, ANNA_B, kind=LinkKind.LOGIN, confidence=1)
        await directory.keep_vectors("1", {b"1" * 16: np.ones(4, np.float32)})
        assert len(await directory.vectors("1", [b"1" * 16])) == 1
        assert await views(directory) == 2
        assert (await directory.stats()).vectors == 1
        await directory.set_consent(ANNA, {Purpose.RISK: False})
        await directory.undo(1)
        assert await directory.export(ANNA)
        assert await directory.compact(Retention(max_age_s=1.0), encoders=()) == 2
        assert await directory.erase(ANNA)


async def test_the_rights_that_are_told_are_enough_in_a_cluster(cluster: RedisCluster) -> None:
    page = OPERATIONS.read_text()
    (told,) = re.findall(r"ACL SETUSER shopcast (.*)", page)
    (more,) = re.findall(r"In a cluster it needs (.*), too", page)
    url = cluster.url.replace("//", "//shopcast:PASSWORD@")
    try:
        for node in cluster.nodes:
            node.call("ACL", "SETUSER", "shopcast", *told.split())
        for right in re.findall(r"`(.*?)`", more):
            await refusal(url, timeout_s=20)
            for node in cluster.nodes:
                node.call("ACL", "SETUSER", "shopcast", right)
        async with opened(url) as directory:
            await directory.record([event(1)])
            vectors = {bytes([n]) * 16: np.ones(4, np.float32) for n in range(64)}
            await directory.keep_vectors("1", vectors)
            assert (await directory.stats()).vectors == 64
    finally:
        for node in cluster.nodes:
            node.call("ACL", "DELUSER", "shopcast")


def test_every_command_of_the_scripts_is_asked_for_at_the_start() -> None:
    scripts = Path(redis.__file__).with_name("redis_scripts")
    run = {
        command
        for one in scripts.rglob("*.lua")
        for command in re.findall(r"call\('(\w+)'", one.read_text())
    }
    assert run
    assert run <= set(re.findall(r"'([A-Z]+)'", (scripts / "rights.lua").read_text()))


async def test_events_that_failed_for_want_of_a_right_can_be_sent_again(
    own_server: RedisServer,
) -> None:
    async with opened(own_server.url) as directory:
        own_server.call("ACL", "SETUSER", "default", "-zadd")
        with pytest.raises(Unavailable, match="may not run"):
            await directory.record([event(1), event(1), event(2)])
        own_server.call("ACL", "SETUSER", "default", "+zadd")
        again = await directory.record([event(1), event(1), event(2)])
        assert (again.recorded, again.duplicates) == (2, 1)
        assert (await directory.record([event(2)])).duplicates == 1
        assert await views(directory) == 2


async def test_a_server_that_throws_keys_away_is_refused(server: RedisServer) -> None:
    server.call("CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru")
    try:
        assert "maxmemory-policy allkeys-lru" in await refusal(server.url)
    finally:
        server.call("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")


async def test_another_schema_is_refused(server: RedisServer) -> None:
    async with opened(server.url):
        pass
    for version, word in ((99, "newer"), (0, "older")):
        server.call("HSET", "{shopcast}:meta", "version", version)
        assert f"written by an {word}" in (await refusal(server.url)).replace(" a ", " an ")


async def test_a_server_that_lost_the_directory_is_not_written_to(server: RedisServer) -> None:
    async with opened(server.url) as directory:
        await directory.record([event(1)])
        server.call("FLUSHALL")
        with pytest.raises(Unavailable, match="LOST"):
            await directory.record([event(2)])
    assert server.call("DBSIZE") == 0


@pytest.mark.parametrize(
    "asked",
    [
        lambda directory: directory.find("p_" + "0" * 32),
        lambda directory: directory.changes(0, limit=9),
        lambda directory: directory.people("", limit=9),
        lambda directory: directory.stats(),
        lambda directory: directory.compact(Retention(max_events=1)),
        lambda directory: directory.compact(Retention(), encoders=()),
        lambda directory: directory.resolve(ANNA),
        lambda directory: directory.undo(1),
    ],
)
async def test_a_server_that_lost_the_directory_does_not_answer_as_if_it_were_empty(
    server: RedisServer, asked: Callable[[RedisDirectory], Awaitable[Any]]
) -> None:
    async with opened(server.url) as directory:
        await directory.record([event(1)])
        server.call("FLUSHALL")
        with pytest.raises(Unavailable, match="LOST"):
            await asked(directory)


async def test_more_platforms_than_there_is_room_for_are_refused_as_a_whole(
    server: RedisServer,
) -> None:
    others = [Account(f"new-{n}", "anna") for n in range(3)]
    async with opened(server.url) as directory:
        await directory.record([event(1)])
        for start in range(1, 65_534, 5_000):
            names = range(start, min(start + 5_000, 65_534))
            server.call("HSET", "{shopcast}:p", *(one for n in names for one in (f"s{n}", n + 1)))
        assert (await directory.record([event(2), event(1, others[0])])).recorded == 2
        for attempt in (
            directory.record([event(3), event(1, others[1])]),
            directory.link(ANNA, others[1], kind=LinkKind.LOGIN, confidence=1),
            directory.link(others[2], others[0], kind=LinkKind.LOGIN, confidence=1),
            directory.set_consent(others[1], {Purpose.RISK: False}),
        ):
            with pytest.raises(BadRequest, match="65,535 at most"):
                await attempt
        assert (await directory.record([event(3), event(2, others[0])])).recorded == 2
        assert (await directory.stats()).accounts == 2
        person = await directory.resolve(others[0])
        assert person is not None
        assert person.accounts[0][0] == "new-0"


async def test_a_server_without_a_log_of_writes_is_complained_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path / "redis", "--appendonly", "no").start()
    try:
        async with opened(server.url):
            assert "appendonly no" in caplog.text
    finally:
        server.kill()


async def test_a_server_that_keeps_no_log_any_more_is_complained_of_once(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_store, "_LOOK_S", 0.0)
    async with opened(own_server.url) as directory:
        await directory.record([event(1)])
        assert not caplog.text
        for times in (1, 2):
            own_server.call("CONFIG", "SET", "appendonly", "no")
            await directory.record([event(2)])
            await directory.record([event(3)])
            assert caplog.text.count("keeps no log of what is written") == times
            own_server.call("CONFIG", "SET", "appendonly", "yes")
            await directory.record([event(4)])


# Servers that fail


async def test_a_killed_server_is_unavailable_and_comes_back_with_everything(
    own_server: RedisServer,
) -> None:
    async with opened(own_server.url, timeout_s=TIMEOUT_S) as directory:
        await directory.record([event(1)])
        own_server.kill()
        began = time.monotonic()
        for attempt in (directory.record([event(2)]), directory.resolve(ANNA)):
            with pytest.raises(Unavailable):
                await attempt
        assert time.monotonic() - began < 2 * TIMEOUT_S + SLACK_S
        own_server.start()
        assert (await directory.record([event(2)])).recorded == 1
        assert await views(directory) == 2


async def test_a_server_that_hangs_is_unavailable_in_time(own_server: RedisServer) -> None:
    async with opened(own_server.url, timeout_s=TIMEOUT_S) as directory:
        await directory.record([event(1)])
        own_server.send(signal.SIGSTOP)
        began = time.monotonic()
        attempts = [directory.record([event(2)]), directory.resolve(ANNA), directory.stats()]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert time.monotonic() - began < TIMEOUT_S + SLACK_S
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
        own_server.send(signal.SIGCONT)
        # Answers that came too late are nobody's.
        person = await directory.resolve(ANNA)
        assert person is not None
        assert (await directory.record([event(2), event(3)])).recorded >= 1
        assert await views(directory) == 3


async def test_calls_that_are_given_up_get_no_one_elses_answer(server: RedisServer) -> None:
    accounts = [Account("shop", f"{n}") for n in range(20)]
    async with opened(server.url) as directory:
        await directory.record([event(n, one) for n, one in enumerate(accounts)])
        expected = [await directory.resolve(one) for one in accounts]
        moments = random.Random(7)

        async def ask(n: int) -> None:
            call = asyncio.create_task(directory.resolve(accounts[n]))
            if n % 2:
                await asyncio.sleep(moments.uniform(0, 0.003))
                call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert await call == expected[n]

        for _ in range(30):
            await asyncio.gather(*map(ask, range(20)))


async def test_a_full_server_is_unavailable_and_can_be_read(own_server: RedisServer) -> None:
    async with opened(own_server.url) as directory:
        await directory.record([event(1)])
        own_server.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(Unavailable, match="OutOfMemory"):
            await directory.record([event(2)])
        with pytest.raises(Unavailable, match="OutOfMemory"):
            await directory.link(ANNA, ANNA_B, kind=LinkKind.LOGIN, confidence=1)
        assert await views(directory) == 1
        receipt = await directory.erase(ANNA)  # whoever asks is forgotten all the same
        assert receipt is not None
        assert receipt.events == 1
        own_server.call("CONFIG", "SET", "maxmemory", "0")
        assert (await directory.record([event(1), event(2)])).recorded == 2


async def test_a_password_that_is_asked_for_from_now_on_makes_it_unavailable(
    own_server: RedisServer,
) -> None:
    async with opened(own_server.url) as directory:
        await directory.record([event(1)])
        own_server.call("CONFIG", "SET", "requirepass", PASSWORD)
        own_server.call("CLIENT", "KILL", "TYPE", "normal", password=PASSWORD)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await directory.record([event(2)])
            with pytest.raises(Unavailable):
                await directory.read(ANNA, (), before_s=2e9, limit=10)
            with pytest.raises(Unavailable):
                await directory.vectors("1", [bytes([n]) * 16 for n in range(40)])
        own_server.call("CONFIG", "SET", "requirepass", "", password=PASSWORD)
        assert (await directory.record([event(2)])).recorded == 1


async def test_what_a_server_says_of_vectors_makes_it_unavailable_too(
    own_server: RedisServer,
) -> None:
    async with opened(own_server.url) as directory:
        own_server.call("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(Unavailable, match="NOREPLICAS"):
            await directory.keep_vectors("1", {b"1" * 16: np.ones(4, np.float32)})
        with pytest.raises(Unavailable, match="NOREPLICAS"):
            await directory.record([event(1)])


async def test_a_replica_is_not_written_to(own_server: RedisServer, server: RedisServer) -> None:
    async with opened(own_server.url) as directory:
        await directory.record([event(1)])
        own_server.call("REPLICAOF", "127.0.0.1", server.port)
        with pytest.raises(Unavailable):
            await directory.record([event(2)])
        own_server.call("REPLICAOF", "NO", "ONE")


def follow(replica: RedisServer, primary: RedisServer) -> None:
    """Until it has what the primary has."""
    primary.call("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    replica.call("REPLICAOF", "127.0.0.1", primary.port)
    while replica.call("INFO", "replication")["master_link_status"] != "up":
        time.sleep(0.02)


async def test_who_was_left_on_the_old_primary_finds_the_new_one_behind_the_address(
    own_server: RedisServer, server: RedisServer
) -> None:
    async with Proxy(own_server.port) as proxy, opened(proxy.url) as directory:
        await asyncio.gather(*(directory.record([event(n)]) for n in range(20)))
        follow(server, own_server)
        server.call("REPLICAOF", "NO", "ONE")
        own_server.call("REPLICAOF", "127.0.0.1", free_port())
        proxy.port = server.port
        refused, *found = await asyncio.gather(
            directory.record([event(20)]),
            *(views(directory) for _ in range(40)),
            return_exceptions=True,
        )
        assert isinstance(refused, Unavailable)
        assert found == [20] * 40, "others go on"
        assert (await directory.record([event(20)])).recorded == 1
        assert await asyncio.gather(*(views(directory) for _ in range(40))) == [21] * 40


async def test_a_closed_directory_is_unavailable(server: RedisServer) -> None:
    directory = await RedisDirectory.open(server.url, PSEUDONYMS, timeout_s=20)
    writes = [asyncio.create_task(directory.record([event(n)])) for n in range(20)]
    await asyncio.sleep(0)
    await directory.close()
    await directory.close()
    assert [result.recorded for result in await asyncio.gather(*writes)] == [1] * 20
    with pytest.raises(Unavailable, match="closed"):
        await directory.resolve(ANNA)


# Clusters


async def test_any_primary_of_a_cluster_that_throws_keys_away_is_refused(
    cluster: RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    for node in cluster.nodes:
        node.call("CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru")
        try:
            found = await refusal(cluster.url, timeout_s=20)
        finally:
            node.call("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")
        assert f"127.0.0.1:{node.port} throws keys away" in found
    assert not caplog.text
    node.call("CONFIG", "SET", "appendonly", "no")
    try:
        async with opened(cluster.url):
            assert f"127.0.0.1:{node.port} keeps no log" in caplog.text
    finally:
        node.call("CONFIG", "SET", "appendonly", "yes")


async def test_directories_and_vectors_spread_over_a_cluster(cluster: RedisCluster) -> None:
    vectors = {bytes([n]) * 16: np.full(4, n, np.float32) for n in range(64)}
    names = [f"market-{n}" for n in range(8)]
    for name in names:
        async with opened(cluster.url, name=name) as directory:
            await directory.record([event(1)])
            await directory.keep_vectors("e", vectors)
            assert await views(directory) == 1
            assert len(await directory.vectors("e", list(vectors))) == 64
            assert (await directory.stats()).vectors == 64
            await directory.compact(Retention(), encoders=())
            assert (await directory.stats()).vectors == 0
    holders = [
        {bytes(key).split(b"}")[0] for key in node.call("KEYS", "{market-*")}
        for node in cluster.nodes
    ]
    assert all(holders)
    assert sum(map(len, holders)) == len(names)  # each lies whole on one of them


async def test_a_slot_that_moves_keeps_everything_while_events_come(cluster: RedisCluster) -> None:
    """Scripts must not run on either half of a slot, and nothing may be recorded twice."""
    slot = cluster.nodes[0].call("CLUSTER", "KEYSLOT", "{shopcast}:meta")
    of = {node: node.call("CLUSTER", "MYID") for node in cluster.nodes}

    def keys_in_slot(node: RedisServer) -> int:
        return int(node.call("CLUSTER", "COUNTKEYSINSLOT", slot))

    async with opened(cluster.url) as directory:
        await directory.record([event(n, Account("shop", f"{n}")) for n in range(300)])
        source, target, *_ = sorted(cluster.nodes, key=keys_in_slot, reverse=True)
        acknowledged: set[tuple[str, int]] = set()
        moving = True

        async def write(writer: int) -> None:
            n = 0
            while moving:
                user = f"{writer}-{n % 7}"
                batch = [event(n, Account("shop", user)), event(n, ANNA)]
                while True:
                    try:
                        assert len((await directory.record(batch)).statuses) == 2
                        break
                    except Unavailable:  # whether it was done is not known: it is sent again
                        continue
                acknowledged.update({(user, n), (ANNA.user_id, n)})
                n += 1

        def move() -> None:
            target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", of[source])
            source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", of[target])
            while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 20):
                source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
                time.sleep(0.01)
            for node in (target, source):
                node.call("CLUSTER", "SETSLOT", slot, "NODE", of[target])

        async def move_and_stop() -> None:
            nonlocal moving
            await asyncio.sleep(0.2)
            try:
                await asyncio.to_thread(move)
                await asyncio.sleep(0.3)
            finally:
                moving = False

        await asyncio.gather(*map(write, range(4)), move_and_stop())
        assert keys_in_slot(source) == 0
        stats = await directory.stats()
        assert stats.events == 300 + len(acknowledged)
        assert stats.accounts == stats.people == 300 + 1 + 4 * 7
        people = await directory.resolve_many([Account("shop", f"{n}") for n in range(300)])
        assert None not in people


async def test_a_primary_of_a_cluster_comes_back_with_what_was_acknowledged(
    tmp_path: Path,
) -> None:
    cluster = RedisCluster(tmp_path / "cluster")
    acknowledged: set[tuple[Account, int]] = set()
    writing = True

    async def write(directory: RedisDirectory, account: Account) -> None:
        n = 0
        while writing:
            with contextlib.suppress(Unavailable):  # it is sent again
                await directory.record([event(n, account), event(n)])
                acknowledged.update({(account, n), (ANNA, n)})
                n += 1
            await asyncio.sleep(0)

    accounts = [Account("shop", f"{n}") for n in range(4)]
    try:
        cluster.start()
        async with opened(cluster.url, timeout_s=TIMEOUT_S) as directory:
            (holder,) = (node for node in cluster.nodes if node.call("DBSIZE"))
            writers = [asyncio.create_task(write(directory, one)) for one in accounts]
            await asyncio.sleep(0.3)
            holder.kill()
            before = len(acknowledged)
            assert before
            await asyncio.sleep(0.3)
            with pytest.raises(Unavailable):
                await directory.resolve(ANNA)
            await asyncio.to_thread(holder.start)
            await asyncio.to_thread(cluster.wait_until_settled)
            await asyncio.sleep(1.0)
            writing = False
            await asyncio.gather(*writers)
            assert len(acknowledged) > before
            stats = await directory.stats()
            for account in {account for account, _ in acknowledged}:
                known = await directory.history(account, before_s=2e9, limit=100_000)
                assert len(known) >= sum(one == account for one, _ in acknowledged)
            # One that broke off may have been recorded, and was sent again.
            assert len(acknowledged) <= stats.events <= len(acknowledged) + 2 * len(accounts)
    finally:
        cluster.kill()


# Processes that are killed

BATCH = 7

WRITER = f"""
import asyncio, sys
from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.directory.pseudonym import Pseudonyms
from shopcast_gateway.directory.redis import RedisDirectory

async def main():
    directory = await RedisDirectory.open(sys.argv[1], Pseudonyms(bytes(32)), timeout_s=20)

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


def write_until_killed(server: RedisServer, run: int, alive_s: float) -> list[str]:
    """Names of the batches acknowledged by a writer that is killed, and its server with it."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, server.url, str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(alive_s)
        if run % 2:
            server.kill()
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
    if run % 2:
        server.start()
    return [line for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")]


async def test_acknowledged_events_survive_kill_9_of_gateway_and_server(
    own_server: RedisServer,
) -> None:
    moments = random.Random(7)
    acknowledged: list[str] = []
    for run in range(4):
        acknowledged += await asyncio.to_thread(
            write_until_killed, own_server, run, moments.uniform(0.05, 0.25)
        )
    assert len(acknowledged) >= 4
    async with opened(own_server.url) as directory:
        for name in acknowledged:
            account = Account("shop", name.strip())
            reading = await directory.read(account, (Item("item"),), before_s=2e9, limit=100)
            assert len(reading.window) == BATCH
        seen = reading.candidates.item_tally[0, 0]
        assert seen >= BATCH * len(acknowledged)
        assert seen % BATCH == 0  # no call is there in part

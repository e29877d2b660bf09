"""Commands on a directory in Redis, and what doctor says of it."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from redis_servers import RedisServer
from typer.testing import CliRunner

from shopcast_cli.app import app
from shopcast_gateway.directory.pseudonym import load_or_create_keys
from shopcast_gateway.doctor.finding import Answer, Installation
from shopcast_gateway.doctor.store import directory

LOG = """event_id,platform,platform_user_id,time,kind,item_id
1,shop,anna,2024-01-05T10:00:00Z,view,i-1
2,shop,anna,2024-01-06T10:00:00Z,buy,i-1
3,mall,anna-7,2024-01-06T11:00:00Z,view,i-2
"""
PASSWORD = "hunter2-and-more"  # noqa: S105
LINKS = f"""platform,platform_user_id,identifier_kind,identifier_hash
shop,anna,email,{"a" * 32}
mall,anna-7,email,{"a" * 32}
"""


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    """With nothing in it."""
    redis_server.call("FLUSHALL")
    return redis_server


@pytest.fixture
def place(server: RedisServer, tmp_path: Path) -> tuple[str, ...]:
    """Options that name an empty directory."""
    return ("--directory", server.url, "--directory-key", str(tmp_path / "ring.key"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["directory", *arguments])


def examine(url: str, key: Path | None) -> Answer:
    (answer,) = directory(
        Installation(
            repository=Path("none"), directory=url, host="127.0.0.1", port=0, metrics_port=None,
            triton_home=Path("none"), directory_key=key,
        )
    )  # fmt: skip
    return answer


def test_logs_are_imported_counted_exported_and_compacted(
    place: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "links.csv").write_text(LINKS)
    given = ("--events", str(tmp_path / "log.csv"), "--links", str(tmp_path / "links.csv"))
    for recorded in (3, 0):
        done = run("import", *given, *place, "--json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["recorded"] == recorded
    counted = json.loads(run("stats", *place, "--json").stdout)
    assert (counted["accounts"], counted["people"], counted["events"]) == (2, 1, 3)
    output = tmp_path / "people.jsonl"
    assert run("export", *place, "--output", str(output)).exit_code == 0
    (person,) = map(json.loads, output.read_text().splitlines())
    assert len(person["events"]) == 3
    assert "anna" not in output.read_text()
    assert json.loads(run("rotate-key", *place, "--json").stdout)["keys"] == 2
    assert json.loads(run("stats", *place, "--json").stdout)["accounts_by_key"] == [0, 2]
    assert "1 event removed" in run("compact", *place, "--max-events", "2").stdout
    assert json.loads(run("compact", *place, "--max-events", "1", "--json").stdout)["removed"] == 1


def test_a_directory_in_redis_needs_a_key(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOPCAST_DIRECTORY_KEY", raising=False)
    done = run("stats", "--directory", server.url)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: a directory in Redis needs a key")
    monkeypatch.setenv("SHOPCAST_DIRECTORY_KEY", "00" * 32)
    log = tmp_path / "log.csv"
    log.write_text(LOG)
    for command in (("import", "--events", str(log)), ("stats",)):
        assert run(*command, "--directory", server.url).exit_code == 0


def test_no_directory_is_made_by_commands_that_need_one(
    server: RedisServer, place: tuple[str, ...], tmp_path: Path
) -> None:
    ring, people = tmp_path / "ring.key", tmp_path / "people.jsonl"
    load_or_create_keys(ring)
    before = ring.read_bytes()
    for command in (
        ("stats",),
        ("export", "--output", str(people)),
        ("compact", "--max-age-days", "1"),
        ("rotate-key",),
    ):
        done = run(*command, *place)
        assert done.exit_code == 1, command
        assert "is not there: name another with --directory" in " ".join(done.stderr.split())
    assert server.call("DBSIZE") == 0
    assert ring.read_bytes() == before
    assert not people.exists()


def test_a_redis_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    key = tmp_path / "key"
    load_or_create_keys(key)
    done = run("stats", "--directory", "redis://127.0.0.1:1", "--directory-key", str(key))
    assert done.exit_code == 1
    assert done.stderr.startswith("error: The directory at 127.0.0.1:1 cannot be reached")
    assert len(done.stderr.splitlines()) == 1


def test_doctor_looks_at_redis_and_changes_nothing(server: RedisServer, tmp_path: Path) -> None:
    key, other = tmp_path / "ring.key", tmp_path / "other.key"
    before = examine(server.url, key)
    assert before.state == "ok"
    assert "holds no directory yet" in before.found
    assert server.call("DBSIZE") == 0
    assert not key.exists()
    log = tmp_path / "log.csv"
    log.write_text(LOG)
    given = ("--directory", server.url, "--directory-key", str(key))
    assert run("import", "--events", str(log), *given).exit_code == 0
    assert "its keys fit" in examine(server.url, key).found
    assert examine(server.url, other).state == "failed"
    assert run("stats", *given[:3], str(other)).exit_code == 1
    assert not other.exists()
    away = examine("redis://127.0.0.1:1", key)
    assert away.state == "failed"
    assert away.remedy


def test_a_password_is_never_shown(server: RedisServer, tmp_path: Path) -> None:
    url = server.url.replace("//", f"//default:{PASSWORD}@")
    log, people = tmp_path / "log.csv", tmp_path / "people.jsonl"
    log.write_text(LOG)
    place = ("--directory", url, "--directory-key", str(tmp_path / "ring.key"))
    server.call("CONFIG", "SET", "requirepass", PASSWORD)
    try:
        done = [
            run("import", "--events", str(log), *place),
            run("import", "--events", str(log), *place, "--json"),
            run("compact", "--max-events", "1", *place),
            run("export", "--output", str(people), *place),
            run("rotate-key", *place, "--json"),
        ]
    finally:
        server.call("CONFIG", "SET", "requirepass", "", password=PASSWORD)
    done.append(run("stats", "--directory", f"redis://x:{PASSWORD}@127.0.0.1:1/0", *place[2:]))
    assert [one.exit_code for one in done] == [0] * 5 + [1]
    assert all(PASSWORD not in one.output for one in done)
    assert f"in 127.0.0.1:{server.port}" in done[0].output.replace("\n", " ")

"""`platform directory` on a small directory."""

import asyncio
import json
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from shopcast_cli.app import app
from shopcast_cli.people_file import PeopleFile, copy_people
from shopcast_domain.events import Account, Event, EventKind, Item
from shopcast_gateway.directory.open import open_directory
from shopcast_gateway.directory.pseudonym import load_or_create_keys
from shopcast_gateway.directory.types import LinkKind

DAY_S = 86_400


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["directory", *map(str, arguments)])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Twelve people, two of them with two accounts; three events each, up to a year old."""
    path = tmp_path / "shop.db"

    async def fill() -> None:
        directory = await open_directory(path)
        now = time.time()
        accounts = [Account("web", f"user-{n}") for n in range(12)]
        for n, account in enumerate(accounts):
            await directory.record(
                [
                    Event(f"{n}-{age}", account, EventKind.VIEW, now - age * DAY_S, Item("i", "T"))
                    for age in (1, 30, 365)
                ]
            )
        for n in range(2):
            other = Account("app", f"phone-{n}")
            await directory.link(accounts[n], other, kind=LinkKind.LOGIN, confidence=1.0)
        await directory.close()

    asyncio.run(fill())
    return path


def counted(place: Path) -> dict[str, Any]:
    done = run("stats", "--directory", place, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_stats_are_a_table_or_json(place: Path) -> None:
    found = counted(place)
    assert (found["accounts"], found["people"], found["events"]) == (14, 12, 36)
    shown = run("stats", "--directory", place).stdout
    assert "36" in shown
    assert "accounts under key 1" in shown


def test_compacting_keeps_what_it_is_told_to(place: Path) -> None:
    done = run("compact", "--directory", place, "--max-age-days", 100, "--json")
    assert json.loads(done.stdout)["removed"] == 12
    assert "12 events removed" in run("compact", "--directory", place, "--max-events", 1).stdout
    assert counted(place)["events"] == 12


def test_everybody_is_exported_a_line_each(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "people.jsonl"
    done = run("export", "--directory", place, "--output", output)
    assert done.exit_code == 0, done.stderr
    people = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(people) == 12
    assert sum(len(one["events"]) for one in people) == 36
    assert "user-" not in output.read_text()
    assert output.stat().st_mode & 0o077 == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"people.jsonl"}
    assert not list(tmp_path.glob("*.partial*"))


def test_an_export_goes_on_where_a_kill_stopped_it(tmp_path: Path) -> None:
    path = tmp_path / "people.jsonl"
    with PeopleFile(path, "a.db") as file:
        file.add([{"n": 0}, {"n": 1}], "7")
    with (tmp_path / "people.jsonl.partial").open("ab") as torn:
        torn.write(b'{"n": 2, "half')
    assert not path.exists()
    with PeopleFile(path, "a.db") as file:
        assert (file.cursor, file.people) == ("7", 2)
        file.add([{"n": 2}], "9")
    with PeopleFile(path, "b.db") as file:
        assert file.cursor == ""
    (tmp_path / "people.jsonl.partial.json").write_text("{torn")
    with PeopleFile(path, "a.db") as file:
        assert (file.cursor, file.people) == ("", 0)
        file.add([{"n": 0}], "7")
        file.add([{"n": 1}], "")
        assert file.finished
    assert path.read_text() == '{"n": 0}\n{"n": 1}\n'
    assert [one.name for one in tmp_path.iterdir()] == ["people.jsonl"]


def test_an_export_that_goes_on_holds_nobody_erased_in_between(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shopcast_cli.people_file._PAGE", 5)
    output, gone = tmp_path / "people.jsonl", Account("web", "user-0")

    def killed(written: int) -> None:
        raise KeyboardInterrupt

    async def begin() -> None:
        directory = await open_directory(place)
        try:
            with PeopleFile(output, str(place)) as file, pytest.raises(KeyboardInterrupt):
                await copy_people(directory, file, killed)
        finally:
            await directory.close()

    async def erase() -> str:
        directory = await open_directory(place)
        try:
            receipt = await directory.erase(gone)
            assert receipt is not None
            return receipt.person_id
        finally:
            await directory.close()

    asyncio.run(begin())
    erased = asyncio.run(erase())
    assert erased in (tmp_path / "people.jsonl.partial").read_text()
    done = run("export", "--directory", place, "--output", output, "--json")
    assert json.loads(done.stdout)["people"] == 11
    assert erased not in output.read_text()


def test_an_export_of_a_directory_that_was_restored_meanwhile_begins_anew(
    place: Path, tmp_path: Path
) -> None:
    output = tmp_path / "people.jsonl"
    with PeopleFile(output, str(place)) as file:
        file.journal = 99  # which the older state of the directory does not have
        file.add([{"person_id": "p_erased-since"}], "0")
    done = run("export", "--directory", place, "--output", output, "--json")
    assert json.loads(done.stdout)["people"] == 12
    assert "erased-since" not in output.read_text()


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("join", [True, False])
def test_an_export_holds_each_account_once_whoever_is_joined_or_parted_while_it_runs(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, join: bool, killed: bool
) -> None:
    monkeypatch.setattr("shopcast_cli.people_file._PAGE", 5)
    output = tmp_path / "people.jsonl"
    first, last = Account("web", "user-0"), Account("web", "user-11")

    async def change(directory: Any) -> None:
        if join:
            await directory.link(first, last, kind=LinkKind.LOGIN, confidence=1.0)
        else:
            await directory.unlink(first, last)

    async def export() -> list[Any]:
        directory: Any = await open_directory(place)
        pages = 0

        class Changing:
            """Who is who changes after the first page."""

            changes, export_found = directory.changes, directory.export_found

            async def people(self, cursor: str, *, limit: int) -> Any:
                nonlocal pages
                pages += 1
                if pages == 2:
                    await change(directory)
                    if killed:
                        raise KeyboardInterrupt
                return await directory.people(cursor, limit=limit)

        try:
            if not join:
                await directory.link(first, last, kind=LinkKind.LOGIN, confidence=1.0)
            with PeopleFile(output, str(place)) as file, suppress(KeyboardInterrupt):
                await copy_people(Changing(), file, lambda _: None)  # type: ignore[arg-type]
            if killed:
                with PeopleFile(output, str(place)) as file:
                    await copy_people(directory, file, lambda _: None)
            told = [await directory.export(one) for one in (first, last)]
            assert file.people == len(output.read_text().splitlines())
            return told
        finally:
            await directory.close()

    told = asyncio.run(export())
    written = [json.loads(line) for line in output.read_text().splitlines()]
    accounts = [one["pseudonym"] for person in written for one in person["accounts"]]
    assert len(accounts) == len(set(accounts)) == 14
    assert all(one in written for one in told)
    assert [one.name for one in tmp_path.iterdir() if "people" in one.name] == ["people.jsonl"]
    assert output.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("times", [1, 100])
def test_an_export_holds_nobody_who_is_erased_while_it_runs(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr("shopcast_cli.people_file._PAGE", 5)
    output = tmp_path / "people.jsonl"
    erased: list[Any] = []

    class Erasing:
        """Somebody is erased after every page but the first, so many times."""

        def __init__(self, directory: Any) -> None:
            self.directory = directory
            self.changes = directory.changes

        async def people(self, cursor: str, *, limit: int) -> Any:
            page = await self.directory.people(cursor, limit=limit)
            if cursor and len(erased) < times:
                receipt = await self.directory.erase(Account("web", f"user-{len(erased)}"))
                erased.append(receipt and receipt.person_id)
            return page

    async def export() -> None:
        directory: Any = await open_directory(place)
        try:
            with PeopleFile(output, str(place)) as file:
                await copy_people(Erasing(directory), file, lambda _: None)  # type: ignore[arg-type]
        finally:
            await directory.close()

    if times == 1:
        asyncio.run(export())
        assert erased[0]
        assert erased[0] not in output.read_text()
        assert len(output.read_text().splitlines()) == 11
    else:
        with pytest.raises(typer.Exit):
            asyncio.run(export())
        assert not output.exists()


def test_a_file_is_written_by_one_export_at_a_time(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "people.jsonl"
    with PeopleFile(output, "a.db") as file:
        file.add([{"n": 0}], "7")
        done = run("export", "--directory", place, "--output", output)
        assert (done.exit_code, "another export is writing" in done.stderr) == (1, True)
        file.add([{"n": 1}], "")
    assert output.read_text() == '{"n": 0}\n{"n": 1}\n'


def test_one_person_is_exported_for_the_owner_only(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "one.json"
    output.write_text("old")
    account = ("--platform", "app", "--user", "phone-1", "--output", output)
    assert "3 events of 2 accounts" in run("export-person", "--directory", place, *account).stdout
    assert len(json.loads(output.read_text())["events"]) == 3
    assert output.stat().st_mode & 0o077 == 0
    unknown = run(
        "export-person", "--directory", place, "--platform", "x", "--user", "y", "--output", output
    )
    assert (unknown.exit_code, unknown.stderr) == (1, "error: this account has never been seen\n")


def test_a_new_key_goes_in_front_and_nothing_is_lost(place: Path) -> None:
    done = run("rotate-key", "--directory", place, "--json")
    assert json.loads(done.stdout)["keys"] == 2
    found = counted(place)
    assert found["accounts_by_key"] == [0, 14]

    async def resolve() -> bool:
        directory = await open_directory(place)
        try:
            return await directory.resolve(Account("app", "phone-1")) is not None
        finally:
            await directory.close()

    assert asyncio.run(resolve())


def test_only_the_keys_of_the_directory_are_rotated(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    load_or_create_keys(other)
    before = other.read_bytes()
    done = run("rotate-key", "--directory", place, "--directory-key", other)
    assert done.exit_code == 1
    assert "written under another pseudonym key" in done.stderr
    assert other.read_bytes() == before


def test_keys_of_the_environment_are_not_rotated(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = place.with_name("shop.db.key")
    before = key.read_bytes()
    monkeypatch.setenv("SHOPCAST_DIRECTORY_KEY", before.hex())
    done = run("rotate-key", "--directory", place)
    assert done.exit_code == 1
    assert "put 64 new hexadecimal digits and a comma before those there" in done.stderr
    assert key.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no database"])
@pytest.mark.parametrize("keys", [(), ("--directory-key", "my.key")])
def test_looking_at_a_directory_makes_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, keys: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("some.db").write_bytes(content)
    done = run("stats", "--directory", "some.db", *keys)
    assert done.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["some.db"]


@pytest.mark.parametrize(
    "command", [("stats",), ("rotate-key",), ("import", "--events", "log.csv")]
)
def test_a_folder_is_no_directory(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text(
        "platform,platform_user_id,time,kind,item_id\nshop,1,2024-01-05T10:00:00Z,view,i-1\n"
    )
    done = run(*command, "--directory", ".")
    assert done.exit_code == 1
    assert "error: . is a folder: name a file with --directory" in done.stderr


def test_an_export_goes_into_no_folder(place: Path, tmp_path: Path) -> None:
    done = run("export", "--directory", place, "--output", tmp_path)
    assert done.exit_code == 1
    assert "is a folder: name a file with --output" in done.stderr


@pytest.mark.parametrize(
    "command", [("stats",), ("compact",), ("export", "--output", "x"), ("rotate-key",)]
)
def test_a_directory_that_is_not_there_is_not_made(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*command, "--directory", tmp_path / "nowhere.db")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert "nowhere.db" in done.stderr
    assert not list(tmp_path.iterdir())


def test_import_takes_pairs_at_their_confidence(tmp_path: Path) -> None:
    events, pairs, directory = (tmp_path / n for n in ("log.csv", "pairs.csv", "shop.db"))
    events.write_text(
        "platform,platform_user_id,time,kind,item_id\n"
        "shop,1,2024-01-05T10:00:00Z,view,i-1\n"
        "mall,7,2024-01-06T10:00:00Z,view,i-2\n"
        "mall,8,2024-01-07T10:00:00Z,view,i-2\n"
    )
    pairs.write_text(
        "platform,platform_user_id,other_platform,other_platform_user_id,kind,confidence,source\n"
        "mall,7,shop,1,probabilistic,0.9712,splink\n"
        "mall,8,shop,1,probabilistic,0.6,splink\n"
    )
    arguments = ["--events", events, "--links", pairs, "--directory", directory, "--json"]
    ran = CliRunner().invoke(app, ["directory", "import", *map(str, arguments)])
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert (said["links"], said["people"]) == (1, 2)
    with sqlite3.connect(directory) as connection:
        assert connection.execute("SELECT kind, confidence FROM links").fetchall() == [
            ("probabilistic", 0.9712)
        ]
    connection.close()
    assert "suspicious" not in ran.stderr
    pairs.write_text(pairs.read_text().replace("shop,1,", "shop,01,").replace("mall,", "mall,0"))
    again = CliRunner().invoke(app, ["directory", "import", *map(str, arguments)])
    assert again.exit_code == 0, again.output
    assert "None of the 2 links names an account that has events" in again.stderr

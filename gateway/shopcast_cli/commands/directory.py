"""`platform directory ...`."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlsplit

import typer

from shopcast_cli.console import (
    Advance,
    ProgressReporter,
    counted,
    err,
    fail,
    failures,
    out,
    print_json,
    styled,
    table,
)
from shopcast_gateway.directory.places import in_redis, shown

if TYPE_CHECKING:
    import polars as pl

    from shopcast_build.data.log import CleanLog
    from shopcast_domain.events import Event
    from shopcast_gateway.directory.protocol import Directory
    from shopcast_gateway.directory.types import EventStatus, FloodRules

_Answer = TypeVar("_Answer")

app = typer.Typer(no_args_is_help=True, help="Accounts, events and items of the gateway.")

Place = Annotated[
    str, typer.Option("--directory", help="SQLite file, or redis://HOST:PORT of one in Redis.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        help="File of the keys of pseudonyms. Default: SHOPCAST_DIRECTORY_KEY, else NAME.key beside"
        " the SQLite file."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_BATCH = 5_000
_BUSY_S = 30.0


@app.callback()
def directory() -> None:
    """Accounts, events and items of the gateway."""


@app.command("import")
def import_logs(
    events: Annotated[
        list[Path],
        typer.Option(
            help="Event log: CSV, Parquet, JSONL or XLSX; a file, folder or glob; repeatable."
        ),
    ],
    links: Annotated[
        Path | None,
        typer.Option(
            help="Identity links between accounts: hashed identifiers, or pairs of `link-people`."
        ),
    ] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML file that maps the columns.")] = None,
    file: Place = "shopcast.db",
    directory_key: KeyFile = None,
    max_bad_share: Annotated[
        float | None,
        typer.Option(
            help="Share of unusable rows that is dropped without failing; default 0.01, or what"
            " the mapping's [limits] say.",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    floods: Annotated[
        bool,
        typer.Option(help="Quarantine events that no person can have caused."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Bring event logs and identity links into the directory the gateway reads.

    Reads and cleans logs just as `build-model` does. Importing a log twice changes nothing (unless
    events were removed by `directory compact` in between), so an import that was interrupted is
    simply run again: what it had recorded is passed over.

    Example: platform directory import --events logs/ --links links.csv
    """
    from shopcast_build.data.cleaning import clean
    from shopcast_build.data.errors import DataError
    from shopcast_build.data.mapping import Mapping, load_mapping
    from shopcast_build.data.people import read_links, resolve_people
    from shopcast_gateway.directory.types import EventStatus, FloodRules
    from shopcast_gateway.errors import GatewayError, StartupError

    reporter = ProgressReporter()
    with failures(DataError, StartupError, GatewayError):
        with reporter.stage("clean the log") as progress:
            log = clean(
                events,
                load_mapping(mapping) if mapping else Mapping(),
                max_bad_share=max_bad_share,
                keep_ids=True,
                progress=progress,
            )
            people = resolve_people(log.accounts, read_links(links) if links else None)
        if people.report.unmatched is not None:  # whose accounts may yet have events
            err.print(styled("suspicious:", "yellow"), people.report.unmatched)
        for one in people.report.suspicious:
            err.print(styled("suspicious:", "yellow"), one.sentence, one.advice)
        with reporter.stage(f"import {log.events.height:,} events") as progress:
            rules = FloodRules() if floods else None
            counts = asyncio.run(_import(file, directory_key, log, people.pairs, rules, progress))
    result = {
        "directory": shown(file),
        "recorded": counts[EventStatus.RECORDED],
        "duplicates": counts[EventStatus.DUPLICATE],
        "quarantined": counts[EventStatus.QUARANTINED],
        "links": people.pairs.height,
        "people": people.count,
        "cleaning": log.report.to_json(),
    }
    if as_json:
        print_json(result)
    else:
        out.print(
            f"{counted(counts[EventStatus.RECORDED], 'event')} recorded,"
            f" {counts[EventStatus.DUPLICATE]:,} were there before,"
            f" {counts[EventStatus.QUARANTINED]:,} quarantined;"
            f" {counted(people.pairs.height, 'link')} between accounts,"
            f" {counted(people.count, 'person', 'people')};"
            f" in {shown(file)}"
        )


async def _import(
    file: str | Path,
    key: Path | None,
    log: "CleanLog",
    pairs: "pl.DataFrame",
    floods: "FloodRules | None",
    progress: Advance,
) -> "dict[EventStatus, int]":
    from shopcast_domain.events import Account
    from shopcast_gateway.directory.open import open_directory
    from shopcast_gateway.directory.types import EventStatus, LinkKind, LinkStatement

    # A gateway may be recording: this one can wait for it.
    directory = await open_directory(file, keys=key, floods=floods, busy_s=_BUSY_S)
    try:
        counts = dict.fromkeys(EventStatus, 0)
        total = pairs.height + log.events.height
        # Links first, while histories are empty: joining two people moves the events of one.
        for start in range(0, pairs.height, _BATCH):
            statements = [
                LinkStatement(
                    Account(row["platform"], row["user"]),
                    Account(row["other_platform"], row["other_user"]),
                    LinkKind(row["kind"]),
                    row["confidence"],
                    row["source"] or "",
                )
                for row in pairs.slice(start, _BATCH).iter_rows(named=True)
            ]
            await directory.link_many(statements)
            progress(start + len(statements), total)
        for start in range(0, log.events.height, _BATCH):
            batch = list(_events(log.named(start, _BATCH)))
            result = await directory.record(batch)
            for status in EventStatus:
                counts[status] += result.count(status)
            progress(pairs.height + start + len(batch), total)
        return counts
    finally:
        await directory.close()


def _events(rows: "pl.DataFrame") -> "Iterator[Event]":
    from shopcast_domain.events import Account, Event, EventKind, Item

    for row in rows.iter_rows(named=True):
        yield Event(
            event_id=row["event_id"],
            account=Account(row["platform"], row["user"]),
            kind=EventKind[row["kind"].upper()],
            time_s=row["time"].timestamp(),
            item=Item(row["item_id"], row["title"], row["brand"], row["category"], row["price"]),
            quantity=row["quantity"],
        )


@app.command("stats")
def stats(
    file: Place = "shopcast.db", directory_key: KeyFile = None, as_json: AsJson = False
) -> None:
    """Count what is in a directory.

    Example: platform directory stats --directory shopcast.db
    """
    found = _ask(file, directory_key, lambda directory: directory.stats())
    if as_json:
        print_json({name: getattr(found, name) for name in found.__slots__})
        return
    shown = table("In the directory", "what", "how many")
    for name in found.__slots__:
        if name not in ("accounts_by_key", "size_bytes"):
            shown.add_row(name, f"{getattr(found, name):,}")
    for number, count in enumerate(found.accounts_by_key):
        shown.add_row(f"accounts under key {number + 1}", f"{count:,}")
    shown.add_row("size", f"{found.size_bytes / 2**20:,.1f} MiB")
    out.print(shown)


@app.command("compact")
def compact(
    file: Place = "shopcast.db",
    directory_key: KeyFile = None,
    max_age_days: Annotated[
        float | None, typer.Option(help="Remove events older than this.", min=0.0, max=36_500.0)
    ] = None,
    max_events: Annotated[
        int | None, typer.Option(help="Keep so many events of each person, the newest.", min=1)
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(help="Remove item vectors of encoders that are not published here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove what is not to be kept, and give the room back.

    Gateways may go on serving and recording; people are looked at in small groups, so a compaction
    that was interrupted is simply run again. Counts of items stay as they are.

    Example: platform directory compact --max-age-days 730 --max-events 2000
    """
    from shopcast_gateway.core.vectors import encoder_identity
    from shopcast_gateway.directory.types import Retention
    from shopcast_repository.versions import all_versions, find_manifest

    age_s = None if max_age_days is None else max_age_days * 86_400
    retention = Retention(max_age_s=age_s, max_events=max_events)
    reporter = ProgressReporter()
    with _failing():
        encoders = None
        if repository is not None:
            encoders = [
                encoder_identity(find_manifest(repository, version))
                for version in all_versions(repository)
            ]
        with reporter.stage("remove what is not to be kept") as progress:
            removed = _ask(
                file,
                directory_key,
                lambda directory: directory.compact(
                    retention, encoders=encoders, progress=progress
                ),
            )
            progress(1, 1)
    if as_json:
        print_json({"directory": shown(file), "removed": removed})
    else:
        out.print(f"{counted(removed, 'event')} removed from {shown(file)}")


@app.command("export")
def export(
    output: Annotated[Path, typer.Option(help="File of one JSON object a line and person.")],
    file: Place = "shopcast.db",
    directory_key: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Write everything about everybody, one person a line, by pseudonyms.

    The file has its name once it is whole. An export that was killed goes on where it stopped when
    it is run again. Whenever somebody is erased before it is whole, it begins anew; who is joined
    or parted meanwhile is written as they are at the end, so each account is there once.

    Example: platform directory export --output people.jsonl
    """
    from shopcast_cli.people_file import PeopleFile, copy_people

    reporter = ProgressReporter()
    with _failing():
        total = _ask(file, directory_key, lambda directory: directory.stats()).people
        with (
            PeopleFile(output, _name(file)) as written,
            reporter.stage(f"export {total:,} people") as progress,
        ):
            _ask(
                file,
                directory_key,
                lambda directory: copy_people(
                    directory, written, lambda done: progress(done, total)
                ),
            )
    if as_json:
        print_json({"output": str(output), "people": written.people})
    else:
        out.print(f"{counted(written.people, 'person', 'people')} in {output}")


@app.command("export-person")
def export_person(
    platform: Annotated[str, typer.Option(help="The platform of one of the person's accounts.")],
    user: Annotated[str, typer.Option(help="The platform's own id of the user.")],
    output: Annotated[Path, typer.Option(help="JSON file.")],
    file: Place = "shopcast.db",
    directory_key: KeyFile = None,
) -> None:
    """Write everything about one person, however much it is.

    Example: platform directory export-person --platform kaufwerk --user u-17 --output anna.json
    """
    from shopcast_cli.people_file import write_person
    from shopcast_domain.events import Account

    data = _ask(file, directory_key, lambda directory: directory.export(Account(platform, user)))
    if data is None:
        fail("this account has never been seen")
    write_person(output, data)
    events, accounts = (counted(len(data[f"{one}s"]), one) for one in ("event", "account"))
    out.print(f"{events} of {accounts} in {output}")


@app.command("rotate-key")
def rotate_key(
    file: Place = "shopcast.db", directory_key: KeyFile = None, as_json: AsJson = False
) -> None:
    """Put a new key before those that pseudonyms are made with.

    Stop the gateways first, and start them afterwards: one that still has the old keys only refuses
    to work. Accounts get their new pseudonym when something is recorded of them; until then they
    are found under the old key, which must be kept. `directory stats` counts accounts by key.

    Example: platform directory rotate-key --directory shopcast.db
    """
    from shopcast_gateway.directory.open import key_file, keys_given
    from shopcast_gateway.directory.pseudonym import KEY_VARIABLE, rotate

    if directory_key is None and keys_given():
        fail(
            f"the keys are those of {KEY_VARIABLE}: put 64 new hexadecimal digits and a comma"
            " before those there, or name the file of keys with --directory-key"
        )
    with _failing():
        held = directory_key or key_file(file)
        if held is None:
            raise typer.BadParameter("name the file of its keys", param_hint="--directory-key")
        # Opening it before, only the directory's own keys are rotated; afterwards, it is written
        # down that the new one is in use.
        _ask(file, directory_key, lambda directory: directory.stats())
        keys = rotate(held)
        _ask(file, directory_key, lambda directory: directory.stats())
    if as_json:
        print_json({"directory": shown(file), "keys": keys})
    else:
        out.print(f"{held} holds {keys} keys, a new one in front; start the gateways")


def _name(place: str) -> str:
    """What tells one directory from another."""
    if in_redis(place):
        return shown(place) + urlsplit(place).path  # the number of the database
    return str(Path(place).resolve())


@contextmanager
def _failing() -> Iterator[None]:
    from shopcast_domain.manifest import ManifestError
    from shopcast_gateway.errors import GatewayError, StartupError
    from shopcast_repository.errors import RepositoryError

    with failures(GatewayError, ManifestError, OSError, RepositoryError, StartupError):
        yield


def _ask(file: str, key: Path | None, work: "Callable[[Directory], Awaitable[_Answer]]") -> _Answer:
    """Ask a directory that is there."""
    from shopcast_gateway.directory.open import open_directory

    async def asked() -> _Answer:
        directory = await open_directory(file, keys=key, make=False, busy_s=_BUSY_S)
        try:
            return await work(directory)
        finally:
            await directory.close()

    with _failing():
        return asyncio.run(asked())

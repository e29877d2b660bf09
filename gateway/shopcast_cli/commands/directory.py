"""`platform directory ...`."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopcast_cli.console import Advance, ProgressReporter, failures, out, print_json

if TYPE_CHECKING:
    import polars as pl

    from shopcast_build.data.log import CleanLog
    from shopcast_domain.events import Event

app = typer.Typer(no_args_is_help=True, help="Accounts, events and items of the gateway.")

_BATCH = 5_000


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
    links: Annotated[Path | None, typer.Option(help="Identity links between accounts.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML file that maps the columns.")] = None,
    file: Annotated[Path, typer.Option("--directory", help="SQLite file; made if missing.")] = Path(
        "shopcast.db"
    ),
    max_bad_share: Annotated[
        float | None,
        typer.Option(
            help="Share of unusable rows that is dropped without failing; default 0.01, or what"
            " the mapping's [limits] say.",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Bring event logs and identity links into the directory the gateway reads.

    Reads and cleans logs just as `build-model` does. Importing a log twice changes nothing, so an
    import that was interrupted is simply run again.

    Example: platform directory import --events logs/ --links links.csv
    """
    from shopcast_build.data.cleaning import clean
    from shopcast_build.data.errors import DataError
    from shopcast_build.data.mapping import Mapping, load_mapping
    from shopcast_build.data.people import read_links, resolve_people
    from shopcast_gateway.errors import GatewayError, StartupError

    reporter = ProgressReporter()
    with failures(DataError, StartupError, GatewayError):
        with reporter.stage("clean the log") as progress:
            log = clean(
                events,
                load_mapping(mapping) if mapping else Mapping(),
                max_bad_share=max_bad_share,
                keep_ids=True,
            )
            people = resolve_people(log.accounts, read_links(links) if links else None)
            progress(1, 1)
        with reporter.stage(f"import {log.events.height:,} events") as progress:
            recorded, duplicates = asyncio.run(_import(file, log, people.pairs, progress))
    result = {
        "directory": str(file),
        "recorded": recorded,
        "duplicates": duplicates,
        "links": people.pairs.height,
        "people": people.count,
        "cleaning": log.report.to_json(),
    }
    if as_json:
        print_json(result)
    else:
        out.print(
            f"{recorded:,} events recorded, {duplicates:,} were there before;"
            f" {people.pairs.height:,} links between accounts, {people.count:,} people; in {file}"
        )


async def _import(
    file: Path, log: "CleanLog", pairs: "pl.DataFrame", progress: Advance
) -> tuple[int, int]:
    from shopcast_domain.events import Account
    from shopcast_gateway.directory.open import open_directory
    from shopcast_gateway.directory.types import LinkKind

    directory = await open_directory(file)
    try:
        recorded = duplicates = 0
        # Links first, while histories are empty: joining two people moves the events of one.
        for row in pairs.iter_rows(named=True):
            await directory.link(
                Account(row["platform"], row["user"]),
                Account(row["other_platform"], row["other_user"]),
                kind=LinkKind(row["kind"]),
                confidence=1.0,
            )
        for start in range(0, log.events.height, _BATCH):
            batch = list(_events(log.named(start, _BATCH)))
            result = await directory.record(batch)
            recorded += result.recorded
            duplicates += result.duplicates
            progress(start + len(batch), log.events.height)
        return recorded, duplicates
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

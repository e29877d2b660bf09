"""Simulates a market, block by block, into a folder of logs and truth."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shopcast_build.simulation.catalogue import Catalogue, build_catalogue
from shopcast_build.simulation.folder import replacing, write_manifest
from shopcast_build.simulation.identities import register
from shopcast_build.simulation.pace import needs_per_account
from shopcast_build.simulation.people import BLOCK_PEOPLE, open_accounts
from shopcast_build.simulation.records import (
    record_events,
    record_exposures,
    record_links,
    record_people,
)
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.shopping import shop

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SimulationSummary:
    """Where a simulation lies and how much there is of what.

    events: folder with a file or, of parquet, a folder for each platform. links: CSV file.
    truth: folder that training must not read. identifiers: rows of links.
    exposures: by what came of them, whether or not the period saw the end of it.
    """

    events: Path
    links: Path
    truth: Path
    people: int
    items: int
    accounts: int
    identifiers: int
    events_by_kind: Mapping[str, int]
    events_by_platform: Mapping[str, int]
    exposures: Mapping[str, int]


def simulate(
    settings: MarketSettings, out: Path, progress: Progress | None = None
) -> SimulationSummary:
    """Write the market to `out`, atomically; the same settings give the same bytes.

    progress: called with people done and people in all, after each block.
    Memory does not grow with the number of people.
    Raises FileExistsError if `out` holds anything but an earlier simulation, which it replaces.
    """
    with replacing(out) as folder:
        catalogue = build_catalogue(settings)
        pace = needs_per_account(settings, catalogue)
        (folder / "events").mkdir()
        (folder / "truth").mkdir()
        catalogue.table.write_parquet(folder / "truth" / "items.parquet")
        tally: Counter[tuple[str, str]] = Counter()
        for block, first in enumerate(range(0, settings.people, BLOCK_PEOPLE)):
            tally += _write_block(settings, catalogue, pace, folder, block)
            if progress is not None:
                progress(min(first + BLOCK_PEOPLE, settings.people), settings.people)

        def by(what: str) -> dict[str, int]:
            return {name: tally[key] for key in sorted(tally) for name in key[1:] if key[0] == what}

        summary = SimulationSummary(
            events=out / "events",
            links=out / "links.csv",
            truth=out / "truth",
            people=settings.people,
            items=len(catalogue.table),
            accounts=tally["accounts", ""],
            identifiers=tally["identifiers", ""],
            events_by_kind=by("kind"),
            events_by_platform=by("platform"),
            exposures=by("outcome"),
        )
        counts = dataclasses.asdict(summary)
        for path in ("events", "links", "truth"):
            del counts[path]
        described = {**dataclasses.asdict(settings), "start": settings.start.isoformat()}
        write_manifest(folder, {"settings": described, "counts": counts})
    return summary


def _write_block(
    settings: MarketSettings, catalogue: Catalogue, pace: float, folder: Path, block: int
) -> Counter[tuple[str, str]]:
    """Simulate one block of people, add it to the files, and count what it holds."""
    first = block * BLOCK_PEOPLE
    accounts = open_accounts(settings, block, min(BLOCK_PEOPLE, settings.people - first))
    registered = register(settings, block, accounts)
    met = shop(settings, catalogue, accounts, block, pace)
    events, view_id = record_events(settings, catalogue, accounts, met, block)
    exposures = record_exposures(settings, catalogue, accounts, met, first, view_id)
    links = record_links(accounts, registered)

    for (platform,), log in events.partition_by("platform", as_dict=True).items():
        if settings.format == "csv":
            _append_csv(log, folder / "events" / f"{platform}.csv")
        else:
            part = folder / "events" / str(platform) / f"part-{block:05d}.parquet"
            part.parent.mkdir(exist_ok=True)
            log.write_parquet(part)
    _append_csv(links, folder / "links.csv")
    people = record_people(accounts, registered, first)
    people.write_parquet(folder / "truth" / f"people-{block:05d}.parquet")
    exposures.write_parquet(folder / "truth" / f"exposures-{block:05d}.parquet")

    tally = Counter({("accounts", ""): len(accounts), ("identifiers", ""): len(links)})
    for what, column in (
        ("kind", events["kind"]),
        ("platform", events["platform"]),
        ("outcome", exposures["outcome"]),
    ):
        for name, count in column.value_counts().iter_rows():
            tally[what, name] = count
    return tally


def _append_csv(rows: pl.DataFrame, path: Path) -> None:
    """Append rows to a CSV file, with a header if it is new."""
    with path.open("ab") as file:
        rows.write_csv(file, include_header=file.tell() == 0, float_precision=2)

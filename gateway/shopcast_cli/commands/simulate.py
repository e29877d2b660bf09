"""`platform simulate`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from shopcast_cli.console import ProgressReporter, failures, out, print_json, table


def simulate(
    folder: Annotated[
        Path,
        typer.Option("--out", help="Folder to write; replaced when it is an earlier simulation."),
    ] = Path("simulation"),
    people: Annotated[int, typer.Option(help="People: 10 to millions.")] = 2000,
    platforms: Annotated[int, typer.Option(help="Platforms: 1 to 8.")] = 3,
    items_per_platform: Annotated[int, typer.Option(help="Items of each catalogue.")] = 800,
    days: Annotated[int, typer.Option(help="Length of the period in days.")] = 180,
    start: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="First day, UTC.")
    ] = datetime(2026, 1, 1),
    events_per_person: Annotated[float, typer.Option(help="Mean events of a person.")] = 30.0,
    cross_platform_effect: Annotated[
        float,
        typer.Option(
            help="How much a person is the same on every platform, 0 to 1. At 0 fused"
            " history is worth nothing."
        ),
    ] = 0.8,
    missing_links: Annotated[
        float, typer.Option(help="Share of accounts without a usable identifier.")
    ] = 0.1,
    wrong_links: Annotated[
        float, typer.Option(help="Share of accounts with somebody else's identifier.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 7,
    file_format: Annotated[str, typer.Option("--format", help="csv or parquet.")] = "csv",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write the logs of a market of several platforms whose truth is known.

    Events go to OUT/events, identity links to OUT/links.csv, and the truth (traits, probabilities)
    to OUT/truth, which no build ever reads. Memory stays bounded at any size.

    Example: platform simulate --out market --people 20000 --cross-platform-effect 0
    """
    from dataclasses import asdict

    from shopcast_build.simulation.settings import MarketSettings
    from shopcast_build.simulation.writer import simulate as write

    try:
        settings = MarketSettings(
            people=people,
            platforms=platforms,
            items_per_platform=items_per_platform,
            days=days,
            start=start.date(),
            events_per_person=events_per_person,
            cross_platform_effect=cross_platform_effect,
            missing_links=missing_links,
            wrong_links=wrong_links,
            seed=seed,
            format=file_format,  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if settings.start > datetime.now(UTC).date() - timedelta(days=settings.days):
        raise typer.BadParameter(
            f"{settings.days:,} days from {settings.start} on end in the future, of which no build"
            " takes events: choose an earlier --start or fewer --days."
        )
    with failures(OSError), ProgressReporter().stage("simulate") as progress:
        summary = write(settings, folder, progress)
    if as_json:
        print_json(asdict(summary))
        return
    counts = table(f"A market of {summary.people:,} people in {folder}", "what", "number")
    rows = {
        "accounts": summary.accounts,
        "items": summary.items,
        **{f"{kind} events": n for kind, n in summary.events_by_kind.items()},
        **{f"events on {name}": n for name, n in summary.events_by_platform.items()},
    }
    for name, number in rows.items():
        counts.add_row(name, f"{number:,}")
    out.print(counts)
    out.print(f"next: `platform build-model --events {summary.events} --links {summary.links}`")

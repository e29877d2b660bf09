"""`platform data ...`."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopcast_cli.console import (
    ProgressReporter,
    counted,
    err,
    failures,
    out,
    print_json,
    styled,
    table,
)

if TYPE_CHECKING:
    from shopcast_build.data.preview import Preview
    from shopcast_build.data.proposal import Proposal
    from shopcast_build.data.report import CleaningReport, Suspicion

_SHOWN = 3

app = typer.Typer(no_args_is_help=True, help="Look at event logs before building on them.")


@app.callback()
def data() -> None:
    """Look at event logs before building on them."""


@app.command("check")
def check(
    events: Annotated[
        list[Path],
        typer.Option(
            help="Event log: CSV, Parquet, JSONL or XLSX; a file, folder or glob; repeatable."
        ),
    ],
    mapping: Annotated[
        Path | None,
        typer.Option(help="TOML file that maps the log's columns; see examples/."),
    ] = None,
    links: Annotated[
        Path | None,
        typer.Option(help="Links between accounts, as for build-model; says whom they join."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for the report: JSON and HTML.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say what a build would drop, repair and find suspicious in a log, platform by platform.

    Ends with an error where the mapping's [limits] would stop a build, after writing the report.

    Example: platform data check --events logs/ --mapping mapping.toml --report quality
    """
    from shopcast_build.data.cleaning import clean
    from shopcast_build.data.errors import DataError
    from shopcast_build.data.mapping import Mapping, load_mapping
    from shopcast_build.data.people import check_links
    from shopcast_build.data.quality import write_quality
    from shopcast_build.data.telling_links import find_people
    from shopcast_build.data.thresholds import check_bad_rows, check_limits

    with failures(DataError, OSError):
        mapped = load_mapping(mapping) if mapping else Mapping()
        with ProgressReporter().stage("read and clean the log") as progress:
            log = clean(events, mapped, max_bad_share=1.0, progress=progress)
            people, found = find_people(log, links)
        page = write_quality(found, report) if report else None
        if as_json:
            print_json(found.to_json() | {"people": people.report.to_json()})
        else:
            show(found, page)
            if links is not None:
                out.print(f"{len(people.person):,} accounts are of {people.count:,} people")
        check_bad_rows(
            found.bad, found.examples, found.read - found.ruled, mapped.limits.max_bad_share
        )
        check_limits(found, mapped.limits)
        check_links(people.report)


@app.command("inspect")
def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A log, or a folder of them.")],
    output: Annotated[
        Path | None, typer.Option(help="Write the proposed mapping here; never over another file.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Names of columns, with commas between, where no header row has them."),
    ] = None,
    rows: Annotated[
        int, typer.Option(help="Rows of each file to try the mapping on.", min=1)
    ] = 100_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Propose a mapping for a log nobody has described yet, and show what it would do.

    Columns are recognised by their names and values. What only the log's owner can know is asked.

    Example: platform data inspect export.xlsx --output mapping.toml
    """
    from shopcast_build.data.errors import DataError
    from shopcast_build.data.preview import preview
    from shopcast_build.data.proposal import propose
    from shopcast_build.data.reading import files_of, scan, sniff_layout

    with failures(DataError, OSError):
        if output is not None and output.exists():
            raise DataError(f"{output} exists; name another file, or remove it first.")
        named = tuple(name.strip() for name in columns.split(",")) if columns else ()
        layouts = {file: sniff_layout(file, named) for file in files_of([path])}
        sources = scan([path], layouts.__getitem__)
        proposal = propose(sources, layouts)
        with ProgressReporter().stage("try the mapping") as progress:
            found = preview(sources, proposal.mapping, rows=rows, progress=progress)
        if output is not None:
            output.write_text(proposal.toml, encoding="utf-8")
    if as_json:
        print_json(
            {
                "mapping": proposal.toml,
                "questions": list(proposal.questions),
                "rows": found.rows,
                "kinds": found.kinds,
                "dropped": found.dropped,
                "first": found.first.to_dicts(),
            }
        )
    else:
        show_proposal(proposal, found, output)


def show(report: "CleaningReport", page: Path | None) -> None:
    """The report for people: numbers by platform, what was dropped, repaired and is suspicious."""
    numbers = table(
        f"{report.kept:,} of {report.read:,} rows are events to learn from",
        *("platform", "read", "kept", "duplicate", "dropped", "repaired", "accounts", "items"),
    )
    for one in report.by_platform:
        counts = (
            *(one.read, one.kept, one.duplicates),
            *(sum(reasons.values()) for reasons in (one.dropped, one.repaired)),
            *(one.accounts, one.items),
        )
        numbers.add_row(one.platform, *(f"{n:,}" for n in counts))
    out.print(numbers)
    for line in asked(report):
        out.print(f"  {line}")
    for verb, reasons in (("dropped", report.dropped), ("repaired", report.repaired)):
        for reason, rows in reasons.items():
            shown = "; ".join(report.examples.get(reason, ())[:1])
            out.print(f"  {verb} {rows:,} rows: {reason}", styled(f"({shown})", "dim"))
    for suspicion, sentence in suspicions(report):
        out.print(styled("suspicious:", "yellow"), sentence)
        out.print(f"  {suspicion.advice}", soft_wrap=True)
        for example in suspicion.examples:
            out.print(styled(f"  {example}", "dim"))
    if not report.suspicious:
        out.print("nothing looks suspicious")
    if page is not None:
        err.print(f"  report in {page}", soft_wrap=True)


def asked(report: "CleaningReport") -> Iterator[str]:
    """Where the platforms with events are asked, those that are asked alike together."""
    alike: dict[str, list[str]] = {}
    for one in report.by_platform:
        if one.kept:
            alike.setdefault(one.asked, []).append(one.platform)
    for where, names in alike.items():
        if len(names) <= _SHOWN:
            yield from (f"{name} is {where}" for name in names)
        else:
            further = len(names) - _SHOWN
            yield f"{', '.join(names[:_SHOWN])} and {further:,} more are {where}"


def suspicions(report: "CleaningReport") -> Iterator[tuple["Suspicion", str]]:
    """What is suspicious, each check on its first few platforms, and its sentence; the last one
    adds of how many platforms more it is."""
    every, seen = Counter(one.name for one in report.suspicious), Counter[str]()
    for one in report.suspicious:
        seen[one.name] += 1
        further = every[one.name] - _SHOWN
        if seen[one.name] < _SHOWN or further <= 0:
            yield one, one.sentence
        elif seen[one.name] == _SHOWN:
            yield one, f"{one.sentence} The same of {counted(further, 'more platform')}."


def show_proposal(proposal: "Proposal", preview: "Preview", output: Path | None) -> None:
    """The mapping, what it would do, and what it leaves open."""
    out.print(proposal.toml, soft_wrap=True)
    first = table("The first events it would make", *preview.first.columns)
    for row in preview.first.iter_rows():
        first.add_row(*("" if cell is None else str(cell) for cell in row))
    out.print(first)
    made = ", ".join(f"{n:,} {kind}" for kind, n in preview.kinds.items()) or "no event"
    out.print(f"of {preview.rows:,} rows: {made}")
    for reason, n in preview.dropped.items():
        out.print(f"  {n:,} rows would be dropped: {reason}")
    for question in proposal.questions:
        out.print(styled("open:", "yellow"), question, soft_wrap=True)
    if output is None:
        out.print("write it to a file with --output; then `platform data check`")
    else:
        out.print(f"written to {output}; next: `platform data check`", soft_wrap=True)

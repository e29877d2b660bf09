"""`platform link-people`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopcast_cli.console import (
    ProgressReporter,
    failures,
    out,
    print_json,
    styled,
)

if TYPE_CHECKING:
    from shopcast_build.linking.report import LinkingReport


def link_people(
    accounts: Annotated[
        list[Path],
        typer.Option(
            help="What platforms know of their accounts: CSV, Parquet, JSONL or XLSX; a file,"
            " folder or glob; repeatable."
        ),
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTRIBUTE=COLUMN",
            help="A column that is not named like its attribute, such as surname=last_name;"
            " repeatable. Several of one attribute are joined, such as two lines of street.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(help="File for the pairs, .csv or .parquet; one that is there is replaced."),
    ] = Path("pairs.csv"),
    min_confidence: Annotated[
        float, typer.Option(help="Probability that a link needs.", min=0.5, max=0.9999)
    ] = 0.95,
    max_accounts: Annotated[
        int,
        typer.Option(
            help="A person, or an e-mail or phone, with more accounts than this is left alone.",
            min=2,
        ),
    ] = 10,
    within_platforms: Annotated[
        bool,
        typer.Option(
            "--within-platforms",
            help="A person may have several accounts on one platform; otherwise at most one each.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find accounts that are probably one person's, from names, dates of birth and addresses.

    Files need platform and platform_user_id, and at least three of given_name, surname,
    date_of_birth, street (with street_number), city (with postcode and state), email and phone;
    e-mails and phones may be hashed. Spelling may differ, values may be missing. Nothing personal
    is written: links are pairs of accounts with a probability, for `build-model --links` and
    `directory import --links`. The same files always give the same links.

    Example: platform link-people --accounts customers/ --column surname=last_name
    """
    from shopcast_build.data.errors import DataError
    from shopcast_build.linking.attributes import parse_columns
    from shopcast_build.linking.linkage import link_people as link
    from shopcast_build.linking.writing import check_output, write_links

    with failures(DataError):
        check_output(output, accounts)
        found = link(
            accounts,
            parse_columns(column or ()),
            min_confidence=min_confidence,
            max_accounts=max_accounts,
            within=within_platforms,
            reporter=ProgressReporter(),
        )
        write_links(found.links, output)
    if as_json:
        print_json({"output": str(output), **found.report.to_json()})
    else:
        show(found.report, output)


def show(report: "LinkingReport", output: Path) -> None:
    """The report for people: what was compared, found and refused."""
    accounts = ", ".join(f"{n:,} of {name}" for name, n in report.accounts.items())
    out.print(f"{accounts} accounts compared by {', '.join(report.attributes)}", soft_wrap=True)
    notes = {
        f"rows whose {name} cannot be read, which was not compared": n
        for name, n in report.values_unreadable.items()
    } | {
        "rows without platform or user id": report.rows_incomplete,
        "further rows of an account; its fullest one was read": report.rows_repeated,
        "e-mails and phones of too many accounts, not compared": report.identifiers_ignored,
        "dates of birth of far more accounts than chance gives one, not compared": (
            report.birthdays_ignored
        ),
        "combinations of values of too many accounts, not compared": report.keys_ignored,
        "pairs refused: alike as a household, but nothing of one person's own agrees": (
            report.households
        ),
        "pairs refused: another account of the platform fits too well": report.rivals,
        "links refused: a person would have two accounts of a platform": report.clashes,
        f"links refused: {report.crowds:,} people of too many accounts": report.crowd_links,
    }
    for note, count in notes.items():
        if count:
            out.print(f"  {count:,} {note}")
    if not report.links:
        out.print(
            f"no links, so {output} holds none: no two accounts are alike enough in what was"
            " compared; name more columns with --column, or ask for less with --min-confidence",
            soft_wrap=True,
        )
        return
    out.print(
        styled(f"{report.links:,} links", "bold green"),
        f"between {report.linked_accounts:,} accounts, in {output}; next: `platform build-model"
        f" --links {output}`",
        soft_wrap=True,
    )

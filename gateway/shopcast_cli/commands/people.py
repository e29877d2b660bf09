"""`platform people ...`: who is who, what they did and what they allow, asked of a gateway."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopcast_cli.commands.requests import AsJson, Platform, Timeout, User, call
from shopcast_cli.console import counted, fail, out, print_json, table
from shopcast_cli.target import LARGEST, LOCAL, Target, calls_gateway

if TYPE_CHECKING:
    from shopcast_client import IdentityChange, Person, Purpose

app = typer.Typer(
    no_args_is_help=True, help="People across platforms: look them up, correct, export, erase."
)

_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
AsOf = Annotated[
    datetime | None,
    typer.Option(
        help="As it was known at this time, UTC, a date being its first moment; now by default.",
        formats=_TIMES,
    ),
]
OtherPlatform = Annotated[str, typer.Option(help="The other account's platform.")]
OtherUser = Annotated[str, typer.Option(help="The other account's user id.")]
Purposes = Annotated[
    list[str] | None,
    typer.Option(help="prediction, recommendation, marketing, risk or research; repeatable."),
]


@app.command("show")
@calls_gateway
def show(
    platform: Platform,
    user: User,
    as_of: AsOf = None,
    target: Target = LOCAL,
    timeout_s: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Tell which person an account belongs to, with all accounts; exit code 1 if it is unknown.

    Example: platform people show --platform kaufwerk --user u-17 --as-of 2026-03-03
    """
    person = call(
        target,
        timeout_s,
        lambda client: client.resolve_person(platform=platform, user_id=user, as_of=_utc(as_of)),
    )
    if person is None:
        fail("this account has never been seen" + (" by then" if as_of else ""))
    if as_json:
        print_json(_person(person))
        return
    out.print(person.person_id)
    for one in person.accounts:
        out.print(f"  {one.platform} {one.pseudonym}")


@app.command("history")
@calls_gateway
def history(
    platform: Platform,
    user: User,
    limit: Annotated[int, typer.Option(help="The most events to tell.", min=1, max=1000)] = 20,
    as_of: AsOf = None,
    target: Target = LOCAL,
    timeout_s: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Tell what the person behind an account has done on any platform, newest first.

    Example: platform people history --platform kaufwerk --user u-17
    """
    events = call(
        target,
        timeout_s,
        lambda client: client.history(
            platform=platform, user_id=user, limit=limit, as_of=_utc(as_of)
        ),
    )
    if as_json:
        print_json([{name: getattr(one, name) for name in one.__slots__} for one in events])
        return
    shown = table("History", "time (UTC)", "platform", "what", "item", "price", "pieces", "sure")
    for one in events:
        shown.add_row(
            f"{one.time:%Y-%m-%d %H:%M}",
            one.platform,
            one.kind,
            one.title or one.item_id,
            "" if one.price is None else f"{one.price:.2f}",
            str(one.quantity),
            f"{one.confidence:.0%}",
        )
    out.print(shown)


@app.command("unlink")
@calls_gateway
def unlink(
    platform: Platform,
    user: User,
    other_platform: OtherPlatform,
    other_user: OtherUser,
    target: Target = LOCAL,
    timeout_s: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Take all links between two accounts away; where nothing else joins them, two people are left.

    Example: platform people unlink --platform a --user u1 --other-platform b --other-user u2
    """
    from shopcast_client import Account

    gone = call(
        target,
        timeout_s,
        lambda client: client.unlink_accounts(
            Account(platform, user), Account(other_platform, other_user)
        ),
    )
    if as_json:
        print_json({name: getattr(gone, name) for name in gone.__slots__})
        return
    out.print(
        f"{counted(gone.removed, 'link')} removed; "
        + (
            f"{gone.person_id} and {gone.other_person_id}"
            if gone.apart
            else f"still {gone.person_id}"
        )
    )


@app.command("split")
@calls_gateway
def split(
    platform: Platform,
    user: User,
    target: Target = LOCAL,
    timeout_s: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Take an account out of its person, with its events.

    Example: platform people split --platform kaufwerk --user u-17
    """
    from shopcast_client import Account

    gone = call(target, timeout_s, lambda client: client.split_account(Account(platform, user)))
    if as_json:
        print_json({name: getattr(gone, name) for name in gone.__slots__})
    else:
        out.print(f"{counted(gone.removed, 'link')} removed; the account is {gone.person_id} now")


@app.command("undo")
@calls_gateway
def undo(
    number: Annotated[
        int, typer.Argument(help="As `platform people changes` tells it.", min=1, max=LARGEST)
    ],
    target: Target = LOCAL,
    timeout_s: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Take a change back: a link goes, or returns as it was.

    Example: platform people undo 4711
    """
    made = call(target, timeout_s, lambda client: client.undo_change(number))
    if as_json:
        print_json(_change(made))
    else:
        out.print(_line(made), soft_wrap=True)


@app.command("changes")
@calls_gateway
def changes(
    after: Annotated[
        int, typer.Option(help="Begin after the change with this number.", min=0, max=LARGEST)
    ] = 0,
    target: Target = LOCAL,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Tell every change of who is who, and go on as they happen, until Ctrl-C. Exit code 1 when the
    gateway stops.

    Example: platform people changes --after 4711
    """
    import asyncio
    import json

    from shopcast_client import ShopcastError

    async def watch() -> int:
        last = after
        async with target.client(timeout_s=2.0) as client:
            async for made in client.watch_changes(after=after):
                last = made.number
                if as_json:
                    typer.echo(json.dumps(_change(made), default=str))
                else:
                    out.print(_line(made), soft_wrap=True)
        return last

    try:
        last = asyncio.run(watch())
    except ShopcastError as error:
        fail(error)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    fail(f"the gateway at {target.place} stops: call another with --after {last}")


@app.command("consent")
@calls_gateway
def consent(
    platform: Platform,
    user: User,
    allow: Purposes = None,
    refuse: Purposes = None,
    everywhere: Annotated[
        bool, typer.Option("--all-platforms", help="For all accounts of the person.")
    ] = False,
    target: Target = LOCAL,
    timeout_s: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Tell, or change, what a person's events may be used for.

    Example: platform people consent --platform kaufwerk --user u-17 --refuse marketing
    """
    from shopcast_client import Account

    said = dict.fromkeys(_purposes(allow, "--allow"), True) | dict.fromkeys(
        _purposes(refuse, "--refuse"), False
    )
    if set(allow or ()) & set(refuse or ()):
        raise typer.BadParameter("cannot be allowed and refused at once", param_hint="--refuse")
    account = Account(platform, user)
    held = call(
        target,
        timeout_s,
        lambda client: (
            client.set_consent(account, said, all_platforms=everywhere)
            if said
            else client.consents(account)
        ),
    )
    if not held:
        fail("this account has never been seen")
    if as_json:
        print_json(held)
        return
    for name, purposes in held.items():
        refused = ", ".join(purpose for purpose, allowed in purposes.items() if not allowed)
        out.print(f"{name}: {'refuses ' + refused if refused else 'allows everything'}")


@app.command("export")
@calls_gateway
def export(
    platform: Platform,
    user: User,
    output: Annotated[
        Path | None, typer.Option(help="JSON file; printed where none is named.")
    ] = None,
    target: Target = LOCAL,
    timeout_s: Timeout = 30.0,
) -> None:
    """Give everything that is kept about the person behind an account, as JSON.

    Example: platform people export --platform kaufwerk --user u-17 --output anna.json
    """
    from shopcast_cli.people_file import write_person
    from shopcast_client import Account

    data = call(target, timeout_s, lambda client: client.export_person(Account(platform, user)))
    if data is None:
        fail("this account has never been seen")
    if output is None:
        print_json(data)
        return
    write_person(output, data)
    events, accounts = (counted(len(data[f"{one}s"]), one) for one in ("event", "account"))
    out.print(f"{events} of {accounts} in {output}")


@app.command("erase")
@calls_gateway
def erase(
    platform: Platform,
    user: User,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether that is meant.")] = False,
    target: Target = LOCAL,
    timeout_s: Timeout = 30.0,
    as_json: AsJson = False,
) -> None:
    """Remove the person behind an account, on every platform, for good; prints a receipt.

    Counts of items stay as they are. Models that were published before stay too and are named.
    Where the gateway cannot answer it may have been done: `platform people show` tells.

    Example: platform people erase --platform kaufwerk --user u-17 --yes
    """
    from shopcast_client import Account

    if not yes:
        typer.confirm(
            "Remove this person with all accounts and events, for good?", abort=True, err=True
        )
    receipt = call(target, timeout_s, lambda client: client.erase_person(Account(platform, user)))
    if receipt is None:
        fail("this account has never been seen, or has been erased before")
    if as_json:
        print_json({name: getattr(receipt, name) for name in receipt.__slots__})
        return
    versions = ", ".join(receipt.model_versions) or "none"
    out.print(
        f"{receipt.person_id} removed at {receipt.time:%Y-%m-%d %H:%M:%S} UTC:"
        f" {counted(receipt.accounts, 'account')} ({', '.join(receipt.platforms)}),"
        f" {counted(receipt.events, 'event')}, {counted(receipt.links, 'link')},"
        f" {counted(receipt.journal_entries, 'entry', 'entries')} of the journal; model versions"
        f" published before: {versions}",
        soft_wrap=True,
    )


def _purposes(names: list[str] | None, option: str) -> "list[Purpose]":
    from shopcast_client import Purpose

    try:
        return [Purpose(name) for name in names or ()]
    except ValueError:
        raise typer.BadParameter(f"one of {', '.join(Purpose)}", param_hint=option) from None


def _utc(time: datetime | None) -> datetime | None:
    return time and time.replace(tzinfo=UTC)


def _person(person: "Person") -> dict[str, object]:
    return {
        "person_id": person.person_id,
        "accounts": [
            {"platform": one.platform, "pseudonym": one.pseudonym} for one in person.accounts
        ],
    }


def _change(made: "IdentityChange") -> dict[str, object]:
    return {name: getattr(made, name) for name in made.__slots__}


def _line(made: "IdentityChange") -> str:
    other = f" {made.other_person_id}" if made.other_person_id else ""
    how = f" ({made.link_kind}, {made.confidence:.0%})" if made.link_kind else ""
    source = f" by {made.source}" if made.source else ""
    kind = made.kind or "changed"
    return (
        f"{made.number} {made.time:%Y-%m-%d %H:%M:%S} {kind} {made.person_id}{other}{how}{source}"
    )

"""`platform predict`, `record` and `link`: a backend service's calls, by hand."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from shopcast_cli.console import age, fail, failures, out, print_json, table
from shopcast_cli.target import LOCAL, Target, calls_gateway

if TYPE_CHECKING:
    from shopcast_client import Item, PredictResult, ShopcastClient

_Answer = TypeVar("_Answer")

Platform = Annotated[str, typer.Option(help="The platform where this happens.")]
User = Annotated[str, typer.Option(help="The platform's own id of the user.")]
Timeout = Annotated[
    float, typer.Option(help="Seconds to wait for the answer.", min=0.001, max=86_400.0)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
ItemOption = Annotated[
    str,
    typer.Option(
        help="An item id, or JSON such as"
        """ '{"item_id": "s1", "title": "Trail shoe", "brand": "Nordwind", "price": 89}'."""
    ),
]
_LONGEST_S = 366 * 86_400.0
_TEXTS = {"item_id", "title", "brand", "category"}


@calls_gateway
def predict(
    platform: Platform,
    user: User,
    item: Annotated[
        list[str],
        typer.Option(
            help="An item id, or JSON such as"
            """ '{"item_id": "s1", "title": "Trail shoe", "price": 89}'; repeatable."""
        ),
    ],
    quantity: Annotated[
        list[int] | None,
        typer.Option(
            help="Pieces of each item, in their order, if they are an order being placed.",
            min=1,
            max=1_000_000,
        ),
    ] = None,
    purpose: Annotated[
        str,
        typer.Option(help="prediction, recommendation, marketing, risk or research: what for."),
    ] = "prediction",
    min_link_confidence: Annotated[
        float,
        typer.Option(
            help="Leave out events that are less surely the person's; 1 takes only the certain.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.0,
    lowest_level: Annotated[
        str,
        typer.Option(
            help="full, stale, no_history or prior: the least that will do while something is away."
        ),
    ] = "full",
    max_history_age_s: Annotated[
        float | None,
        typer.Option(help="Seconds since the history was read, at most, if it is stale.", min=0.0),
    ] = None,
    bulk: Annotated[
        bool, typer.Option("--bulk", help="Let those who wait for an answer go first.")
    ] = False,
    timings: Annotated[
        bool, typer.Option("--timings", help="Show where the server spent the time.")
    ] = False,
    target: Target = LOCAL,
    timeout_s: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Ask what a shopper will do next with one or more items.

    Example: platform predict --platform kaufwerk --user u-17 --item KW-022038
    """
    from shopcast_client import Priority, Purpose, ServiceLevel

    items = [_item(text) for text in item]
    if purpose not in list(Purpose):
        raise typer.BadParameter(f"one of {', '.join(Purpose)}", param_hint="--purpose")
    if lowest_level not in list(ServiceLevel):
        raise typer.BadParameter(f"one of {', '.join(ServiceLevel)}", param_hint="--lowest-level")
    if max_history_age_s is not None and not max_history_age_s <= _LONGEST_S:
        raise typer.BadParameter("at most a year", param_hint="--max-history-age-s")
    oldest = None if max_history_age_s is None else timedelta(seconds=max_history_age_s)
    if quantity and len(quantity) != len(items):
        raise typer.BadParameter("give as many as --item, or none", param_hint="--quantity")
    answer = call(
        target,
        timeout_s,
        lambda client: client.predict(
            platform=platform,
            user_id=user,
            items=items,
            quantities=quantity or (),
            purpose=Purpose(purpose),
            min_link_confidence=min_link_confidence,
            lowest_level=ServiceLevel(lowest_level),
            max_history_age=oldest,
            stage_timings=timings,
            priority=Priority.BULK if bulk else None,
        ),
    )
    if as_json:
        print_json(as_dict(answer))
    else:
        show(answer)


@calls_gateway
def record(
    platform: Platform,
    user: User,
    item: ItemOption,
    kind: Annotated[str, typer.Option(help="view, cart, buy or return.")] = "view",
    time: Annotated[
        datetime | None,
        typer.Option(help="When, UTC; now by default.", formats=["%Y-%m-%dT%H:%M:%S"]),
    ] = None,
    event_id: Annotated[
        str | None, typer.Option(help="Your id of the event; sending it twice records it once.")
    ] = None,
    quantity: Annotated[int, typer.Option(help="Pieces.", min=1, max=1_000_000)] = 1,
    target: Target = LOCAL,
    timeout_s: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Record what a shopper did; it counts in the next prediction.

    Example: platform record --platform kaufwerk --user u-17 --item KW-022038 --kind cart
    """
    from shopcast_client import Account, Event, EventKind

    if kind not in list(EventKind):
        raise typer.BadParameter("one of view, cart, buy, return", param_hint="--kind")
    event = Event(
        event_id=uuid.uuid4().hex if event_id is None else event_id,
        account=Account(platform, user),
        kind=EventKind(kind),
        time=(time or datetime.now(UTC)).replace(tzinfo=UTC),
        item=_item(item),
        quantity=quantity,
    )
    answer = call(target, timeout_s, lambda client: client.record_events([event]))
    if as_json:
        print_json(
            {
                "recorded": answer.recorded,
                "duplicates": answer.duplicates,
                "quarantined": answer.quarantined,
                "problems": [f"{one.field}: {one.problem}" for one in answer.problems],
            }
        )
    if answer.problems:
        problem = answer.problems[0]
        fail(f"not recorded: {problem.field.removeprefix('events[0].')} {problem.problem}")
    if not as_json and answer.quarantined:
        out.print("quarantined: too many events of this account within a second or a minute")
    elif not as_json:
        out.print("recorded" if answer.recorded else "this event had been recorded before")


@calls_gateway
def link(
    platform: Platform,
    user: User,
    other_platform: Annotated[str, typer.Option(help="The other account's platform.")],
    other_user: Annotated[str, typer.Option(help="The other account's user id.")],
    kind: Annotated[
        str,
        typer.Option(help="login, hashed_email, hashed_phone, device, probabilistic or operator."),
    ] = "login",
    confidence: Annotated[
        float, typer.Option(help="How sure: over 0 to 1; predictions weigh by it.", max=1.0)
    ] = 1.0,
    source: Annotated[str, typer.Option(help="Who says so, for the journal.")] = "",
    target: Target = LOCAL,
    timeout_s: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """State that two accounts belong to one person; their histories are read as one from then on.

    Example: platform link --platform kaufwerk --user u-17 --other-platform gearhub --other-user g9
    """
    from shopcast_client import Account, LinkKind

    if kind not in list(LinkKind):
        raise typer.BadParameter(f"one of {', '.join(LinkKind)}", param_hint="--kind")
    answer = call(
        target,
        timeout_s,
        lambda client: client.link_accounts(
            Account(platform, user),
            Account(other_platform, other_user),
            kind=LinkKind(kind),
            confidence=confidence,
            source=source,
        ),
    )
    if as_json:
        print_json({"person_id": answer.person_id, "merged": answer.merged})
    else:
        state = "now belong" if answer.merged else "already belonged"
        out.print(f"both accounts {state} to {answer.person_id}")


def call(
    target: Target, timeout_s: float, ask: "Callable[[ShopcastClient], Awaitable[_Answer]]"
) -> _Answer:
    """One call to a gateway; what goes wrong is one sentence and exit code 1."""
    from shopcast_client import ShopcastError

    async def asked() -> _Answer:
        async with target.client(timeout_s=timeout_s) as client:
            return await ask(client)

    with failures(ShopcastError):
        return asyncio.run(asked())


def _item(text: str) -> "Item":
    from shopcast_client import Item

    if not text.lstrip().startswith("{"):
        return Item(text)
    try:
        fields = json.loads(text)
        price = fields.pop("price", None)
        if not (
            isinstance(fields.get("item_id"), str)
            and fields.keys() <= _TEXTS
            and all(value is None or isinstance(value, str) for value in fields.values())
            and (price is None or type(price) in (int, float))
        ):
            raise ValueError
        return Item(**fields, price=None if price is None else float(price))
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            "a JSON item has item_id and any of title, brand, category (texts) and price (a"
            " number)",
            param_hint="--item",
        ) from None


def as_dict(answer: "PredictResult") -> dict[str, object]:
    """The answer for machines."""
    evidence = answer.evidence
    newest, read = evidence.newest_event_age, evidence.history_age
    reason = evidence.level_reason
    return {
        "predictions": [
            {
                "item_id": one.item_id,
                "view_probability": one.view_probability,
                "buy_probability": one.buy_probability,
                "return_probability": one.return_probability,
                "purchase_probability": one.purchase_probability,
                "return_risk": one.return_risk,
                "item_known": one.item_known,
                "text_known": one.text_known,
            }
            for one in answer.predictions
        ],
        "evidence": {
            "prediction_id": evidence.prediction_id,
            "model_version": evidence.model_version,
            "encoder_version": evidence.encoder_version,
            "trained_outcomes": [str(outcome) for outcome in evidence.trained_outcomes],
            "person_known": evidence.person_known,
            "events_used": evidence.events_used,
            "newest_event_age_s": None if newest is None else newest.total_seconds(),
            "texts_encoded": evidence.texts_encoded,
            "suppressed_platforms": list(evidence.suppressed_platforms),
            "uncertain_events_used": evidence.uncertain_events_used,
            "level": str(evidence.level),
            "level_reason": None if reason is None else str(reason),
            "history_age_s": None if read is None else read.total_seconds(),
            "stage_timings": [
                {"stage": one.stage, "duration_s": one.duration.total_seconds()}
                for one in evidence.stage_timings
            ],
            "platforms": [
                {
                    "platform": one.platform,
                    "events_used": one.events_used,
                    "newest_event_age_s": one.newest_event_age.total_seconds(),
                }
                for one in evidence.platforms
            ],
        },
    }


def show(answer: "PredictResult") -> None:
    """The answer for people."""
    shown = table(
        "What will happen", "item", "view", "buy", "return", "purchase", "return risk", ""
    )
    for one in answer.predictions:
        shown.add_row(
            one.item_id,
            f"{one.view_probability:.3f}",
            f"{one.buy_probability:.3f}",
            f"{one.return_probability:.3f}",
            f"{one.purchase_probability:.3f}",
            f"{one.return_risk:.3f}",
            "" if one.item_known else "new item",
        )
    out.print(shown)
    out.print(evidence_line(answer))
    out.print(level_line(answer))
    if answer.evidence.stage_timings:
        spent = table("Where the time went", "stage", "ms")
        for timing in answer.evidence.stage_timings:
            spent.add_row(timing.stage, f"{timing.duration.total_seconds() * 1000:.2f}")
        out.print(spent)


def evidence_line(answer: "PredictResult") -> str:
    """What the answer rests on, in one line."""
    evidence = answer.evidence
    without = ""
    if evidence.suppressed_platforms:
        without = f", without {', '.join(evidence.suppressed_platforms)} for want of consent"
    if not evidence.events_used:
        who = "a shopper without history" if evidence.person_known else "an unknown shopper"
        return f"{who}{without}; model version {evidence.model_version}"
    newest = evidence.newest_event_age
    ago = age(newest.total_seconds()) if newest else "?"
    used = ", ".join(f"{one.events_used} from {one.platform}" for one in evidence.platforms)
    return (
        f"{evidence.events_used} events ({used}), the newest {ago} ago{without};"
        f" model version {evidence.model_version}"
    )


def level_line(answer: "PredictResult") -> str:
    """How much that is, and why no more."""
    evidence = answer.evidence
    why = f" ({evidence.level_reason})" if evidence.level_reason else ""
    read = evidence.history_age
    ago = "" if read is None else f", the history read {age(read.total_seconds())} ago"
    return f"service level {evidence.level}{why}{ago}"

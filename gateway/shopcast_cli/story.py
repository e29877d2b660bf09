"""The demo's story: whom to watch in a simulated market, and what is asked about them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.table import Table

from shopcast_cli.commands.requests import evidence_line
from shopcast_cli.console import styled
from shopcast_client import (
    Account,
    Event,
    EventKind,
    Item,
    LinkKind,
    PredictResult,
    ShopcastClient,
)

if TYPE_CHECKING:
    import polars as pl

_ACCOUNT = ["platform", "platform_user_id"]
_LITTLE = 12  # events of an account of which little is known
_TITLE_WIDTH = 38


@dataclass(frozen=True, slots=True)
class Cast:
    """Two accounts that are one person's though no identifier says so, and items to ask about.

    here: little known. elsewhere: well known. items: on the platform of `here`; those named in
    `wanted` are of what the person looks for elsewhere. unseen: an item no event names.
    """

    here: Account
    elsewhere: Account
    items: tuple[Item, ...]
    wanted: tuple[str, ...]
    unseen: Item


def choose_cast(market: Path) -> Cast:
    """Pick from a simulated market, by its truth, the pair with the most to tell.

    Raises LookupError, one sentence, when the market is too small to hold one.
    """
    import polars as pl

    people = pl.read_parquet(market / "truth" / "people-*.parquet")
    events = pl.read_csv(market / "events" / "*.csv", schema_overrides={"item_id": pl.String})
    items = pl.read_parquet(market / "truth" / "items.parquet")
    met = (
        events.with_columns(pl.col("time").str.to_datetime(time_zone="UTC"))
        .join(items.select("platform", "item_id", "need"), on=["platform", "item_id"])
        .join(people.select("person", "link", *_ACCOUNT), on=_ACCOUNT)
    )
    pair = _pair(met)
    known = met.filter(pl.col("person") == pair["person"]).select("platform", "item_id")
    sold = met.filter(pl.col("platform") == pair["platform"]).select("platform", "item_id").unique()
    by_fame = (
        items.join(sold, on=["platform", "item_id"])
        .join(known, on=["platform", "item_id"], how="anti")
        .sort("popularity", "item_id", descending=True)
    )
    wanted = by_fame.filter(pl.col("need") == pair["need"]).head(2)
    others = by_fame.filter(pl.col("need") != pair["need"]).unique(
        "need", keep="first", maintain_order=True
    )
    twin = items.filter(
        pl.col("need") == pair["need"], pl.col("platform") != pair["platform"]
    ).sort("popularity", "item_id", descending=True)
    return Cast(
        here=Account(pair["platform"], pair["platform_user_id"]),
        elsewhere=Account(pair["platform_elsewhere"], pair["platform_user_id_elsewhere"]),
        items=tuple(map(_item, pl.concat([wanted, others.head(2)]).iter_rows(named=True))),
        wanted=tuple(wanted["item_id"]),
        unseen=_item(twin.row(0, named=True) | {"item_id": "never-sold-before", "category": None}),
    )


def _pair(met: "pl.DataFrame") -> dict[str, Any]:
    """An account without a usable identifier, and the same person's other one, lately looking for
    something it has not bought yet."""
    import polars as pl

    newest = cast(datetime, met["time"].max())
    looking = (
        met.filter(pl.col("time") > newest - timedelta(days=7))
        .group_by("person", *_ACCOUNT, "need")
        .agg((pl.col("kind") == "view").sum().alias("looks"), (pl.col("kind") == "buy").any())
        .filter(~pl.col("kind"))
    )
    pairs = (
        met.filter(pl.col("link").is_in(["none", "unshared"]))
        .group_by("person", *_ACCOUNT)
        .len()
        .join(looking, on="person", suffix="_elsewhere")
        .filter(pl.col("platform") != pl.col("platform_elsewhere"), pl.col("len") <= _LITTLE)
        .sort("looks", "len", "person", "platform", "need", descending=True)
    )
    if pairs.is_empty():
        raise LookupError("the market is too small for the story: give it more --people")
    return pairs.row(0, named=True)


def _item(row: dict[str, object]) -> Item:
    return Item(
        item_id=str(row["item_id"]),
        title=str(row["title"]),
        brand=str(row["brand"]),
        category=None if row["category"] is None else str(row["category"]),
        price=float(str(row["price"])),
    )


async def tell(roles: Cast, client: ShopcastClient, out: Console) -> None:
    """Ask, link, record and ask again; print what changes."""

    async def ask(*items: Item, account: Account = roles.here) -> PredictResult:
        return await client.predict(
            platform=account.platform, user_id=account.user_id, items=list(items)
        )

    here, elsewhere = roles.here.platform, roles.elsewhere.platform
    alone = await ask(*roles.items)
    await client.link_accounts(roles.here, roles.elsewhere, kind=LinkKind.LOGIN)
    together = await ask(*roles.items)
    out.print(
        styled("\n1. One person, two platforms.", "bold"),
        f"A shopper on {here} logs in with an account of {elsewhere}.\n   Marked * is what they"
        f" look for on {elsewhere}. 'buys' is the probability of a purchase, 'returns'\n   that of"
        " sending it back once bought.",
    )
    columns = [f"{what},\n{how}" for what in ("buys", "returns") for how in ("alone", "together")]
    shown = _table("offered on " + here, *columns)
    for item, one, two in zip(roles.items, alone.predictions, together.predictions, strict=True):
        shown.add_row(
            ("* " if item.item_id in roles.wanted else "  ") + (item.title or "")[:_TITLE_WIDTH],
            f"{one.purchase_probability:.3f}",
            f"{two.purchase_probability:.3f}",
            f"{one.return_risk:.3f}",
            f"{two.return_risk:.3f}",
        )
    out.print(shown)
    out.print(f"   alone:    {evidence_line(alone)}\n   together: {evidence_line(together)}")
    out.print(
        f"   What they look for is {_lead(roles, alone):.2f} times as likely to be bought as the"
        f" rest when {here} is\n   all that is known, and {_lead(roles, together):.2f} times when"
        " both are."
    )

    first = roles.items[0]
    before = await ask(first)
    await client.record_events(
        [
            Event(f"demo-{kind}", roles.here, kind, datetime.now(UTC) - age, first)
            for kind, age in (
                (EventKind.VIEW, timedelta(minutes=2)),
                (EventKind.CART, timedelta(minutes=1)),
            )
        ]
    )
    after = await ask(first)
    out.print(
        styled("\n2. A new event counts at once.", "bold"),
        "The shopper puts the first item into the cart.",
    )
    _compare(out, first, "before", before, "after", after)

    stranger = await ask(*roles.items, account=Account(here, "nobody-has-met-them"))
    out.print(
        styled("\n3. A cold-start shopper.", "bold"), "The same items, an account never seen."
    )
    shown = _table("offered on " + here, "buys", "returns")
    for item, guess in zip(roles.items, stranger.predictions, strict=True):
        purchase, risk = guess.purchase_probability, guess.return_risk
        shown.add_row((item.title or "")[:_TITLE_WIDTH], f"{purchase:.3f}", f"{risk:.3f}")
    out.print(shown)
    out.print(f"   {evidence_line(stranger)}")

    cold = await ask(roles.unseen)
    strange = await ask(roles.unseen, account=Account(here, "nobody-has-met-them"))
    out.print(
        styled("\n4. A cold item.", "bold"),
        f"No event names it; BERT reads its title ({cold.evidence.texts_encoded} text encoded).",
    )
    _compare(out, roles.unseen, "a stranger", strange, "this shopper", cold)


def _lead(roles: Cast, answer: PredictResult) -> float:
    """Mean purchase probability of the wanted items, over that of the others."""
    wanted = [p.purchase_probability for p in answer.predictions if p.item_id in roles.wanted]
    others = [p.purchase_probability for p in answer.predictions if p.item_id not in roles.wanted]
    return fmean(wanted) / fmean(others)


def _compare(
    out: Console, item: Item, one: str, first: PredictResult, two: str, second: PredictResult
) -> None:
    shown = _table("item", f"buys,\n{one}", f"buys,\n{two}", f"returns,\n{one}", f"returns,\n{two}")
    a, b = first.predictions[0], second.predictions[0]
    shown.add_row(
        (item.title or "")[:_TITLE_WIDTH],
        f"{a.purchase_probability:.3f}",
        f"{b.purchase_probability:.3f}",
        f"{a.return_risk:.3f}",
        f"{b.return_risk:.3f}",
    )
    out.print(shown)


def _table(*columns: str) -> Table:
    made = Table()
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index else "left", no_wrap=index == 0)
    return made

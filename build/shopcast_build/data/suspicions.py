"""What looks wrong in events that passed: kept as they are, and named."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import polars as pl

from shopcast_build.data.counting import counted
from shopcast_build.data.fields import BAD_PRICE, BAD_QUANTITY
from shopcast_build.data.leads import Leads, suspicious_leads
from shopcast_build.data.non_items import non_items
from shopcast_build.data.renaming import renamed_by_returns
from shopcast_build.data.report import Suspicion
from shopcast_build.data.returns import JudgedReturns, early_returns, unknown_purchases
from shopcast_build.data.staging import PART_ROWS
from shopcast_build.data.untold import untold
from shopcast_domain.events import EventKind

LOPSIDED_SHARE = 0.99
MIDNIGHT_SHARE = 0.99
BUSY_SHARE = 0.05
BUSY_OVER_MEAN = 20
MANY_TITLES = 20
FEW_OF_A_KIND = 30
NEAR_S = 1
_ENOUGH_EVENTS = 100
_ENOUGH_FOR_A_BOT = 1_000
_NEAR_SHARE = 0.01
_REPAIRED_SHARE = 0.01
_ENOUGH_REPAIRS = 10
_EXAMPLES = 3
_TEXTS = ("title", "brand", "category")
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the checks look at.

    events: staging.EVENTS. platforms: names by code. items: items.ITEMS. titles: columns item,
    text, first (each different title of an item, and when it was first told). currencies: columns
    platform, currency, rows, of prices that were not converted. item_column: what the mapping reads
    item ids from. leads: of every platform, within the purchase horizon. told: as Staging.told has
    it. repaired: rows by platform and reason. examples: of rows by reason, of whatever platform.
    files: how many were read; unread: names of those in the same folders that cannot be.
    """

    events: pl.DataFrame = field(repr=False)
    platforms: tuple[str, ...]
    accounts: int
    items: pl.DataFrame = field(repr=False)
    titles: pl.DataFrame = field(repr=False)
    currencies: pl.DataFrame = field(repr=False)
    item_column: str
    returns: JudgedReturns
    leads: tuple[Leads, ...]
    purchase_horizon: timedelta
    told: pl.DataFrame = field(repr=False)
    repaired: Mapping[str, Mapping[str, int]]
    examples: Mapping[str, tuple[str, ...]]
    files: int
    unread: tuple[str, ...]


def find_suspicions(evidence: Evidence) -> tuple[Suspicion, ...]:
    """Everything suspicious, the whole log first, then by platform."""
    found = [
        *_unread(evidence),
        *_untaught(evidence),
        *_one_account(evidence),
        *_lopsided(evidence),
        *_few(evidence),
        *_ends_early(evidence),
        *_currencies(evidence),
        *_numbers(evidence),
        *_midnight(evidence),
        *early_returns(evidence.returns),
        *unknown_purchases(evidence.returns),
        *suspicious_leads(evidence.leads, evidence.purchase_horizon),
        *untold(evidence.told, evidence.items),
        *_busy_accounts(evidence),
        *_near_duplicates(evidence),
        *_many_titles(evidence),
        *renamed_by_returns(evidence.events, evidence.items, evidence.titles),
        *non_items(evidence.items, evidence.item_column),
    ]
    return tuple(sorted(found, key=lambda one: (one.platform is not None, one.platform or "")))


def _unread(evidence: Evidence) -> list[Suspicion]:
    n, every = len(evidence.unread), len(evidence.unread) + evidence.files
    if not n:
        return []
    named = ", ".join(evidence.unread[:_EXAMPLES]) + (" and others" if n > _EXAMPLES else "")
    return [
        Suspicion(
            "files that were not read",
            None,
            n,
            every,
            f"{n:,} of {every:,} files are of types that cannot be read, and are left out:"
            f" {named}.",
            "Unpack them, or save them as CSV or Parquet; move those that hold no events away.",
        )
    ]


def _untaught(evidence: Evidence) -> list[Suspicion]:
    """What a build refuses a log for."""
    n = len(evidence.events)
    found = []
    if not evidence.items.select(pl.any_horizontal(pl.col(_TEXTS).is_not_null()).any()).item():
        found.append(
            Suspicion(
                "no texts",
                None,
                n,
                n,
                "No item has a title, a brand or a category, which the encoder reads: a build"
                " refuses such a log.",
                "Map one of them, or join the catalogue of items to the log.",
            )
        )
    kinds = dict(counted(evidence.events, "kind").iter_rows())
    browsed = any(one.browsed for one in evidence.leads)
    if "return" not in kinds and not (browsed and "buy" in kinds):
        end = "view" if browsed else "buy"
        found.append(
            Suspicion(
                "nothing to tell apart",
                None,
                n,
                n,
                f"Whatever people are asked about ends in a {end}: there is nothing to tell apart,"
                " and a build refuses such a log.",
                "Check how the mapping tells kinds of events; bring the purchases with the views"
                " that led to them, or the returns with the orders.",
            )
        )
    return found


def _one_account(evidence: Evidence) -> list[Suspicion]:
    n = len(evidence.events)
    if evidence.accounts > 1:
        return []
    return [
        Suspicion(
            "one account",
            None,
            n,
            n,
            f"All {n:,} events are of one account.",
            "Check which column the mapping reads as platform_user_id.",
        )
    ]


def _lopsided(evidence: Evidence) -> list[Suspicion]:
    n = len(evidence.events)
    counts = counted(evidence.events, "platform").sort("platform")
    if len(counts) < 2:
        return []
    return [
        Suspicion(
            "one platform has nearly everything",
            evidence.platforms[code],
            rows,
            n,
            f"{evidence.platforms[code]} has {rows / n:.1%} of all events, so the others can add"
            " little.",
            "Check that the exports of the other platforms are complete.",
        )
        for code, rows in counts.iter_rows()
        if rows >= LOPSIDED_SHARE * n
    ]


def _few(evidence: Evidence) -> list[Suspicion]:
    counts = dict(counted(evidence.events, "kind").iter_rows())
    n = len(evidence.events)
    return [
        Suspicion(
            "few examples of a kind",
            None,
            counts[kind],
            n,
            f"The log has only {counts[kind]:,} {kind} events; a model can hardly learn from them.",
            f"Check how the mapping tells a {kind}, or bring a longer log.",
        )
        for kind in ("buy", "return")
        if 0 < counts.get(kind, 0) < FEW_OF_A_KIND
    ]


def _ends_early(evidence: Evidence) -> list[Suspicion]:
    last = evidence.events.group_by("platform").agg(pl.len(), pl.col("time").max()).sort("platform")
    end = evidence.events.item(-1, "time")
    return [
        Suspicion(
            "a log that ends early",
            evidence.platforms[code],
            rows,
            len(evidence.events),
            f"The log of {evidence.platforms[code]} ends on {at:%Y-%m-%d}, {(end - at).days} days"
            " before that of all: what became of its newest views or orders is not known, and they"
            " are left out.",
            "Export every platform up to the same day.",
        )
        for code, rows, at in last.iter_rows()
        if end - at > evidence.purchase_horizon + timedelta(days=1)
    ]


def _currencies(evidence: Evidence) -> list[Suspicion]:
    known = evidence.currencies.drop_nulls("currency").sort("platform", "currency")
    names = known["currency"].unique().sort().to_list()
    if len(names) < 2:
        return []
    rows = int(known["rows"].sum())
    usual = known.group_by("currency").agg(pl.col("rows").sum()).sort("rows")["rows"][-1]
    by_platform = known.group_by("platform", maintain_order=True).agg("currency").rows()
    return [
        Suspicion(
            "several currencies",
            None,
            rows - int(usual),
            rows,
            f"Prices are in {', '.join(names)}, and are compared as if they were in one currency.",
            "Convert them with a [currencies] table in the mapping (base and rates), and give"
            " prices in the base currency in requests and events too.",
            tuple(f"{platform}: {', '.join(used)}" for platform, used in by_platform[:_EXAMPLES]),
        )
    ]


def _numbers(evidence: Evidence) -> list[Suspicion]:
    """Prices and quantities of a platform that were mostly written in some other way."""
    rows_of = dict(counted(evidence.events, "platform").iter_rows())
    total = sum((Counter(one) for one in evidence.repaired.values()), Counter[str]())
    return [
        Suspicion(
            f"many {what} repaired",
            name,
            n,
            rows_of[code],
            f"{n:,} {what} of {name} are no numbers, or impossible ones, and were {done}.",
            'Check which column the mapping reads, and how it writes numbers (decimal = "," where'
            " 1.234,50 is meant).",
            evidence.examples[reason] if n == total[reason] else (),
        )
        for code, name in enumerate(evidence.platforms)
        for reason, what, done in (
            (BAD_PRICE, "prices", "removed"),
            (BAD_QUANTITY, "quantities", "set to 1"),
        )
        if (n := evidence.repaired[name].get(reason, 0)) >= _REPAIRED_SHARE * rows_of[code]
        and n >= _ENOUGH_REPAIRS
    ]


def _midnight(evidence: Evidence) -> list[Suspicion]:
    """Dates without a time of day: one time of the day in UTC, or two where clocks change."""
    at = pl.col("time").dt.epoch("s") % _DAY_S
    counts = counted(evidence.events, "platform", at.alias("at"))
    tops = counts.group_by("platform").agg(
        pl.col("len").top_k(2).sum().alias("top"), pl.col("len").sum().alias("rows")
    )
    return [
        Suspicion(
            "times without a time of day",
            evidence.platforms[code],
            top,
            rows,
            f"{top / rows:.0%} of the events of {evidence.platforms[code]} happened at the same"
            " time of the day, so their order within a day is unknown.",
            "Export the time of day too, if the platform keeps it.",
        )
        for code, top, rows in tops.sort("platform").iter_rows()
        if rows >= _ENOUGH_EVENTS and top >= MIDNIGHT_SHARE * rows
    ]


def _busy_accounts(evidence: Evidence) -> list[Suspicion]:
    counts = counted(evidence.events, "platform", "account")
    tops = counts.group_by("platform").agg(
        pl.col("len").max().alias("top"),
        pl.col("len").sum().alias("rows"),
        pl.len().alias("accounts"),
    )
    return [
        Suspicion(
            "one account does very much",
            evidence.platforms[code],
            top,
            rows,
            f"One of the {accounts:,} accounts of {evidence.platforms[code]} has {top / rows:.0%}"
            " of its events: a robot, a test, or the account of everybody without one.",
            "Find it in the source by counting rows by user, and leave it out with a [[drop]] rule"
            " if it is no shopper.",
        )
        for code, top, rows, accounts in tops.sort("platform").iter_rows()
        if rows >= _ENOUGH_FOR_A_BOT
        and accounts > 1
        and top >= BUSY_SHARE * rows
        and top >= BUSY_OVER_MEAN * rows / accounts
    ]


def _near_duplicates(evidence: Evidence) -> list[Suspicion]:
    parts = max(1, -(-len(evidence.events) // PART_ROWS))
    # One number in place of three: sorting by it takes a fraction of the time.
    key = (
        pl.col("account").cast(pl.UInt64) * len(evidence.items) + pl.col("item").cast(pl.UInt64)
    ) * len(EventKind) + pl.col("kind").to_physical()
    found = []
    for part in range(parts):
        rows = evidence.events.lazy().filter(pl.col("account") % parts == part)
        # Events come in the order of time, which this sort keeps.
        ordered = rows.select("platform", "time", "item", "kind", key.alias("key")).sort(
            "key", maintain_order=True
        )
        same = pl.col("key") == pl.col("key").shift()
        near = (pl.col("time") - pl.col("time").shift()).dt.total_microseconds() <= NEAR_S * 1e6
        first = pl.struct("time", "item", pl.col("kind").cast(pl.String)).sort().head(_EXAMPLES)
        found.append(
            ordered.filter(same & near).group_by("platform").agg(pl.len(), first).collect()
        )
    counts = (
        pl.concat(found)
        .group_by("platform")
        .agg(
            pl.col("len").sum(), pl.col("time").list.explode(keep_nulls=False, empty_as_null=False)
        )
    )
    rows_of = dict(counted(evidence.events, "platform").iter_rows())
    return [
        Suspicion(
            "nearly the same event twice",
            evidence.platforms[code],
            n,
            rows_of[code],
            f"{n:,} events of {evidence.platforms[code]} repeat one of the same account, kind and"
            f" item within {NEAR_S} s under another id, or without one.",
            "Check whether the export writes events twice, or map an event_id that both share.",
            tuple(
                f"{one['kind']} of {evidence.items['item_id'][one['item']]} at {one['time']:%F %T}"
                for one in sorted(firsts, key=lambda one: tuple(one.values()))[:_EXAMPLES]
            ),
        )
        for code, n, firsts in counts.sort("platform").iter_rows()
        if n >= _NEAR_SHARE * rows_of[code]
    ]


def _many_titles(evidence: Evidence) -> list[Suspicion]:
    many = (
        evidence.items.with_row_index("item")
        .filter(pl.col("titles") >= MANY_TITLES)
        .sort("titles", "item", descending=[True, False])
    )
    found = []
    for (platform,), items in sorted(many.group_by("platform", maintain_order=True)):
        examples = []
        for item, item_id, titles in (
            items.head(_EXAMPLES).select("item", "item_id", "titles").iter_rows()
        ):
            texts = evidence.titles.filter(pl.col("item") == item)["text"].sort().head(3)
            examples.append(f"{item_id} ({titles} titles): {'; '.join(texts)}")
        found.append(
            Suspicion(
                "items with very many titles",
                str(platform),
                len(items),
                evidence.items.filter(pl.col("platform") == platform).height,
                f"{len(items):,} items of {platform} have {MANY_TITLES} titles or more, up to"
                f" {items['titles'][0]:,}: a code that was used again, or one for many things.",
                "Read the item id from a column that tells them apart, or drop the code.",
                tuple(examples),
            )
        )
    return found

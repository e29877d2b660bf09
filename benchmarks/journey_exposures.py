"""Households at several stores as exposures: what is bought, beside what could have been.

Stores stand in for platforms and households for people. Every line of a basket is a buy; beside
each item of a basket stand items that were about as popular at the store until then and that are
not in the basket.
"""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from shopcast_build.learning.timeline import Timeline
from shopcast_domain.features import Candidates, Codes, Floats, Ints

SAME_STORE, FUSED, PLACEBO = ARMS = ("same store", "fused", "placebo")
Popularity = Literal["everybody", "others"]
_ALIKE = 8
"""Accounts with about as many lines that trade places with each other."""


@dataclass(frozen=True, slots=True)
class Journey:
    """lines: household, store (codes), basket, time, item (code), price, quantity, account (the
    code of household and store, in their order); by time. items: one row per item code, columns
    title, brand, category, price."""

    lines: pl.DataFrame
    items: pl.DataFrame


def read_journey(transactions: Path, products: Path, item: str) -> Journey:
    """Read the two Parquet files of the source. item: the column of products that says what an item
    is. Lines of products without category or type are left out."""
    known = pl.read_parquet(products).drop_nulls(["product_category", "product_type"])
    bought = pl.read_parquet(transactions).join(known, on="product_id")
    lines = bought.sort("transaction_timestamp", "basket_id", "product_id").select(
        household=pl.col("household_id").rank("dense") - 1,
        store=pl.col("store_id").rank("dense") - 1,
        basket=pl.col("basket_id"),
        time=pl.col("transaction_timestamp").dt.replace_time_zone("UTC"),
        item=pl.col(item).rank("dense") - 1,
        price=pl.when(pl.col("quantity") > 0).then(pl.col("sales_value") / pl.col("quantity")),
        quantity=pl.col("quantity"),
    )
    lines = lines.with_columns(account=pl.struct("household", "store").rank("dense") - 1)
    about = bought.sort(item, "product_id").group_by(item, maintain_order=True).first()
    # Of a buy the price paid is known, of its rivals none: neither is told.
    price = pl.lit(None, pl.Float64)
    title, category = _DESCRIBED[item]
    kind = pl.col("product_type").rank("dense") - 1
    return Journey(
        lines,
        about.select(
            title=title, brand=pl.lit(None, pl.String), category=category, price=price, kind=kind
        ),
    )


_DESCRIBED = {
    "product_category": ("product_category", "department"),
    "product_type": ("product_type", "product_category"),
    "product_id": (
        pl.concat_str("product_type", pl.col("brand").cast(pl.String), separator=" "),
        "product_category",
    ),
}


def sample_exposures(
    lines: pl.DataFrame, items: int, *, rivals: int, seed: int, by: Popularity = "everybody"
) -> pl.DataFrame:
    """Each item of each basket, and `rivals` items beside it: columns person (account), platform,
    item, time, outcome (1: bought), price and quantity (unknown), basket.

    Rivals are those not in the basket whose number of lines at the store before is closest; among
    equals, whose number over all stores is; then chance decides. Each stands beside one item only.
    by: whose lines count, those of everybody or those of other households. Where a household is the
    store's best customer, items as popular with everybody are those that it bought as often itself.
    """
    rng = np.random.default_rng(seed)
    at_store = np.zeros((int(lines["store"].max()) + 1, items))  # type: ignore[arg-type]
    anywhere = np.zeros(items)
    own_at_store = np.zeros((int(lines["account"].max()) + 1, items))  # type: ignore[arg-type]
    own_anywhere = np.zeros((int(lines["household"].max()) + 1, items))  # type: ignore[arg-type]
    rows: list[tuple[int, int, int, object, int, str]] = []
    found = lines.select("time", "basket", "account", "store", "household", "item").rows()
    for time, moment in groupby(found, key=lambda line: line[0]):
        bought = list(moment)
        for (basket, account, store, home), some in groupby(bought, key=lambda line: line[1:5]):
            here, there = at_store[store], anywhere
            if by == "others":
                here, there = here - own_at_store[account], there - own_anywhere[home]
            free = np.ones(items, dtype=bool)
            chosen = list(dict.fromkeys(line[5] for line in some))
            free[chosen] = False
            for item in chosen:
                rows.append((account, store, item, time, 1, basket))
                away = np.abs(here - here[item]) * 1e6
                away += np.abs(there - there[item]) + rng.random(items)
                away[~free] = np.inf
                for _ in range(min(rivals, int(free.sum()))):
                    rival = int(away.argmin())
                    away[rival], free[rival] = np.inf, False
                    rows.append((account, store, rival, time, 0, basket))
        for _, _, account, store, home, item in bought:
            at_store[store, item] += 1
            anywhere[item] += 1
            own_at_store[account, item] += 1
            own_anywhere[home, item] += 1
    columns = {"person": pl.Int64, "platform": pl.Int64, "item": pl.Int64}
    schema = {**columns, "time": lines.schema["time"], "outcome": pl.Int64, "basket": pl.String}
    unknown = pl.lit(None, pl.Float64)
    return pl.DataFrame(rows, schema, orient="row").with_columns(price=unknown, quantity=unknown)


class ArmTimeline(Timeline):
    """The pasts of accounts as an arm has them; everybody's tallies are those of the market."""

    def __init__(self, events: pl.DataFrame, market: Timeline) -> None:
        super().__init__(events, market.catalogue)
        self._market = market

    def candidates(
        self,
        platform: int | Codes,
        item: Codes,
        price: Floats,
        quantity: Floats,
        at_s: float | Floats,
    ) -> Candidates:
        """As Timeline has it."""
        return self._market.candidates(platform, item, price, quantity, at_s)


def as_events(lines: pl.DataFrame, person: str) -> pl.DataFrame:
    """Lines as a timeline takes them: every one is a buy."""
    columns = (pl.col(person).alias("person"), pl.col("store").alias("platform"))
    return lines.select(*columns, "item", "time", pl.lit("buy").alias("kind"), "price", "quantity")


def arm_events(lines: pl.DataFrame, arm: str, *, seed: int) -> pl.DataFrame:
    """The past of every account, by time: its own lines and, unless the arm is `same store`, those
    of the household's other accounts, or of strangers in their places."""
    accounts = lines.group_by("account").agg(
        pl.first("household"), pl.first("store"), pl.len().alias("size")
    )
    accounts = accounts.sort("account")
    own = accounts.select("account", source="account", shown_store="store")
    told = [own]
    if arm != SAME_STORE:
        stands_for = np.arange(len(accounts)) if arm == FUSED else strangers(accounts, seed=seed)
        others = accounts.select(
            "household", other="account", shown_store="store", source=pl.Series(stands_for)
        )
        pairs = accounts.select("account", "household").join(others, on="household")
        pairs = pairs.filter(pl.col("account") != pl.col("other"))
        told.append(pairs.select("account", "source", "shown_store"))
    seen = pl.concat(told, how="vertical_relaxed").join(
        lines.drop("store"), left_on="source", right_on="account"
    )
    return as_events(
        seen.rename({"shown_store": "store"}).sort("time", "account", "item"), "account"
    )


def strangers(accounts: pl.DataFrame, *, seed: int) -> Ints:
    """For each account one of another household, with about as many lines: at the same store where
    one is to be had, else at any. accounts: household, store, size. Returns int64 (A,).

    Only accounts of households with several trade places, so strangers are as active as those they
    stand for.
    """
    rng = np.random.default_rng(seed)
    household, store, size = (accounts[c].to_numpy() for c in ("household", "store", "size"))
    several = np.bincount(household)[household] > 1
    stranger = np.arange(len(accounts))
    for there in np.unique(store):
        _trade(np.flatnonzero(several & (store == there)), size, stranger, rng)
    left = several & (household[stranger] == household)
    pool = np.flatnonzero(several)
    for account in np.flatnonzero(left):
        away = np.abs(size[pool] - size[account]) + rng.random(len(pool))
        away[household[pool] == household[account]] = np.inf
        stranger[account] = pool[away.argmin()]
    return stranger


def _trade(pool: Ints, size: Ints, stranger: Ints, rng: np.random.Generator) -> None:
    """Turn every block of accounts that are alike by a random number of places."""
    order = pool[np.lexsort((rng.random(len(pool)), size[pool]))]
    for block in np.array_split(order, max(1, len(order) // _ALIKE)):
        if len(block) > 1:
            stranger[block] = np.roll(block, int(rng.integers(1, len(block))))

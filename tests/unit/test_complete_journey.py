import importlib.util
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def journey() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "journey_exposures", BENCHMARKS / "journey_exposures.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def lines(rows: list[tuple[int, int, str, int, int]]) -> pl.DataFrame:
    """rows: household, store, basket, day, item."""
    columns = ["household", "store", "basket", "day", "item"]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return (
        pl.DataFrame(rows, columns, orient="row")
        .with_columns(
            time=pl.col("day").map_elements(
                lambda day: start + timedelta(days=day), pl.Datetime("us", "UTC")
            ),
            price=1.0,
            quantity=1.0,
            account=pl.struct("household", "store").rank("dense") - 1,
        )
        .sort("time", "basket")
    )


def test_a_rival_was_as_popular_at_the_store_and_is_not_in_the_basket(journey: ModuleType) -> None:
    # At store 0 items 0 and 1 were bought three times, items 2 and 3 once; at store 1 item 3 often.
    past = [(h, 0, f"p{h}{i}", h, i) for h in range(3) for i in (0, 1)]
    past += [(0, 0, "q", 3, 2), (1, 0, "r", 3, 3)]
    past += [(2, 1, f"s{n}", 3, 3) for n in range(9)]
    bought = [(0, 0, "basket", 9, 0), (0, 0, "basket", 9, 2)]
    later = [(1, 0, f"t{n}", 10, 4) for n in range(9)]
    made = journey.sample_exposures(lines(past + bought + later), 6, rivals=1, seed=0)
    basket = made.filter(pl.col("basket") == "basket")
    assert basket["item"].to_list() == [0, 1, 2, 3]
    assert basket["outcome"].to_list() == [1, 0, 1, 0]


def test_what_is_bought_at_the_same_moment_does_not_count_as_popularity(
    journey: ModuleType,
) -> None:
    before = [(0, 0, "a", 0, 0), (0, 0, "a", 0, 1)]
    rush = [(h, 0, f"m{h}", 5, 2) for h in range(1, 6)]
    rush.append((6, 0, "n", 5, 0))
    made = journey.sample_exposures(lines(before + rush), 4, rivals=1, seed=0)
    assert made.filter(pl.col("basket") == "n")["item"].to_list() == [0, 1]


def test_the_same_seed_draws_the_same_rivals(journey: ModuleType) -> None:
    some = lines([(0, 0, f"b{n}", n, n % 7) for n in range(60)])
    first, again, other = (journey.sample_exposures(some, 40, rivals=2, seed=s) for s in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_arms_share_own_lines_and_differ_in_the_others(journey: ModuleType) -> None:
    # Household h buys item h at store 0 and item 10 + h at store 1; household 4 knows one store.
    rows = [(h, s, f"{h}{s}", h, 10 * s + h) for h in range(4) for s in (0, 1)]
    some = lines([*rows, (4, 0, "40", 9, 4)])
    own, fused, placebo = (
        {
            (p, s): set(i)
            for p, s, i in journey.arm_events(some, arm, seed=0)
            .group_by("person", "platform")
            .agg("item")
            .rows()
        }
        for arm in journey.ARMS
    )
    account = {(h, s): a for h, s, a in some.select("household", "store", "account").rows()}
    for (household, store), code in account.items():
        mine = {10 * store + household}
        assert own[code, store] == fused[code, store] == placebo[code, store] == mine
        elsewhere = 1 - store
        assert (code, elsewhere) not in own
        if household < 4:
            theirs = 10 * elsewhere + household
            assert fused[code, elsewhere] == {theirs}
            assert len(placebo[code, elsewhere]) == 1
            assert theirs not in placebo[code, elsewhere]
        else:
            assert (code, elsewhere) not in fused.keys() | placebo.keys()


def test_a_stranger_is_another_household_with_about_as_many_lines(journey: ModuleType) -> None:
    accounts = pl.DataFrame(
        {
            "household": np.repeat(np.arange(40), 2),
            "store": np.tile([0, 1], 40),
            "size": np.repeat(np.arange(1, 41), 2),
        }
    )
    stranger = journey.strangers(accounts, seed=3)
    household, size = accounts["household"].to_numpy(), accounts["size"].to_numpy()
    assert (household[stranger] != household).all()
    assert np.abs(size[stranger] - size).max() < 8
    assert (accounts["store"].to_numpy()[stranger] == accounts["store"].to_numpy()).all()

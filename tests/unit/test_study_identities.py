"""Three arms over logs made by hand."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from shopcast_build.learning.catalogue import build_catalogue
from shopcast_build.learning.examples import Examples, build_examples
from shopcast_build.learning.timeline import KIND_NAMES, Timeline
from shopcast_build.study.identities import (
    ARMS,
    FUSED,
    PLACEBO,
    SINGLE,
    arm_examples,
    find_accounts,
    foreign_of,
    lay_out,
    overflow_share,
    strangers,
)
from shopcast_domain.features import FEATURES

START = datetime(2026, 1, 1, tzinfo=UTC)
ITEMS = 12
PEOPLE = 30


def log(seed: int = 0) -> pl.DataFrame:
    """30 people; the first 20 shop on both platforms, much more often than a window holds."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(PEOPLE):
        for n in range(int(rng.integers(6, 30))):
            platform = int(rng.integers(2)) if person < 20 else person % 2
            item = platform * ITEMS + int(rng.integers(ITEMS))
            moment = START + timedelta(hours=int(rng.integers(1, 2000)), seconds=n)
            rows.append((person, platform, item, moment, "view", 5.0, 1))
    return pl.DataFrame(
        sorted(rows, key=lambda row: row[3]),
        schema={
            "person": pl.Int64, "platform": pl.Int64, "item": pl.Int64,
            "time": pl.Datetime("us", "UTC"), "kind": pl.Enum(KIND_NAMES), "price": pl.Float64,
            "quantity": pl.Int64,
        },
        orient="row",
    )  # fmt: skip


def timeline_of(events: pl.DataFrame) -> Timeline:
    count = 2 * ITEMS
    items = pl.DataFrame(
        {
            "title": [f"thing {n}" for n in range(count)],
            "brand": ["north"] * count,
            "category": [f"group {n % 3}" for n in range(count)],
            "price": [5.0] * count,
        }
    )
    return Timeline(events, build_catalogue(items))


EVENTS = log()
TIMELINE = timeline_of(EVENTS)
ACCOUNTS = find_accounts(TIMELINE)
EXPOSURES = EVENTS.select("person", "platform", "item", "time", "price").with_columns(
    pl.lit(None, pl.Int64).alias("quantity"), pl.lit(0, pl.Int8).alias("outcome")
)


def pasts(arm: str, limit: int) -> list[tuple[int, set[tuple[float, int]], int]]:
    """Per exposure: its platform, what its window holds as (time, item), and events in it."""
    foreign = foreign_of(ACCOUNTS, arm, seed=3)
    laid, told = lay_out(TIMELINE, ACCOUNTS, foreign, EXPOSURES, limit)
    found = []
    at_s = told["time"].dt.epoch("us").to_numpy() / 1e6
    positions = laid.position(told["person"].to_numpy(), at_s)
    for (person, platform), position in zip(
        told.select("person", "platform").rows(), positions.tolist(), strict=True
    ):
        window = laid.window(person, position, limit, at_s.max())
        events = set(zip(window.time_s.tolist(), window.item.tolist(), strict=True))
        found.append((platform, events, len(window)))
    return found


def own(platform: int, events: set[tuple[float, int]]) -> set[tuple[float, int]]:
    return {(at, item) for at, item in events if item // ITEMS == platform}


@pytest.mark.parametrize("limit", [4, 10, 100])
def test_every_arm_sees_the_own_events_that_the_single_platform_arm_sees(limit: int) -> None:
    single = pasts(SINGLE, limit)
    for arm in (FUSED, PLACEBO):
        more = 0
        for (platform, alone, _), (_, both, size) in zip(single, pasts(arm, limit), strict=True):
            assert own(platform, both) == alone
            assert size <= limit
            more += len(both) - len(alone)
        assert more > 100  # there are foreign events, too
    assert any(size == limit for _, _, size in single) == (limit < 30)


def test_the_newest_foreign_events_take_the_room_that_is_left() -> None:
    for limit in (4, 10):
        for index, (platform, events, _) in enumerate(pasts(FUSED, limit)):
            person, at = EXPOSURES["person"][index], EXPOSURES["time"][index]
            past = EVENTS.filter(pl.col("person") == person, pl.col("time") < at)
            foreign = past.filter(pl.col("platform") != platform)["time"].dt.epoch("us").to_list()
            room = limit - len(own(platform, events))
            kept = sorted(time for time, item in events if item // ITEMS != platform)
            assert kept == [time / 1e6 for time in foreign[max(0, len(foreign) - room) :]]


def test_where_nothing_overflows_the_fused_arm_is_what_is_served() -> None:
    served = build_examples(TIMELINE, EXPOSURES, feature_events=100, history_events=100)
    _, fused = examples(FUSED, 100)
    for name in ("features", "outcome", "text", "platform", "at_s"):
        np.testing.assert_array_equal(getattr(fused, name), getattr(served, name))
    np.testing.assert_array_equal(fused.position - fused.first, served.position - served.first)


def examples(arm: str, limit: int) -> tuple[Timeline, Examples]:
    foreign = foreign_of(ACCOUNTS, arm, seed=3)
    return arm_examples(
        TIMELINE, ACCOUNTS, foreign, EXPOSURES, feature_events=limit, history_events=limit
    )


def test_the_arms_are_the_same_exposures_in_the_same_order() -> None:
    arms = {arm: examples(arm, 10)[1] for arm in ARMS}
    same = ("outcome", "text", "platform", "at_s")
    for arm in (SINGLE, PLACEBO):
        for name in same:
            np.testing.assert_array_equal(getattr(arms[arm], name), getattr(arms[FUSED], name))
    item_columns = [n for n, name in enumerate(FEATURES) if name.startswith("item_")]
    tallies = [arms[arm].features[:, item_columns] for arm in ARMS]
    np.testing.assert_array_equal(tallies[0], tallies[1])
    np.testing.assert_array_equal(tallies[0], tallies[2])


def test_people_of_one_platform_are_alike_in_every_arm() -> None:
    alone = EXPOSURES.sort("time", "person", "platform", "item")["person"].to_numpy() >= 20
    single, placebo = (examples(arm, 100)[1] for arm in (SINGLE, PLACEBO))
    np.testing.assert_array_equal(single.features[alone], placebo.features[alone])
    assert not np.array_equal(single.features[~alone], placebo.features[~alone])


def test_a_stranger_is_another_person_of_the_same_platform_with_about_as_many_events() -> None:
    stranger = strangers(ACCOUNTS, seed=3)
    several = np.flatnonzero(ACCOUNTS.several)
    assert (stranger[several] >= 0).all()
    assert (ACCOUNTS.person[stranger[several]] != ACCOUNTS.person[several]).all()
    np.testing.assert_array_equal(ACCOUNTS.platform[stranger[several]], ACCOUNTS.platform[several])
    events = np.diff(ACCOUNTS.start)
    gap = np.abs(events[stranger[several]] - events[several]).mean()
    rng = np.random.default_rng(0)
    assert gap < np.abs(events[rng.permutation(several)] - events[several]).mean()


def test_a_platform_with_one_person_on_several_has_another_stranger_or_none() -> None:
    two = EVENTS.filter((pl.col("person") == 0) | (pl.col("person") == 20))
    accounts = find_accounts(timeline_of(two.with_columns(pl.col("person").replace(20, 1))))
    stranger = strangers(accounts, seed=0)
    here = accounts.platform == 0  # where person 1 is, too
    assert set(accounts.person[stranger[here]]) == {0, 1}
    assert (stranger[~here] == -1).all()
    assert foreign_of(accounts, PLACEBO, seed=0)[int(np.flatnonzero(here)[0])] == []


def test_how_often_the_fused_arm_is_not_what_is_served() -> None:
    assert overflow_share(TIMELINE, ACCOUNTS, EXPOSURES, 100) == 0.0
    assert overflow_share(TIMELINE, ACCOUNTS, EXPOSURES, 0) > 0.9

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shopcast_build.data.errors import DataError
from shopcast_build.learning.exposures import (
    Split,
    check_enough,
    cut_exposures,
    part,
    split_by_time,
)
from shopcast_build.learning.preparation import part_frames
from shopcast_build.learning.settings import ExposureSettings
from shopcast_domain.events import Outcome

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 1.0
DAY = 24.0
SETTINGS = ExposureSettings(purchase_horizon_days=1.0, return_window_days=14.0)
VIEW, BUY, RETURN = Outcome


def log(*events: Sequence[Any]) -> pl.DataFrame:
    """events: (hours after START, kind, item, person), the last two 0 where left out."""
    rows = [(*event, 0, 0)[:4] for event in events]
    return pl.DataFrame(
        {
            "person": [person for *_, person in rows],
            "platform": [0] * len(rows),
            "item": [item for _, _, item, _ in rows],
            "time": [START + timedelta(hours=hours) for hours, *_ in rows],
            "kind": [kind for _, kind, *_ in rows],
            "price": [None if item == 9 else 5.0 for _, _, item, _ in rows],
            "quantity": [2] * len(rows),
        },
        schema_overrides={
            "time": pl.Datetime("us", "UTC"),
            "kind": pl.Enum(["view", "cart", "buy", "return"]),
            "price": pl.Float64,
            "person": pl.UInt32,
        },
    )


def cut(*events: Sequence[Any], browsed: bool = True) -> list[tuple[float, Outcome]]:
    """(hours after START, outcome) of the exposures of a log."""
    found = cut_exposures(log(*events), [0] if browsed else [], SETTINGS)
    hours = (found["time"] - START).dt.total_seconds() / 3600
    return [(h, Outcome(o)) for h, o in zip(hours, found["outcome"], strict=True)]


def test_a_view_without_a_buy_is_a_view() -> None:
    assert cut((0, "view")) == [(0, VIEW)]


def test_a_view_with_a_buy_inside_the_horizon_is_a_buy() -> None:
    assert cut((0, "view"), (DAY, "buy")) == [(0, BUY)]


def test_where_people_look_at_items_a_buy_is_an_outcome_and_never_an_exposure() -> None:
    assert cut((0, "view"), (DAY + 0.01, "buy"), (1, "buy", 2)) == [(0, VIEW)]


def test_where_people_are_asked_at_orders_views_and_carts_are_no_exposures() -> None:
    events = [(0, "view"), (1, "cart"), (2, "buy"), (3, "view", 2), (9, "buy", 1), (10, "return")]
    assert cut(*events, browsed=False) == [(2, RETURN), (9, BUY)]


def test_every_view_before_a_buy_led_to_it() -> None:
    assert cut((0, "view"), (2, "view"), (3, "buy"), (4, "view")) == [(0, BUY), (2, BUY), (4, VIEW)]


@pytest.mark.parametrize(("days", "outcome"), [(14, RETURN), (14.01, BUY)])
def test_a_return_counts_inside_its_window_after_the_buy(days: float, outcome: Outcome) -> None:
    assert cut((0, "view"), (HOUR, "buy"), (HOUR + days * DAY, "return")) == [(0, outcome)]


def test_a_return_of_an_earlier_buy_is_no_return_of_a_later_one() -> None:
    found = cut(
        (0, "view"), (1, "buy"), (5 * DAY, "return"), (6 * DAY, "view"), (6 * DAY + 1, "buy")
    )
    assert found == [(0, RETURN), (6 * DAY, BUY)]


def test_a_return_takes_back_one_buy_only() -> None:
    found = cut((0, "buy"), (2 * DAY, "buy"), (3 * DAY, "return"), browsed=False)
    assert found == [(0, BUY), (2 * DAY, RETURN)]


def test_a_cart_without_a_view_is_an_exposure_and_its_buy_is_not_another() -> None:
    assert cut((0, "cart"), (HOUR, "buy")) == [(0, BUY)]
    assert cut((0, "cart")) == [(0, VIEW)]
    assert cut((0, "view"), (1, "cart"), (2, "buy")) == [(0, BUY)]
    assert cut((0, "cart"), (DAY + 1, "buy")) == [(0, VIEW)]


def test_other_people_and_other_items_lead_to_nothing() -> None:
    found = cut((0, "view", 1, 0), (1, "buy", 2, 0), (2, "view", 1, 1), (3, "return", 2, 1))
    assert found == [(0, VIEW), (2, VIEW)]


def test_lines_of_one_moment_count_once() -> None:
    assert cut((0, "view"), (0, "view"), (1, "buy"), (1, "buy")) == [(0, BUY)]
    assert cut((0, "buy"), (0, "buy"), browsed=False) == [(0, BUY)]
    assert cut((0, "view"), (0, "buy")) == [(0, BUY)]


def test_a_log_without_views_gives_its_buys() -> None:
    found = cut((0, "buy"), (5, "buy", 1), (9, "return", 1), browsed=False)
    assert found == [(0, BUY), (5, RETURN)]


def test_a_log_of_nothing_but_returns_is_refused_in_one_sentence() -> None:
    empty = cut_exposures(log((1, "return")), [], SETTINGS)
    assert empty.is_empty()
    with pytest.raises(DataError, match="no views and no buys"):
        split_by_time(empty, START, SETTINGS)


def test_exposures_carry_what_was_met() -> None:
    found = cut_exposures(log((0, "view", 9, 3), (1, "cart", 4, 2)), [0], SETTINGS)
    assert found.columns == [
        *("person", "platform", "item", "time", "price"), "quantity", "outcome"
    ]  # fmt: skip
    assert found.rows() == [
        (3, 0, 9, START, None, None, VIEW),
        (2, 0, 4, START + timedelta(hours=1), 5.0, None, VIEW),
    ]


def test_what_was_paid_is_told_of_orders_only() -> None:
    events = log((0, "view", 1), (1, "buy", 1), (2, "buy", 2), (3, "cart", 3))
    priced = events.with_columns(pl.Series("price", [10.0, 9.0, 8.0, 7.0]))
    looked_at = cut_exposures(priced, [0], SETTINGS)
    assert dict(looked_at.select("item", "price").iter_rows()) == {1: 10.0, 3: 7.0}
    assert cut_exposures(priced, [], SETTINGS)["price"].to_list() == [9.0, 8.0]


def test_lines_of_orders_carry_their_pieces_but_only_where_nothing_is_viewed() -> None:
    orders = log((0, "buy", 9, 3), (0, "buy", 9, 3), (1, "buy", 4, 3), (9, "return", 4, 3))
    assert cut_exposures(orders, [], SETTINGS)["quantity"].to_list() == [4, 2]
    elsewhere = log((0, "cart", 1, 1)).with_columns(platform=pl.lit(1, pl.Int64))
    both = cut_exposures(pl.concat([orders, elsewhere]), [1], SETTINGS)
    assert both.sort("platform", "item")["quantity"].to_list() == [2, 4, None]


moments = st.tuples(
    st.integers(0, 60), st.sampled_from(["view", "cart", "buy", "return"]), st.integers(0, 1)
)


@given(st.lists(moments, min_size=1, max_size=12), st.booleans())
def test_outcomes_are_those_a_plain_reading_of_the_log_gives(
    events: list[Any], browsed: bool
) -> None:
    settings = ExposureSettings(purchase_horizon_days=10 / 24, return_window_days=20 / 24)
    horizon, window = 10, 20

    def times(kind: str, item: int, low: int, high: int) -> list[int]:
        return sorted(h for h, k, i in events if k == kind and i == item and low <= h <= high)

    expected: dict[tuple[int, int], Outcome] = {}
    for hour, kind, item in events:
        bought = times("buy", item, hour, hour + horizon)
        leaders: dict[str, list[str]] = {"view": [], "cart": ["view"]} if browsed else {"buy": []}
        if kind not in leaders or any(
            times(leader, item, hour - horizon, hour) for leader in leaders[kind]
        ):
            continue
        if not bought:
            expected[hour, item] = VIEW
        else:
            sent_back = {
                max(times("buy", item, back - window, back), default=-1)
                for back in times("return", item, bought[0], bought[0] + window)
            }
            expected[hour, item] = RETURN if bought[0] in sent_back else BUY
    found = cut_exposures(log(*events), [0] if browsed else [], settings)
    hours = ((found["time"] - START).dt.total_minutes() // 60).to_list()
    outcomes = map(Outcome, found["outcome"])
    assert dict(zip(zip(hours, found["item"], strict=True), outcomes, strict=True)) == expected
    assert found.height == len(expected)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.sampled_from(["view", "cart", "buy", "return"]),
            st.integers(0, 2),
            st.integers(0, 5),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 12),
    st.sampled_from([[], [0]]),
)
def test_exposures_are_the_same_in_chunks_of_any_size(
    events: list[Any], chunk: int, browsed: list[int]
) -> None:
    whole = cut_exposures(log(*events), browsed, SETTINGS)
    in_chunks = cut_exposures(log(*events), browsed, SETTINGS, chunk_events=chunk)
    assert in_chunks.equals(whole)


def exposures(days: float, *, outcomes: Sequence[Outcome] = (VIEW, BUY)) -> pl.DataFrame:
    """One exposure an hour over some days; outcomes in turn."""
    n = int(days * 24)
    return pl.DataFrame(
        {
            "time": [START + timedelta(hours=h) for h in range(n)],
            "outcome": [int(outcomes[h % len(outcomes)]) for h in range(n)],
        },
        schema={"time": pl.Datetime("us", "UTC"), "outcome": pl.Int8},
    )


@pytest.mark.parametrize(("outcomes", "gap_days"), [((VIEW, BUY), 15), ((BUY, RETURN), 14)])
def test_parts_are_in_the_order_of_time_one_outcome_window_apart(
    outcomes: Sequence[Outcome], gap_days: int
) -> None:
    all_ = exposures(180, outcomes=outcomes)
    end = all_["time"][-1]
    split = split_by_time(all_, end, SETTINGS)
    gap = timedelta(days=gap_days)
    assert split.gap == gap
    train, validation, test = (
        part(all_, span)["time"] for span in (split.train, split.validation, split.test)
    )
    assert train[0] == START
    assert train[-1] + gap <= validation[0]
    assert validation[-1] + gap <= test[0]
    assert test[-1] == end - gap  # its window closed as the log ended; the next hour's did not
    usable = end - gap - START
    assert (split.test[1] - split.test[0]) / usable == pytest.approx(0.15, rel=1e-3)
    assert (split.validation[1] - split.validation[0]) / usable == pytest.approx(0.10, rel=1e-3)


def test_parts_begin_where_they_are_told_to() -> None:
    all_ = exposures(180)
    validation, test = START + timedelta(days=100), START + timedelta(days=140)
    told = ExposureSettings(test_start=test, validation_start=validation)
    split = split_by_time(all_, all_["time"][-1], told)
    assert (split.validation[0], split.test[0]) == (validation, test)
    assert split.validation[1] == test - split.gap
    assert split.train[1] == validation - split.gap


@pytest.mark.parametrize("day", [10, 500])
def test_a_test_outside_of_the_log_is_refused(day: int) -> None:
    all_ = exposures(180)
    told = ExposureSettings(test_start=START + timedelta(days=day))
    with pytest.raises(DataError, match=r"change exposures\.validation_start") as refused:
        split_by_time(all_, all_["time"][-1], told)
    assert_one_sentence(refused.value)


def assert_one_sentence(error: Exception) -> None:
    text = str(error)
    assert "\n" not in text
    assert ". " not in text


@pytest.mark.parametrize("days", [1, 14, 30, 45])
def test_too_short_a_log_is_refused(days: float) -> None:
    all_ = exposures(days)
    with pytest.raises(DataError, match=r"15 days between.*--return-window-days") as refused:
        split_by_time(all_, all_["time"][-1], SETTINGS)
    assert f"{days - 1} days" in str(refused.value)
    assert_one_sentence(refused.value)


def test_shorter_windows_make_do_with_a_shorter_log() -> None:
    all_ = exposures(45)
    short = ExposureSettings(purchase_horizon_days=0.5, return_window_days=2)
    assert part(all_, split_by_time(all_, all_["time"][-1], short).train).height > 200


def test_a_part_with_too_few_exposures_is_refused() -> None:
    many, few = exposures(20), exposures(2)
    check_enough(many, many, many)
    with pytest.raises(DataError, match="48 exposures fall into the test period") as refused:
        check_enough(many, many, few)
    assert_one_sentence(refused.value)


@pytest.mark.parametrize("name", ["training", "validation", "test"])
def test_a_part_of_one_outcome_is_refused(name: str) -> None:
    many, only = exposures(20), exposures(20, outcomes=(BUY,))
    parts = [only if name == n else many for n in ("training", "validation", "test")]
    with pytest.raises(DataError, match=f"{name} period ended in 'buy'") as refused:
        check_enough(*parts)
    assert_one_sentence(refused.value)


@pytest.mark.parametrize(
    ("name", "setting", "returned"),
    [
        ("training", "max_training", (5, 70, 90)),
        ("all earlier", "max_training", (59, 66, 90)),
        ("validation", "max_judged", (5, 70, 90)),
    ],
)
def test_an_outcome_that_is_not_among_what_is_kept_is_told_of(
    name: str, setting: str, returned: Sequence[int]
) -> None:
    rows = range(6000)  # 60 a day, everybody comes once
    exposures = pl.DataFrame(
        {
            "person": rows,
            "platform": [0] * len(rows),
            "time": [START + timedelta(days=row / 60) for row in rows],
            "outcome": [RETURN if row in [60 * d for d in returned] else row % 2 for row in rows],
        },
        schema_overrides={"time": pl.Datetime("us", "UTC"), "outcome": pl.Int8},
    )
    days = [START + timedelta(days=day) for day in (0, 60, 65, 75, 80, 100)]
    split = Split((days[0], days[1]), (days[2], days[3]), (days[4], days[5]), timedelta(days=2))
    few = SETTINGS.model_copy(update={setting: 100})
    with pytest.raises(DataError, match=rf"{name} exposures exposures\.{setting} keeps") as refused:
        part_frames(exposures, split, few, [START + timedelta(days=103)])
    assert "none of them ended in 'return'" in str(refused.value)
    assert_one_sentence(refused.value)


def test_no_more_is_judged_than_memory_holds_and_people_stay_whole() -> None:
    count = 80_000
    exposures = pl.DataFrame(
        {
            "person": [n % 4_000 for n in range(count)],
            "platform": [0] * count,
            "time": [START + timedelta(minutes=5 * n) for n in range(count)],
            "outcome": [n % 3 for n in range(count)],
        },
        schema_overrides={"time": pl.Datetime("us", "UTC")},
    )
    few = ExposureSettings(max_judged=1_000, max_training=2_000)
    end = START + timedelta(minutes=5 * count)
    split = split_by_time(exposures, end, few)
    whole = part_frames(exposures, split, few.model_copy(update={"max_judged": count}), [end])
    frames, again = (part_frames(exposures, split, few, [end]) for _ in range(2))
    for name in ("validation", "test"):
        assert 0.6 * 1_000 < frames[name].height < 1.5 * 1_000 < whole[name].height
        assert frames[name].equals(again[name])
        kept = whole[name].filter(pl.col("person").is_in(frames[name]["person"].unique().implode()))
        assert frames[name].equals(kept)
    assert frames["training"].equals(whole["training"])
    assert frames["training"].height == 2_000


@pytest.mark.parametrize("days_early", [0, 20])
def test_what_became_of_an_exposure_is_known_only_before_its_platforms_log_ends(
    days_early: int,
) -> None:
    all_ = pl.concat([exposures(180), exposures(180)]).sort("time")
    all_ = all_.with_columns(
        person=pl.int_range(pl.len()) % 50, platform=pl.int_range(pl.len()) % 2
    )
    end = all_["time"][-1]
    split = split_by_time(all_, end, SETTINGS)
    ends = [end, end - timedelta(days=days_early)]
    frames = part_frames(all_, split, SETTINGS, ends)
    for platform, last in enumerate(ends):
        newest = frames["test"].filter(pl.col("platform") == platform)["time"].max()
        assert newest == min(last - split.gap, end - split.gap)
    assert frames["training"].equals(part(all_, split.train))
    assert frames["test"].height == part(all_, split.test).height - days_early * 24

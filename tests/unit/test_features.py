from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopcast_domain.events import EventKind
from shopcast_domain.features import (
    FEATURES,
    MISSING,
    NEVER_H,
    Candidates,
    Window,
    compute_features,
    history_numbers,
    micro_log,
)

HOUR = 3600.0
VIEW, CART, BUY, RETURN = EventKind
AT = 1_767_225_600.0  # Thursday 1 January 2026, midnight UTC


def window(*events: tuple[Any, ...]) -> Window:
    """events: (hours before AT, kind, platform, item, category, brand, price) and pieces, else 1;
    newest first."""
    rows = [(*event, 1.0)[:8] for event in events]
    hours, kind, platform, item, category, brand, price, pieces = (
        zip(*rows, strict=True) if rows else [()] * 8
    )
    codes = (np.array(c, dtype=np.int64) for c in (kind, platform, item, category, brand))
    return Window(
        AT - HOUR * np.array(hours, dtype=np.float64),
        *codes,
        np.array(price, dtype=np.float64),
        np.array(pieces, dtype=np.float64),
    )


def candidates(**fields: Any) -> Candidates:
    """One candidate, item 1 of category 1 and brand 1, met on platform 0; no tallies."""
    one: dict[str, Any] = {
        "platform": 0,
        "item": np.array([1]),
        "category": np.array([1]),
        "brand": np.array([1]),
        "price": np.array([20.0]),
        "quantity": np.array([np.nan]),
        "item_habit": np.zeros((1, 3), dtype=np.int64),
        "item_tally": np.zeros((1, 4)),
        "category_tally": np.zeros((1, 4)),
        "platform_tally": np.zeros(4),
    }
    return Candidates(**(one | fields))


def features(seen: Window, met: Candidates | None = None, at_s: float = AT) -> dict[str, float]:
    """The features of the first candidate, by name."""
    row = compute_features(at_s, seen, met or candidates())[0]
    return dict(zip(FEATURES, row.tolist(), strict=True))


def only(window: Window, keep: Any) -> Window:
    return Window(*(getattr(window, name)[keep] for name in Window.__slots__))


STORY = window(
    (1, VIEW, 0, 1, 1, 1, 20.0),
    (3, VIEW, 1, 7, 1, 2, 40.0),
    (10, RETURN, 0, 5, 2, 1, 8.0),
    (24, BUY, 0, 5, 2, 1, 8.0),
    (30, CART, 1, 7, 1, 2, 40.0),
    (100, BUY, 1, 8, MISSING, MISSING, float("nan")),
)


def test_counts_and_ages_of_a_known_shopper() -> None:
    found = features(STORY)
    expected_counts = {
        "person_views": 2, "person_carts": 1, "person_buys": 2, "person_returns": 1,
        "person_here_views": 1, "person_here_carts": 0, "person_here_buys": 1,
        "person_here_returns": 1,
        "pair_views": 1, "pair_carts": 0, "pair_buys": 0, "pair_returns": 0,
        "person_category_views": 2, "person_category_carts": 1, "person_category_buys": 0,
        "person_category_returns": 0,
        "person_brand_views": 1, "person_brand_buys": 1, "person_brand_returns": 1,
    }  # fmt: skip
    for name, count in expected_counts.items():
        assert found[name] == pytest.approx(np.log1p(count)), name
    expected_hours = {
        "person_event_age": 1, "person_buy_age": 24, "person_here_event_age": 1, "pair_age": 1,
        "person_category_age": 1,
    }  # fmt: skip
    for name, hours in expected_hours.items():
        assert found[name] == pytest.approx(np.log1p(hours)), name
    assert found["person_platforms"] == 2


def test_rates_shrink_towards_the_next_wider_group() -> None:
    met = candidates(
        platform_tally=np.array([90.0, 5, 10, 4]),
        category_tally=np.array([[40.0, 0, 8, 2]]),
        item_tally=np.array([[10.0, 0, 3, 1]]),
    )
    found = features(STORY, met)
    platform_buy, platform_return = (10 + 10 * 0.1) / (90 + 10), (4 + 10 * 0.05) / (10 + 10)
    category_buy = (8 + 10 * platform_buy) / (40 + 10)
    category_return = (2 + 10 * platform_return) / (8 + 10)
    expected = {
        "platform_buy_rate": platform_buy,
        "platform_return_rate": platform_return,
        "category_buy_rate": category_buy,
        "category_return_rate": category_return,
        "item_buy_rate": (3 + 10 * category_buy) / (10 + 10),
        "item_return_rate": (1 + 10 * category_return) / (3 + 10),
        "person_buy_rate": (2 + 10 * platform_buy) / (2 + 10),
        "person_return_rate": (1 + 10 * platform_return) / (2 + 10),
        "item_views": np.log1p(10),
        "item_returns": np.log1p(1),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name


def test_a_platform_that_records_no_views_still_has_a_buy_rate_of_at_most_one() -> None:
    met = candidates(item_tally=np.array([[0.0, 0, 500, 900]]))
    found = features(window(), met)
    assert 0.9 < found["item_buy_rate"] <= 1
    assert 0.9 < found["item_return_rate"] <= 1


def test_prices_are_compared_with_what_was_bought_and_viewed() -> None:
    found = features(STORY)
    assert found["price"] == pytest.approx(np.log1p(20))
    assert found["price_against_bought"] == pytest.approx(np.log1p(20) - np.log1p(8))
    seen = (np.log1p(20) + np.log1p(40)) / 2
    assert found["price_against_viewed"] == pytest.approx(np.log1p(20) - seen)
    unknown = features(STORY, candidates(price=np.array([np.nan])))
    assert [unknown[f"price{end}"] for end in ("", "_against_bought", "_against_viewed")] == [0] * 3


@pytest.mark.parametrize(
    ("at_s", "hour", "weekday"),
    [(AT, 0, 3), (AT + 6 * HOUR, 6, 3.25), (AT + 4 * 86_400 + 18 * HOUR, 18, 7.75)],
)
def test_the_clock_is_that_of_utc(at_s: float, hour: float, weekday: float) -> None:
    found = features(window(), at_s=at_s)
    day, week = 2 * np.pi * hour / 24, 2 * np.pi * (weekday + 1) / 7  # Sunday is the first day
    assert found["hour_sin"] == pytest.approx(np.sin(day), abs=1e-6)
    assert found["hour_cos"] == pytest.approx(np.cos(day), abs=1e-6)
    assert found["weekday_sin"] == pytest.approx(np.sin(week), abs=1e-6)
    assert found["weekday_cos"] == pytest.approx(np.cos(week), abs=1e-6)


def test_a_stranger_has_no_counts_and_met_nothing_ever() -> None:
    found = features(window())
    about_person = {k: v for k, v in found.items() if k.startswith(("person_", "pair_"))}
    ages = {k for k in about_person if k.endswith("age")}
    rates = {"person_buy_rate": 0.1, "person_return_rate": 0.05}
    for name, value in about_person.items():
        expected = np.log1p(NEVER_H) if name in ages else rates.get(name, 0.0)
        assert value == pytest.approx(expected), name


def test_what_is_missing_matches_nothing_not_even_what_is_missing_too() -> None:
    nameless = candidates(
        item=np.array([MISSING]), category=np.array([MISSING]), brand=np.array([MISSING])
    )
    found = features(window((1, BUY, 0, MISSING, MISSING, MISSING, 9.0)), nameless)
    for name, value in found.items():
        if name.startswith(("pair_", "person_category_", "person_brand_")):
            assert value == pytest.approx(np.log1p(NEVER_H) if name.endswith("age") else 0), name


def test_each_candidate_is_described_as_if_it_were_alone() -> None:
    met = candidates(
        item=np.array([1, 5, MISSING]),
        category=np.array([1, 2, 9]),
        brand=np.array([1, 1, MISSING]),
        price=np.array([20.0, np.nan, 3.0]),
        quantity=np.full(3, np.nan),
        item_habit=np.arange(9).reshape(3, 3) * 10**6,
        item_tally=np.arange(12.0).reshape(3, 4),
        category_tally=np.arange(12.0).reshape(3, 4)[::-1],
    )
    together = compute_features(AT, STORY, met)
    for n in range(3):
        alone = replace(
            met,
            **{
                name: getattr(met, name)[n : n + 1]
                for name in Candidates.__slots__
                if not name.startswith("platform")
            },
        )
        np.testing.assert_array_equal(compute_features(AT, STORY, alone)[0], together[n])


def test_leaving_a_platform_out_gives_the_features_of_a_person_without_it() -> None:
    never_there = window(
        (1, VIEW, 0, 1, 1, 1, 20.0),
        (10, RETURN, 0, 5, 2, 1, 8.0),
        (24, BUY, 0, 5, 2, 1, 8.0),
    )
    without = features(only(STORY, STORY.platform != 1))
    assert without == features(never_there)
    changed = {name for name, value in features(STORY).items() if value != without[name]}
    assert changed == {
        "person_views", "person_carts", "person_buys", "person_buy_rate", "person_return_rate",
        "person_platforms", "person_category_views", "person_category_carts",
        "price_against_viewed",
    }  # fmt: skip


codes = st.integers(MISSING, 3)
prices = st.one_of(st.just(float("nan")), st.floats(0, 1e12))
pieces = st.integers(1, 10**6).map(float)
events = st.tuples(
    st.floats(0, 24 * 3650), st.sampled_from(EventKind), codes, codes, codes, codes, prices, pieces
)
tallies = st.lists(st.integers(0, 10**9), min_size=4, max_size=4)


@st.composite
def markets(draw: st.DrawFn) -> Candidates:
    n = draw(st.integers(1, 4))

    def array(of: st.SearchStrategy[Any], dtype: type) -> Any:
        return np.array(draw(st.lists(of, min_size=n, max_size=n)), dtype=dtype)

    return Candidates(
        platform=draw(codes),
        item=array(codes, np.int64),
        category=array(codes, np.int64),
        brand=array(codes, np.int64),
        price=array(prices, np.float64),
        quantity=array(draw(st.sampled_from([pieces, st.just(np.nan)])), np.float64),
        item_tally=array(tallies, np.float64),
        item_habit=array(st.lists(st.integers(0, 10**12), min_size=3, max_size=3), np.int64),
        category_tally=array(tallies, np.float64),
        platform_tally=np.array(draw(tallies), dtype=np.float64),
    )


@given(st.lists(events, max_size=12), markets())
def test_features_are_finite_whatever_the_window(seen: list[Any], met: Candidates) -> None:
    past = window(*sorted(seen, key=lambda event: event[0]))
    found = compute_features(AT, past, met)
    assert found.shape == (len(met), len(FEATURES))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


@given(st.lists(events, max_size=8), markets(), st.permutations(range(4)))
def test_any_coding_of_identities_will_do(
    seen: list[Any], met: Candidates, names: list[int]
) -> None:
    past = window(*sorted(seen, key=lambda event: event[0]))
    renamed = np.array([*(10 * n + 5 for n in names), MISSING])  # MISSING is the last entry
    expected = compute_features(AT, past, met)
    identities = ("platform", "item", "category", "brand")
    past = replace(past, **{name: renamed[getattr(past, name)] for name in identities})
    met = replace(met, **{name: renamed[getattr(met, name)] for name in identities})
    np.testing.assert_array_equal(compute_features(AT, past, met), expected)


def test_quantity_and_value_are_set_against_habits() -> None:
    past = window((5, BUY, 0, 1, 1, 1, 10.0, 3.0), (9, BUY, 0, 2, 1, 1, 10.0, 1.0))
    habit = micro_log(np.array([[20.0, 20.0, 7.0]])) * [[0, 2, 2]] + [[2, 0, 0]]
    bought_twice = np.array([[0, 0, 2, 0]], dtype=np.float64)
    met = candidates(quantity=np.array([5.0]), item_tally=bought_twice, item_habit=habit)
    found = features(past, met)
    six = np.log(6)
    assert found["quantity"] == pytest.approx(six)
    assert found["value"] == pytest.approx(np.log1p(5 * 20))
    assert found["quantity_against_item"] == pytest.approx(six - np.log(8), abs=1e-6)
    assert found["quantity_against_bought"] == pytest.approx(six - (np.log(4) + np.log(2)) / 2)
    assert found["quantity_against_pair"] == pytest.approx(six - np.log(4))
    assert found["price_against_item"] == pytest.approx(0.0, abs=1e-6)


def test_an_order_is_a_basket_of_its_candidates() -> None:
    two = {name: np.array([1, 2]) for name in ("item", "category", "brand")}
    met = candidates(
        **two,
        price=np.array([20.0, 5.0]),
        quantity=np.array([1.0, 4.0]),
        item_tally=np.zeros((2, 4)),
        item_habit=np.zeros((2, 3), dtype=np.int64),
        category_tally=np.zeros((2, 4)),
    )
    found = features(window((1, CART, 0, 9, 9, 9, 99.0)), met)
    assert found["basket_lines"] == pytest.approx(np.log(3))
    assert found["basket_quantity"] == pytest.approx(np.log(6))
    assert found["basket_value"] == pytest.approx(np.log(41))
    assert found["value_in_basket"] == pytest.approx(np.log(21) - np.log(41))
    assert found["price_in_basket"] == pytest.approx((np.log(21) - np.log(6)) / 2)
    assert found["quantity_in_basket"] == pytest.approx((np.log(2) - np.log(5)) / 2)


def test_without_an_order_the_basket_is_the_open_cart_here() -> None:
    past = window(
        (1, CART, 0, 3, 1, 1, 10.0, 2.0),
        (2, CART, 1, 4, 1, 1, 70.0),  # another platform's
        (3, BUY, 0, 5, 1, 1, 10.0),
        (4, CART, 0, 5, 1, 1, 10.0),  # bought since
    )
    found = features(past)
    assert found["basket_lines"] == pytest.approx(np.log(2))
    assert found["basket_value"] == pytest.approx(np.log(21))
    assert found["quantity"] == found["quantity_in_basket"] == 0.0
    stale = features(window((25, CART, 0, 3, 1, 1, 10.0)))
    assert stale["basket_lines"] == stale["basket_value"] == 0.0


def test_history_numbers_are_age_here_and_price() -> None:
    found = history_numbers(
        np.array([0.0, 7200.0, -5.0]), np.array([True, False, True]), np.array([9.0, np.nan, 0.0])
    )
    expected = [[0, 1, np.log(10)], [np.log(3), 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32

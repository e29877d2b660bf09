"""A log as arrays, and the promise that nothing from after an exposure reaches it."""

from datetime import UTC, datetime, timedelta
from mmap import mmap
from random import Random
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.catalogue import build_catalogue
from shopcast_build.learning.examples import Examples, build_examples
from shopcast_build.learning.tally import lower_bound
from shopcast_build.learning.timeline import Timeline
from shopcast_domain.events import EventKind
from shopcast_domain.features import FEATURES, MISSING, compute_features, micro_log
from shopcast_domain.item_text import item_text

START = datetime(2026, 1, 1, tzinfo=UTC)
START_S = START.timestamp()
PLATFORM_OF = [0, 0, 0, 1, 1, 1]
ITEMS = pl.DataFrame(
    {
        "title": ["red shoe", "blue hat", None, "lamp", "red shoe", None],
        "brand": ["North", None, "north ", None, "North", None],
        "category": ["shoes", "Hats", "shoes", None, "SHOES", None],
        "price": [20.0, 5.0, None, 40.0, 20.0, None],
    }
)
CATALOGUE = build_catalogue(ITEMS)

Row = tuple[int, int, int, EventKind, float | None]
"""Person, item, minutes after START, kind, price."""


def frame(rows: list[Row]) -> pl.DataFrame:
    rows = sorted(rows, key=lambda row: row[2])
    return pl.DataFrame(
        {
            "person": [row[0] for row in rows],
            "platform": [PLATFORM_OF[row[1]] for row in rows],
            "item": [row[1] for row in rows],
            "time": [START + timedelta(minutes=row[2]) for row in rows],
            "kind": [row[3].name.lower() for row in rows],
            "price": [row[4] for row in rows],
            "quantity": [1 + row[1] for row in rows],
        },
        schema={
            "person": pl.Int64,
            "platform": pl.Int64,
            "item": pl.UInt32,
            "time": pl.Datetime("us", "UTC"),
            "kind": pl.Enum(["view", "cart", "buy", "return"]),
            "price": pl.Float64,
            "quantity": pl.Int64,
        },
    )


def met_in(rows: list[Row]) -> pl.DataFrame:
    """Rows as exposures of people who only look."""
    looking = pl.lit(None, pl.Int64).alias("quantity")
    return frame(rows).drop("kind").with_columns(looking, outcome=pl.lit(0, pl.Int8))


def at(minutes: float) -> float:
    return START_S + 60 * minutes


LOG: list[Row] = [
    (0, 0, 10, EventKind.VIEW, 18.0),
    (1, 0, 15, EventKind.VIEW, None),
    (0, 0, 20, EventKind.BUY, None),
    (0, 3, 20, EventKind.CART, 39.0),
    (0, 5, 30, EventKind.RETURN, None),
    (1, 4, 30, EventKind.BUY, 21.0),
]


def test_texts_are_kept_once_and_the_first_is_empty() -> None:
    assert CATALOGUE.texts[0] == ""
    assert len(set(CATALOGUE.texts)) == len(CATALOGUE.texts)
    texts = [CATALOGUE.texts[code] for code in CATALOGUE.text]
    assert texts == [item_text(*row) for row in ITEMS.rows()]
    assert CATALOGUE.text[0] != CATALOGUE.text[4]  # they differ in case only, but BERT may care


def test_names_are_one_code_on_every_platform_and_none_is_missing() -> None:
    shoes, hats, same, none, other_case, _ = CATALOGUE.category
    assert shoes == same == other_case != hats
    assert none == MISSING
    assert CATALOGUE.brand[0] == CATALOGUE.brand[2] == CATALOGUE.brand[4]
    assert CATALOGUE.brand[1] == MISSING


def test_the_window_is_the_newest_events_strictly_before_newest_first() -> None:
    timeline = Timeline(frame(LOG), CATALOGUE)
    (position,) = timeline.position(np.array([0]), np.array([at(30)]))
    window = timeline.window(0, int(position), 2, at(30))
    np.testing.assert_array_equal(window.time_s, [at(20), at(20)])
    assert set(window.kind) == {EventKind.BUY, EventKind.CART}
    window = timeline.window(0, int(position), 9, at(30))
    np.testing.assert_array_equal(window.time_s, [at(20), at(20), at(10)])
    np.testing.assert_array_equal(window.item[-1:], [0])
    np.testing.assert_array_equal(window.price[-1:], [18.0])


def test_nobody_sees_another_persons_events() -> None:
    timeline = Timeline(frame(LOG), CATALOGUE)
    (position,) = timeline.position(np.array([1]), np.array([at(15)]))
    assert len(timeline.window(1, int(position), 9, at(15))) == 0


def test_prices_left_out_are_the_items_or_unknown() -> None:
    timeline = Timeline(frame(LOG), CATALOGUE)
    (position,) = timeline.position(np.array([0]), np.array([at(31)]))
    window = timeline.window(0, int(position), 9, at(31))
    price = dict(zip(window.kind.tolist(), window.price.tolist(), strict=True))
    assert price[EventKind.BUY] == 20.0
    assert price[EventKind.VIEW] == 18.0
    assert np.isnan(price[EventKind.RETURN])


def test_tallies_count_everybody_strictly_before() -> None:
    timeline = Timeline(frame(LOG), CATALOGUE)
    price, looking = np.array([np.nan, 7.0, np.nan]), np.full(3, np.nan)
    met = timeline.candidates(0, np.array([0, 2, 3]), price, looking, at(30))
    np.testing.assert_array_equal(met.item_tally, [[2, 0, 1, 0], [0] * 4, [0, 1, 0, 0]])
    np.testing.assert_array_equal(met.category_tally, [[2, 0, 1, 0], [2, 0, 1, 0], [0] * 4])
    np.testing.assert_array_equal(met.platform_tally, [2, 0, 1, 0])
    np.testing.assert_array_equal(met.price, [20.0, 7.0, 40.0])
    later = timeline.candidates(1, np.array([4]), looking[:1], looking[:1], at(31))
    np.testing.assert_array_equal(later.category_tally, [[2, 0, 2, 0]])
    np.testing.assert_array_equal(later.platform_tally, [0, 1, 1, 1])


rows = st.tuples(
    st.integers(0, 2),
    st.integers(0, len(PLATFORM_OF) - 1),
    st.integers(0, 40),
    st.sampled_from(EventKind),
    st.sampled_from([None, 3.0, 17.5]),
)


@settings(deadline=None)
@given(st.lists(rows, min_size=1, max_size=30), st.integers(0, 41))
def test_tallies_are_plain_counts(log: list[Row], minute: int) -> None:
    unknown = np.full(len(PLATFORM_OF), np.nan)
    met = Timeline(frame(log), CATALOGUE).candidates(
        0, np.arange(len(PLATFORM_OF)), unknown, unknown, at(minute)
    )
    for item in range(len(PLATFORM_OF)):
        for kind in EventKind:
            past = [row[1] for row in log if row[2] < minute and row[3] == kind]
            assert met.item_tally[item, kind] == past.count(item)
            assert met.platform_tally[kind] == sum(PLATFORM_OF[i] == 0 for i in past)
            code = CATALOGUE.category[item]
            alike = sum(CATALOGUE.category[i] == code for i in past) if code != MISSING else 0
            assert met.category_tally[item, kind] == alike
        own = [row for row in log if row[2] < minute and row[1] == item]
        prices = np.array([row[4] for row in own if row[4] is not None], dtype=np.float64)
        bought = sum(row[3] == EventKind.BUY for row in own)
        pieces = int(micro_log(np.array([1.0 + item]))[0])
        expected = [len(prices), micro_log(prices).sum(), bought * pieces]
        np.testing.assert_array_equal(met.item_habit[item], expected)


def exposure_of(log: list[Row], feature_events: int) -> tuple[Timeline, Examples]:
    """The log's first row as an exposure, in a timeline of the whole log."""
    timeline = Timeline(frame(log), CATALOGUE)
    met = met_in(log[:1])
    return timeline, build_examples(
        timeline, met, feature_events=feature_events, history_events=feature_events
    )


def assert_same_window(one: Any, other: Any) -> None:
    for name in one.__slots__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@settings(max_examples=150, deadline=None)
@given(
    exposure=rows,
    log=st.lists(rows, max_size=20),
    future=st.lists(rows, min_size=1, max_size=10),
    feature_events=st.integers(1, 6),
)
def test_nothing_that_happens_at_or_after_an_exposure_changes_what_is_known_of_it(
    exposure: Row, log: list[Row], future: list[Row], feature_events: int
) -> None:
    """Item attributes are held fixed: the build takes them from the whole log."""
    moment = exposure[2]
    later = [(row[0], row[1], moment + row[2], row[3], row[4]) for row in future]
    timeline, before = exposure_of([exposure, *log], feature_events)
    longer, after = exposure_of([exposure, *log, *later], feature_events)

    np.testing.assert_array_equal(after.features, before.features)
    assert np.isfinite(before.features).all()
    assert_same_window(
        longer.window(exposure[0], int(after.position[0]), feature_events, at(moment)),
        timeline.window(exposure[0], int(before.position[0]), feature_events, at(moment)),
    )
    item = np.arange(len(PLATFORM_OF))
    unknown = np.full(len(item), np.nan)
    arguments = (before.platform[0], item, unknown, unknown, float(before.at_s[0]))
    assert_same_window(longer.candidates(*arguments), timeline.candidates(*arguments))
    history = ExposureBatches(before, timeline, feature_events).collate([0])
    longer_history = ExposureBatches(after, longer, feature_events).collate([0])
    for name, tensor in history.items():
        np.testing.assert_array_equal(longer_history[name].numpy(), tensor.numpy(), err_msg=name)


@settings(deadline=None)
@given(exposure=rows, log=st.lists(rows, max_size=20))
def test_an_event_before_an_exposure_does_change_what_is_known_of_it(
    exposure: Row, log: list[Row]
) -> None:
    exposure = (*exposure[:2], exposure[2] + 1, *exposure[3:])
    earlier = (*exposure[:2], exposure[2] - 1, *exposure[3:])
    _, before = exposure_of([exposure, *log], 100)
    _, after = exposure_of([exposure, *log, earlier], 100)
    changed = np.flatnonzero(before.features[0] != after.features[0])
    assert {f"person_{exposure[3].name.lower()}s", f"item_{exposure[3].name.lower()}s"} <= {
        FEATURES[column] for column in changed
    }


def test_examples_come_in_order_with_the_candidates_of_one_moment_side_by_side() -> None:
    log = [*LOG, (0, 1, 30, EventKind.VIEW, None), (0, 2, 30, EventKind.VIEW, 9.0)]
    timeline = Timeline(frame(log), CATALOGUE)
    met = met_in([row for row in log if row[3] in (EventKind.VIEW, EventKind.BUY)])
    met = met.with_columns(outcome=pl.Series([n % 3 for n in range(met.height)], dtype=pl.Int8))
    steps: list[tuple[int, int]] = []
    together = build_examples(
        timeline, met, feature_events=8, history_events=2,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps[-1] == (met.height, met.height)
    assert (np.diff(together.at_s) >= 0).all()
    assert (together.position - together.first).max() == 2
    for n in range(met.height):
        alone = build_examples(timeline, met[n : n + 1], feature_events=8, history_events=2)
        (row,) = np.flatnonzero(
            (together.at_s == alone.at_s[0])
            & (together.person == alone.person[0])
            & (together.text == alone.text[0])
        )
        for name in Examples.__slots__:
            np.testing.assert_array_equal(
                getattr(together, name)[row], getattr(alone, name)[0], err_msg=name
            )


@settings(deadline=None)
@given(st.lists(rows, min_size=2, max_size=30), st.integers(1, 6), st.booleans())
def test_an_exposure_is_described_as_if_it_were_alone(
    log: list[Row], feature_events: int, are_orders: bool
) -> None:
    """Whatever batch and padding it comes into: each against its own window, not padded."""
    timeline = Timeline(frame(log), CATALOGUE)
    met = met_in(log).unique(["person", "item", "time"], maintain_order=True)
    if are_orders:
        met = met.with_columns(quantity=pl.col("item") + 1)
    together = build_examples(
        timeline, met, feature_events=feature_events, history_events=feature_events
    )
    order = ["time", "person", "platform"]
    features = []
    for group in met.sort(*order, "item").partition_by(order, maintain_order=True):
        person, platform = group["person"][0], group["platform"][0]
        at_s = group["time"][0].timestamp()
        (position,) = timeline.position(np.array([person]), np.array([at_s]))
        candidates = timeline.candidates(
            platform,
            group["item"].to_numpy(),
            group["price"].fill_null(np.nan).to_numpy(),
            group["quantity"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
            at_s,
        )
        window = timeline.window(person, int(position), feature_events, at_s)
        assert window.kind.min(initial=EventKind.RETURN) >= EventKind.VIEW
        features.append(compute_features(at_s, window, candidates))
    np.testing.assert_array_equal(together.features, np.concatenate(features))


@settings(deadline=None)
@given(st.lists(rows, min_size=1, max_size=30), st.randoms())
def test_the_order_of_a_log_within_a_moment_does_not_matter_while_windows_are_whole(
    log: list[Row], random: Random
) -> None:
    shuffled = random.sample(log, len(log))
    met = met_in(log).unique(["person", "item", "time"], maintain_order=True)
    one, other = (
        build_examples(Timeline(frame(rows), CATALOGUE), met, feature_events=99, history_events=99)
        for rows in (log, shuffled)
    )
    np.testing.assert_array_equal(one.features, other.features)


@settings(max_examples=100, deadline=None)
@given(
    log=st.lists(rows, min_size=1, max_size=25),
    moment=st.integers(0, 41),
    future=st.lists(rows, min_size=1, max_size=10),
    history=st.integers(1, 6),
)
def test_no_batch_of_exposures_changes_with_what_comes_at_or_after_the_last(
    log: list[Row], moment: int, future: list[Row], history: int
) -> None:
    early = [row for row in log if row[2] <= moment] or [(0, 0, moment, EventKind.VIEW, None)]
    later = [(row[0], row[1], moment + row[2], row[3], row[4]) for row in future]
    batches = []
    for rows in (early, [*early, *later]):
        timeline = Timeline(frame(rows), CATALOGUE)
        examples = build_examples(
            timeline, met_in(early), feature_events=history, history_events=history
        )
        batches.append(ExposureBatches(examples, timeline, history).collate(range(len(early))))
    for name, tensor in batches[0].items():
        np.testing.assert_array_equal(batches[1][name].numpy(), tensor.numpy(), err_msg=name)


def owner(array: Any) -> Any:
    """What holds an array's memory, None for the array itself."""
    return owner(array.base) if isinstance(array.base, np.ndarray) else array.base


def test_a_timeline_in_files_is_the_same_as_one_in_memory() -> None:
    in_files = Timeline(frame(LOG), CATALOGUE)
    in_memory = Timeline(frame(LOG), CATALOGUE, keep=lambda array: array)
    assert isinstance(owner(in_files.price), mmap)
    assert owner(in_memory.price) is None
    one, other = (
        build_examples(timeline, met_in(LOG), feature_events=8, history_events=8)
        for timeline in (in_memory, in_files)
    )
    for name in Examples.__slots__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=30), st.integers(-1, 10))
def test_a_bound_is_looked_for_within_its_own_part(pairs: list[Any], wanted: int) -> None:
    parts = [sorted(value for part, value in pairs if part == n) for n in range(4)]
    start = np.cumsum([0, *map(len, parts)])
    found = lower_bound(
        np.array([value for part in parts for value in part], dtype=np.int64),
        start[:-1], start[1:], np.full(4, wanted),
    )  # fmt: skip
    below = [sum(value < wanted for value in part) for part in parts]
    np.testing.assert_array_equal(found, start[:-1] + below)

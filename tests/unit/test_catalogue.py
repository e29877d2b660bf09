"""An item is described by what was known of it at the moment, whatever the log says later."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from shopcast_build.data.cleaning import clean
from shopcast_build.data.log import CleanLog
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.people import resolve_people
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.catalogue import Catalogue
from shopcast_build.learning.examples import Examples, build_examples
from shopcast_build.learning.preparation import make_timeline
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.timeline import Timeline
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.writer import simulate
from shopcast_domain.events import EventKind, Outcome
from shopcast_domain.features import FEATURES, MISSING

START = datetime(2024, 3, 1, tzinfo=UTC)
LAMP = {"title": "red lamp", "brand": "north", "category": "lamps", "price": 9.0}
TEXT = "red lamp | north | lamps | price 8 to 16"


def read(folder: Path, rows: list[dict[str, Any]]) -> CleanLog:
    """rows: day, kind, and what else is not usual."""
    usual = {"platform": "shop", "platform_user_id": "u", "item_id": "i"}
    described = [dict.fromkeys(LAMP) | usual | row for row in rows]
    frame = pl.DataFrame(described, infer_schema_length=None)
    day = pl.duration(microseconds=(pl.col("day") * 86_400_000_000).cast(pl.Int64))
    frame = frame.with_columns(time=pl.lit(START) + day).drop("day")
    frame.write_parquet(folder / "log.parquet")
    return clean([folder / "log.parquet"], Mapping())


def examples_of(log: CleanLog) -> tuple[Timeline, Examples]:
    people = resolve_people(log.accounts, None)
    timeline, exposures, _ = make_timeline(log, people, BuildSettings())
    return timeline, build_examples(timeline, exposures, feature_events=64, history_events=8)


def day_s(day: float) -> float:
    return (START + timedelta(days=day)).timestamp()


def test_what_only_a_purchase_tells_is_known_after_it(tmp_path: Path) -> None:
    rows = [{"day": day, "kind": "view"} for day in (0, 1, 3)]
    log = read(tmp_path, [*rows, {"day": 1.5, "kind": "buy"} | LAMP])
    timeline, examples = examples_of(log)
    texts = [timeline.catalogue.texts[code] for code in examples.text]
    assert texts == ["", "", TEXT]
    price = examples.features[:, FEATURES.index("price")]
    np.testing.assert_allclose(price, [0, 0, np.log1p(9.0)], rtol=1e-6)
    views = examples.features[:, FEATURES.index("person_category_views")]
    np.testing.assert_allclose(views, [0, 0, np.log1p(2)], rtol=1e-6)
    # Histories are described by what is known when they are read, as the directory has it.
    batch = ExposureBatches(examples, timeline, 8).collate([1, 2])
    told = [[timeline.catalogue.texts[code] for code in row] for row in batch["history_text"]]
    assert told == [["", "", ""], [TEXT, TEXT, TEXT]]


def test_what_a_view_tells_is_known_as_it_happens(tmp_path: Path) -> None:
    rows = [{"day": 0, "kind": "view"}, {"day": 1, "kind": "view"} | LAMP]
    timeline, examples = examples_of(read(tmp_path, [*rows, {"day": 1.1, "kind": "buy"}]))
    assert [timeline.catalogue.texts[code] for code in examples.text] == ["", TEXT]


def test_a_purchase_in_the_moment_of_a_view_tells_nothing_of_it(tmp_path: Path) -> None:
    rows = [{"day": 0, "kind": "view"}, {"day": 0, "kind": "buy"} | LAMP]
    timeline, examples = examples_of(read(tmp_path, [*rows, {"day": 1, "kind": "view"}]))
    assert [timeline.catalogue.texts[code] for code in examples.text] == ["", TEXT]


def test_where_people_are_asked_at_orders_the_order_tells(tmp_path: Path) -> None:
    rows = [{"day": 0, "kind": "view"}, {"day": 5, "kind": "buy"} | LAMP]
    timeline, examples = examples_of(read(tmp_path, rows))
    assert [timeline.catalogue.texts[code] for code in examples.text] == [TEXT]


def test_every_attribute_has_a_moment_of_its_own(tmp_path: Path) -> None:
    rows = [
        {"day": 0, "kind": "view", "category": "lamps"},
        {"day": 1, "kind": "buy", "category": "lamps", "price": 9.0},
        {"day": 2, "kind": "view", "title": "red lamp"},
        {"day": 3, "kind": "view", "category": "lamps"},
    ]
    timeline, examples = examples_of(read(tmp_path, rows))
    assert [timeline.catalogue.texts[code] for code in examples.text] == [
        "lamps", "red lamp | lamps | price 8 to 16", "red lamp | lamps | price 8 to 16"
    ]  # fmt: skip


def test_a_category_counts_an_item_from_when_it_is_known_to_be_in_it(tmp_path: Path) -> None:
    other = {"day": 0, "kind": "view", "item_id": "other"} | LAMP
    rows = [other, *({"day": day, "kind": "view"} for day in (1, 2)), {"day": 2, "kind": "buy"}]
    timeline, _ = examples_of(read(tmp_path, [*rows[:3], rows[3] | LAMP, other | {"day": 9}]))
    unknown = np.full(2, np.nan)
    for day, views in ((2, 1), (2.1, 3)):
        met = timeline.candidates(0, np.array([0, 1]), unknown, unknown, day_s(day))
        assert met.category_tally[1, EventKind.VIEW] == views
        assert (met.category[0] == MISSING) == (day == 2)


@pytest.mark.parametrize("told", [("title",), ("price",), tuple(LAMP)])
def test_that_purchases_alone_describe_items_does_not_tell_purchases(
    tmp_path: Path, told: tuple[str, ...]
) -> None:
    """Outcomes are tosses of a coin; views tell a brand, purchases tell more."""
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for _ in range(4_000):
        row = {"platform_user_id": f"u{rng.integers(400)}", "item_id": f"i{rng.integers(1_500)}"}
        row["brand"] = "north" if "brand" not in told else None
        day = float(rng.uniform(0, 120))
        rows.append(row | {"day": day, "kind": "view"})
        if rng.random() < 0.15:
            lamp = {name: LAMP[name] for name in told}
            rows.append(row | lamp | {"day": day + float(rng.uniform(0, 0.5)), "kind": "buy"})
    log = read(tmp_path, rows)
    timeline, examples = examples_of(log)
    bought = examples.outcome != Outcome.VIEW
    full = max(range(len(timeline.catalogue.texts)), key=lambda n: len(timeline.catalogue.texts[n]))
    for known in (examples.text == full, examples.features[:, FEATURES.index("price")] > 0):
        assert roc_auc_score(bought, known) == pytest.approx(0.5, abs=0.04)
    names = {one.name for one in log.report.suspicious}
    assert {f"events without a {name}" for name in told} <= names


def known_later(catalogue: Catalogue) -> Catalogue:
    """One that asks when everything became known, of which everything always was."""
    count = len(catalogue.text)
    stages = np.repeat(catalogue.text[:, None], 5, axis=1)
    return replace(catalogue, known_s=np.full((4, count), -np.inf), stages=stages)


@pytest.mark.parametrize("orders_only", [False, True])
def test_where_every_event_describes_its_item_nothing_changes_to_the_last_bit(
    tmp_path: Path, orders_only: bool
) -> None:
    settings = MarketSettings(people=60, items_per_platform=50, days=60, events_per_person=30)
    events = simulate(settings, tmp_path / "market").events
    if orders_only:
        for path in events.glob("*.csv"):
            rows = pl.read_csv(path, infer_schema=False)
            rows.filter(pl.col("kind").is_in(["buy", "return"])).write_csv(path)
    log = clean([events], Mapping())
    assert len(log.browsed) == (0 if orders_only else 3)
    people = resolve_people(log.accounts, None)
    timeline, exposures, _ = make_timeline(log, people, BuildSettings())
    assert timeline.catalogue.known_s is None
    coded = log.events.with_columns(
        pl.Series("person", people.person).gather(log.events["account"])
    )
    slower = Timeline(coded, known_later(timeline.catalogue))
    one, other = (
        build_examples(each, exposures, feature_events=64, history_events=8)
        for each in (timeline, slower)
    )
    for name in Examples.__slots__:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
    batches = (
        ExposureBatches(one, each, 8).collate(range(len(one))) for each in (timeline, slower)
    )
    first, second = batches
    for name, tensor in first.items():
        assert tensor.numpy().tobytes() == second[name].numpy().tobytes(), name

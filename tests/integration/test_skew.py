"""Training and serving compute the same features from the same past, bit for bit.

One simulated log goes both ways: through the build's timeline, which holds all of it, and into a
directory that is told only what happened before the exposure. Held equal, because the two sides
rightly differ in it: the exposure's own price (training knows what was paid, a request says it),
and the items' attributes (one description per item in the whole log, against the newest).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shopcast_build.data.cleaning import clean
from shopcast_build.data.log import CleanLog
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.people import People, read_links, resolve_people
from shopcast_build.learning.batches import ExposureBatches
from shopcast_build.learning.catalogue import build_catalogue
from shopcast_build.learning.examples import build_examples
from shopcast_build.learning.exposures import cut_exposures
from shopcast_build.learning.settings import ExposureSettings
from shopcast_build.learning.timeline import Timeline
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.writer import simulate
from shopcast_cli.commands.directory import _events, _import
from shopcast_domain.events import Account, Item
from shopcast_domain.features import FEATURES, compute_features, history_numbers
from shopcast_gateway.directory.open import open_directory
from shopcast_gateway.directory.types import Reading

MARKET = MarketSettings(
    people=150, items_per_platform=60, days=90, events_per_person=40, missing_links=0.1
)
EXPOSURES = 120
ATTRIBUTES = ("title", "brand", "category", "price")
UNTOLD = [
    pl.when(~pl.col("kind").cast(pl.String).is_in(["view", "cart"])).then(name).alias(name)
    for name in ATTRIBUTES
]


@dataclass(frozen=True)
class Log:
    """A clean log, the people behind it, and, beside each event, its person and item code."""

    clean: CleanLog
    people: People
    coded: pl.DataFrame
    timeline: Timeline


@pytest.fixture(scope="module", params=["every event", "purchases alone"])
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A market whose items are described by every event, or by purchases and returns alone."""
    market = simulate(MARKET, tmp_path_factory.mktemp("market") / "logs")
    if request.param == "purchases alone":
        for path in market.events.glob("*.csv"):
            pl.read_csv(path, infer_schema=False).with_columns(UNTOLD).write_csv(path)
    cleaned = clean([market.events], Mapping(), keep_ids=True)
    people = resolve_people(cleaned.accounts, read_links(market.links))
    named = cleaned.named().select("event_id", "user", "item_id", platform_name="platform")
    person = pl.Series("person", people.person).gather(cleaned.events["account"])
    coded = pl.concat([cleaned.events.with_columns(person), named], how="horizontal")
    return Log(cleaned, people, coded, Timeline(coded, build_catalogue(cleaned.items)))


@dataclass(frozen=True)
class Met:
    """A row of the exposures with what a request for it would say."""

    row: pl.DataFrame
    account: Account
    item: Item
    at_s: float


def exposures(log: Log) -> list[Met]:
    """Exposures of the log's last third, spread evenly and in the order of time."""
    settings = ExposureSettings()
    cut = cut_exposures(log.coded, log.clean.browsed, settings)
    late = cut.filter(pl.col("time") > cut["time"].quantile(0.66))
    chosen = late[np.linspace(0, late.height - 1, EXPOSURES).astype(int).tolist()]
    users = log.coded.unique(["person", "item", "time"], keep="first", maintain_order=True)
    found = []
    for n in range(chosen.height):
        row = chosen[n : n + 1]
        event = row.join(users, on=["person", "item", "time"]).row(0, named=True)
        found.append(
            Met(
                row,
                Account(event["platform_name"], event["user"]),
                Item(event["item_id"], price=event["price"]),
                event["time"].timestamp(),
            )
        )
    return found


async def readings(log: Log, path: Path, limit: int) -> list[tuple[Met, Reading]]:
    """Each exposure as the directory sees it when it knows all that happened before, no more."""
    before = replace(log.clean, events=log.clean.events.clear())
    # Links and no events yet, as `platform directory import` brings them in.
    await _import(path, None, before, log.people.pairs, None, lambda done, total: None)
    directory = await open_directory(path)
    found, told = [], 0
    try:
        for met in exposures(log):
            known = int(np.searchsorted(times(log), met.at_s))
            await directory.record(list(_events(as_it_came(log, told, known - told))))
            told = known
            reading = await directory.read(met.account, (met.item,), before_s=met.at_s, limit=limit)
            found.append((met, reading))
    finally:
        await directory.close()
    return found


def as_it_came(log: Log, start: int, length: int) -> pl.DataFrame:
    """Events with what they told of their items themselves."""
    events = log.clean.named(start, length)
    return events if log.timeline.catalogue.known_s is None else events.with_columns(UNTOLD)


def times(log: Log) -> np.ndarray:
    return log.clean.events["time"].dt.epoch("us").to_numpy() / 1e6


def is_cut_within_a_moment(log: Log, met: Met, limit: int) -> bool:
    """Whether the window ends between events of one time, whose order the log does not tell."""
    person = met.row["person"].cast(pl.Int64).to_numpy()
    (position,) = log.timeline.position(person, np.array([met.at_s]))
    longer = log.timeline.window(int(person[0]), int(position), limit + 1, met.at_s)
    return len(longer) > limit and longer.time_s[-1] == longer.time_s[-2]


def test_the_log_describes_every_item_in_one_way(log: Log) -> None:
    """What the comparison below needs in order to speak of features alone."""
    described = (
        as_it_came(log, 0, len(log.coded))
        .drop_nulls("price")
        .select("platform", "item_id", "title", "brand", "category", "price")
        .unique()
    )
    assert described.height == log.clean.items["price"].count()


@pytest.mark.parametrize("limit", [256, 9])
async def test_served_features_are_those_the_model_was_trained_on(
    log: Log, tmp_path: Path, limit: int
) -> None:
    compared = known = several = cut = 0
    for met, reading in await readings(log, tmp_path / "directory.db", limit):
        if is_cut_within_a_moment(log, met, limit):
            continue
        trained = build_examples(log.timeline, met.row, feature_events=limit, history_events=limit)
        served = compute_features(met.at_s, reading.window, reading.candidates)
        different = {
            name: (a, b)
            for name, a, b in zip(FEATURES, served[0], trained.features[0], strict=True)
            if a.tobytes() != b.tobytes()
        }
        assert different == {}
        compared += 1
        known += len(reading.window) > 0
        several += len(set(reading.window_platforms)) > 1
        cut += len(reading.window) == limit
    # The comparison is of shoppers with a past, on several platforms, and of windows cut short.
    assert compared > 0.9 * EXPOSURES
    assert known > 0.8 * EXPOSURES
    assert several > 0.3 * EXPOSURES
    assert (cut > 0.3 * EXPOSURES) == (limit == 9)


async def test_served_histories_are_those_the_model_was_trained_on(
    log: Log, tmp_path: Path
) -> None:
    limit = 32
    batches = 0
    for met, reading in await readings(log, tmp_path / "directory.db", limit):
        if is_cut_within_a_moment(log, met, limit) or not len(reading.window):
            continue
        trained = build_examples(log.timeline, met.row, feature_events=1, history_events=limit)
        batch = ExposureBatches(trained, log.timeline, limit).collate([0])
        window = reading.window
        numbers = history_numbers(
            met.at_s - window.time_s, window.platform == reading.candidates.platform, window.price
        )
        texts = log.timeline.catalogue.texts
        served = sorted(
            zip(map(bytes, numbers), window.kind.tolist(), reading.window_texts, strict=True)
        )
        expected = sorted(
            zip(
                map(bytes, batch["history_numbers"][0].numpy()),
                batch["history_kind"][0].tolist(),
                (texts[code] for code in batch["history_text"][0]),
                strict=True,
            )
        )
        assert served == expected  # in any order: the model has none for events of one time
        assert reading.candidate_texts == (texts[trained.text[0]],)
        batches += 1
    assert batches > 0.8 * EXPOSURES

"""Exposures: people meeting items, what became of it, and their part of the split."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import polars as pl

from shopcast_build.data.errors import DataError
from shopcast_build.data.leads import unled
from shopcast_build.data.spilling import spilled_frame
from shopcast_build.learning.settings import ExposureSettings
from shopcast_domain.events import Outcome

_PAIR = ["person", "item"]
_CHUNK_EVENTS = 4_000_000


@dataclass(frozen=True, slots=True)
class Split:
    """Half-open spans of exposure times. Between the parts lies one outcome window (`gap`), so that
    every label of a part was known before the next part began."""

    train: tuple[datetime, datetime]
    validation: tuple[datetime, datetime]
    test: tuple[datetime, datetime]
    gap: timedelta


def cut_exposures(
    events: pl.DataFrame,
    browsed: Sequence[int],
    settings: ExposureSettings,
    *,
    chunk_events: int = _CHUNK_EVENTS,
) -> pl.DataFrame:
    """One row per exposure with its outcome.

    events: columns person, platform, item (integer codes), time (Datetime us UTC), kind, price,
    quantity. browsed: the platforms where people are asked about as they look at items.
    chunk_events: people are taken together up to about so many events, and exposures sorted; what
    bounds the memory, not what comes out.
    On a browsed platform an exposure is a view, or a cart that no view of the same person and item
    precedes within the purchase horizon; its quantity is null. Elsewhere an exposure is the line of
    an order.
    Its outcome looks forward only: the first buy within the horizon, and a return within the return
    window after that buy. A return takes back one buy, the latest before it.
    Returns person, platform, item, time, price, quantity, outcome (Int8, Outcome values), by time.
    Lines of one person, item and moment count once.
    """
    there = pl.Series("browsed", browsed, events.schema["platform"])
    columns = ("person", "platform", "item", "time", "kind", "price", "quantity")
    parts = (
        _cut(events.lazy().filter(chunk).select(columns).collect(), there, settings)
        for chunk in _chunks(events["person"], chunk_events)
    )
    return _by_time(spilled_frame(parts), events["time"].gather_every(chunk_events))


def _by_time(exposures: pl.DataFrame, times: pl.Series) -> pl.DataFrame:
    """Exposures by time, person and item. times: those between which they are sorted at once."""
    edges = times.unique().sort()[1:].to_list()
    begun = [pl.lit(True), *(pl.col("time") >= edge for edge in edges)]
    over = [*(pl.col("time") >= edge for edge in edges), pl.lit(False)]
    parts = (
        exposures.lazy().filter(first, ~past).sort("time", "person", "item").collect()
        for first, past in zip(begun, over, strict=True)
    )
    return spilled_frame(parts)


def _chunks(person: pl.Series, chunk_events: int) -> list[pl.Expr]:
    """Conditions that share out the people, each on about so many events."""
    total = np.bincount(person.to_numpy()).cumsum() if len(person) else np.zeros(1, dtype=int)
    marks = np.arange(chunk_events, total[-1], chunk_events)
    ends = np.unique(np.append(np.searchsorted(total, marks), len(total) - 1)).tolist()
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [pl.col("person").is_between(*span) for span in zip(starts, ends, strict=True)]


def _cut(events: pl.DataFrame, browsed: pl.Series, settings: ExposureSettings) -> pl.DataFrame:
    """The exposures of some people."""
    is_order = ~pl.col("platform").is_in(browsed.implode())
    moments = events.sort("time", maintain_order=True)
    views = _of(moments, "view").filter(~is_order)
    carts = _of(moments, "cart").filter(~is_order)
    horizon = settings.purchase_horizon
    buys = _of(moments, "buy").select(*_PAIR, "time", pl.col("time").alias("bought_at"))
    met = pl.concat([views, unled(carts, views, _PAIR, horizon)]).sort("time", maintain_order=True)
    met = _asof(met, buys, "forward", horizon)
    ordered = _of(moments, "buy").filter(is_order).with_columns(bought_at="time")
    returned = (
        _asof(_of(moments, "return"), buys, "backward", settings.return_window)
        .select(*_PAIR, "bought_at", pl.lit(True).alias("returned"))
        .drop_nulls()
        .unique()
    )
    moment = ["person", "item", "time"]
    outcome = (
        pl.when(pl.col("bought_at").is_null())
        .then(pl.lit(Outcome.VIEW, pl.Int8))
        .when(pl.col("returned").is_null())
        .then(pl.lit(Outcome.BUY, pl.Int8))
        .otherwise(pl.lit(Outcome.RETURN, pl.Int8))
    )
    return (
        pl.concat([met, ordered])
        .join(returned, on=[*_PAIR, "bought_at"], how="left", maintain_order="left")
        .select(
            *("person", "platform", "item", "time", "price"),
            pl.when(is_order).then(pl.col("quantity").sum().over(moment)).alias("quantity"),
            outcome.alias("outcome"),
        )
        .unique(moment, keep="first", maintain_order=True)
    )


def _of(moments: pl.DataFrame, kind: str) -> pl.DataFrame:
    return moments.filter(pl.col("kind") == kind).drop("kind")


def _asof(
    frame: pl.DataFrame,
    other: pl.DataFrame,
    strategy: Literal["backward", "forward"],
    tolerance: timedelta,
) -> pl.DataFrame:
    """Beside each row, the nearest of `other` of the same person and item in one direction."""
    return frame.join_asof(
        other,
        on="time",
        by=_PAIR,
        strategy=strategy,
        tolerance=tolerance,
        check_sortedness=False,
    )


def split_by_time(exposures: pl.DataFrame, log_end: datetime, settings: ExposureSettings) -> Split:
    """Train, validation and test in the order of time, one outcome window apart.

    Exposures whose outcome window was still open at `log_end` belong to no part; of platforms whose
    log ends earlier, part_frames leaves out more.
    Raises DataError when the log is too short.
    """
    if exposures.is_empty():
        raise DataError(
            "the log has no views and no buys, so there is nothing to learn from: give events of"
            " these kinds, or map them with --mapping"
        )
    gap = settings.return_window
    if (exposures["outcome"] == Outcome.VIEW).any():
        gap += settings.purchase_horizon
    start: datetime = exposures["time"].min()  # type: ignore[assignment]
    end = log_end - gap
    usable = end - start
    test_start = settings.test_start or end - usable * settings.test_share
    validation_end = test_start - gap
    validation_start = settings.validation_start
    if validation_start is None:
        validation_start = validation_end - usable * settings.validation_share
    chosen = settings.test_start or settings.validation_start
    if chosen and not start < validation_start < validation_end < test_start < end:
        raise DataError(
            f"validation from {validation_start:%Y-%m-%d} to {validation_end:%Y-%m-%d} and a test"
            f" from {test_start:%Y-%m-%d} do not fit into the log's exposures of known outcome,"
            f" {start:%Y-%m-%d} to {end:%Y-%m-%d}: change exposures.validation_start and"
            " exposures.test_start, shorten the windows, or give a longer log"
        )
    train_end = validation_start - gap
    if train_end - start < timedelta(0) or (train_end - start) < usable * 0.1:
        raise DataError(
            f"the log spans {(log_end - start).days} days, too few for training, validation and"
            f" test with {gap.total_seconds() / 86400:g} days between them: give a longer log, or"
            " shorter windows with --purchase-horizon-days and --return-window-days"
        )
    past_end = end + timedelta(microseconds=1)
    return Split(
        train=(start, train_end),
        validation=(validation_start, validation_end),
        test=(test_start, past_end),
        gap=gap,
    )


def part(exposures: pl.DataFrame, span: tuple[datetime, datetime]) -> pl.DataFrame:
    """The exposures within a half-open span of time; nothing is copied. exposures: by time."""
    first, past = (exposures["time"].search_sorted(edge) for edge in span)
    return exposures[first:past]


def check_enough(train: pl.DataFrame, validation: pl.DataFrame, test: pl.DataFrame) -> None:
    """Raise DataError when a part is too small, or its outcomes are not those of the training."""
    for name, frame, least in (
        ("training", train, 200),
        ("validation", validation, 50),
        ("test", test, 50),
    ):
        if frame.height < least:
            raise DataError(
                f"{frame.height} exposures fall into the {name} period, at least {least} are"
                " needed: give more events"
            )
        found = {Outcome(value).name.lower() for value in frame["outcome"].unique()}
        if len(found) < 2:
            raise DataError(
                f"every exposure of the {name} period ended in '{found.pop()}', there is nothing to"
                " tell apart: give events of more kinds, or a longer log"
            )
        trained = {Outcome(value).name.lower() for value in train["outcome"].unique()}
        if found != trained:
            raise DataError(
                f"the {name} period has other outcomes ({', '.join(sorted(found))}) than the"
                f" training period ({', '.join(sorted(trained))}): give a log in which every kind"
                " of event goes on throughout"
            )

"""Exposures: people meeting items, what became of it, and their part of the split."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from shopcast_build.data.errors import DataError
from shopcast_build.learning.settings import BuildSettings
from shopcast_domain.events import Outcome

_PAIR = ["person", "item"]


@dataclass(frozen=True, slots=True)
class Split:
    """Half-open spans of exposure times. Between the parts lies one outcome window (`gap`), so that
    every label of a part was known before the next part began."""

    train: tuple[datetime, datetime]
    validation: tuple[datetime, datetime]
    test: tuple[datetime, datetime]
    gap: timedelta


def cut_exposures(events: pl.DataFrame, settings: BuildSettings) -> pl.DataFrame:
    """One row per exposure with its outcome.

    events: columns person, platform, item (integer codes), time (Datetime us UTC), kind, price.
    An exposure is a view, or a buy that no view or cart of the same person and item precedes within
    the purchase horizon. Its outcome looks forward only: the first buy within the horizon, and a
    return within the return window after that buy.
    Returns person, platform, item, time, price, outcome (Int8, Outcome values), by time;
    lines of one person, item and moment count once.
    """
    moments = events.select("person", "platform", "item", "time", "kind", "price").sort("time")
    buys = moments.filter(pl.col("kind") == "buy")
    meetings = moments.filter(pl.col("kind").is_in(["view", "cart"]))
    returns = moments.filter(pl.col("kind") == "return").select(
        *_PAIR, "time", pl.col("time").alias("returned_at")
    )
    led_by_buy = buys.join_asof(
        meetings.select(*_PAIR, "time", pl.col("time").alias("met_at")),
        on="time",
        by=_PAIR,
        strategy="backward",
        tolerance=settings.purchase_horizon,
        check_sortedness=False,
    ).filter(pl.col("met_at").is_null())
    views = moments.filter(pl.col("kind") == "view").join_asof(
        buys.select(*_PAIR, "time", pl.col("time").alias("bought_at")),
        on="time",
        by=_PAIR,
        strategy="forward",
        tolerance=settings.purchase_horizon,
        check_sortedness=False,
    )
    columns = ["person", "platform", "item", "time", "price", "bought_at"]
    exposures = pl.concat(
        [
            views.select(columns),
            led_by_buy.with_columns(pl.col("time").alias("bought_at")).select(columns),
        ]
    ).with_columns(pl.col("bought_at").alias("from"))
    bought = exposures.filter(pl.col("from").is_not_null()).sort("from")
    bought = bought.join_asof(
        returns.rename({"time": "from"}),
        on="from",
        by=_PAIR,
        strategy="forward",
        tolerance=settings.return_window,
        check_sortedness=False,
    ).with_columns(
        pl.when(pl.col("returned_at").is_null())
        .then(pl.lit(Outcome.BUY, pl.Int8))
        .otherwise(pl.lit(Outcome.RETURN, pl.Int8))
        .alias("outcome")
    )
    viewed = exposures.filter(pl.col("from").is_null()).with_columns(
        pl.lit(Outcome.VIEW, pl.Int8).alias("outcome")
    )
    kept = [*columns[:-1], "outcome"]
    return (
        pl.concat([viewed.select(kept), bought.select(kept)])
        .unique(["person", "item", "time"], keep="first", maintain_order=True)
        .sort("time", "person", "item")
    )


def split_by_time(exposures: pl.DataFrame, log_end: datetime, settings: BuildSettings) -> Split:
    """Train, validation and test in the order of time, one outcome window apart.

    Exposures whose outcome window was still open at `log_end` belong to no part.
    Raises DataError when the log is too short.
    """
    gap = settings.return_window
    if (exposures["outcome"] == Outcome.VIEW).any():
        gap += settings.purchase_horizon
    start: datetime = exposures["time"].min()  # type: ignore[assignment]
    end = log_end - gap
    usable = end - start
    test_start = end - usable * settings.test_share
    validation_end = test_start - gap
    validation_start = validation_end - usable * settings.validation_share
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
    """The exposures within a half-open span of time."""
    return exposures.filter(pl.col("time").is_between(*span, closed="left"))


def check_enough(train: pl.DataFrame, validation: pl.DataFrame, test: pl.DataFrame) -> None:
    """Raise DataError when a part is too small, or has only one outcome."""
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
        if frame["outcome"].n_unique() < 2:
            only = Outcome(int(frame["outcome"][0])).name.lower()
            raise DataError(
                f"every exposure of the {name} period ended in '{only}', there is nothing to tell"
                " apart: give events of more kinds, or a longer log"
            )

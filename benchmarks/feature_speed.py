"""What the size of a log does to the speed of features, and where the time goes.

Run:  .venv/bin/python benchmarks/feature_speed.py --events 1e6 6e6 3e7 1e8

Events drawn at random, 30 a person, 2,400 items of 12 categories on three platforms: a log of the
shape that growth.py measures, without the minutes that simulating and cleaning one takes. All sizes
in one run, in turns; each time of the processor is the least of the rounds, of one thread.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from shopcast_build.learning import examples
from shopcast_build.learning.catalogue import build_catalogue
from shopcast_build.learning.settings import HistorySettings
from shopcast_build.learning.tally import Tally
from shopcast_build.learning.timeline import KIND_NAMES, Timeline

EXAMPLES = 200_000  # the newest
ITEMS, CATEGORIES, PLATFORMS, A_PERSON = 2_400, 12, 3, 30
DAYS, FIRST_S = 180, 1.7e9
KINDS = (0.7, 0.05, 0.22, 0.03)  # shares, in the order of the enum
PARTS = ((Tally, "before"), (Timeline, "window"), (examples, "compute_features"))


def drawn(n: int) -> tuple[Timeline, pl.DataFrame]:
    """A log of n events, and exposures."""
    rng = np.random.default_rng(n)
    item = rng.integers(ITEMS, size=n, dtype=np.int32)
    at_us = np.sort(rng.random(n)) * DAYS * 86_400e6 + FIRST_S * 1e6
    kinds = pl.Enum(KIND_NAMES)
    names = np.array(KIND_NAMES)
    pieces = [5_000_000] * (n // 5_000_000) + [n % 5_000_000]
    events = pl.DataFrame(
        {
            "person": rng.integers(n // A_PERSON, size=n, dtype=np.int32),
            "platform": (item % PLATFORMS).astype(np.int16),
            "item": item,
            "time": pl.Series(at_us.astype(np.int64)).cast(pl.Datetime("us")),
            "kind": pl.concat(
                pl.Series(rng.choice(names, size, p=KINDS)).cast(kinds) for size in pieces
            ),
            "price": rng.random(n, dtype=np.float32) * 50,
            "quantity": np.ones(n, dtype=np.float32),
        }
    )
    number = pl.int_range(ITEMS, eager=True)
    items = pl.DataFrame(
        {
            "title": "item " + number.cast(pl.String),
            "brand": "brand " + (number % 50).cast(pl.String),
            "category": "category " + (number % CATEGORIES).cast(pl.String),
            "price": number.cast(pl.Float64),
        }
    )
    newest = events.tail(EXAMPLES).drop("kind").with_columns(outcome=pl.lit(0))
    return Timeline(events, build_catalogue(items)), newest


class Watch:
    """Seconds of the processor within some functions."""

    def __init__(self) -> None:
        self.spent = {name: 0.0 for _, name in PARTS}
        for owner, name in PARTS:
            setattr(owner, name, self._timed(name, getattr(owner, name)))

    def _timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return work(*given, **named)
            finally:
                self.spent[name] += time.process_time() - began

        return timed


def measured(watch: Watch, timeline: Timeline, exposures: pl.DataFrame) -> dict[str, float]:
    """Microseconds an example."""
    settings = HistorySettings()
    watch.spent = dict.fromkeys(watch.spent, 0.0)
    began = time.process_time()
    examples.build_examples(
        timeline,
        exposures,
        feature_events=settings.feature_events,
        history_events=settings.events,
    )
    found = watch.spent | {"all": time.process_time() - began}
    return {name: seconds / EXAMPLES * 1e6 for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--events", type=float, nargs="+", default=[1e6, 6e6, 3e7])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logs = {int(n): drawn(int(n)) for n in options.events}
    watch = Watch()
    best: dict[int, dict[str, float]] = {}
    for _, (n, log) in itertools.product(range(options.rounds), logs.items()):
        found = measured(watch, *log)
        best[n] = {name: min(one, best.get(n, found)[name]) for name, one in found.items()}
    table = Table(title="microseconds an example")
    columns = ("events", "examples / s", "all", "tallies", "windows", "arithmetic", "the rest")
    for column in columns:
        table.add_column(column, justify="right")
    for n, found in best.items():
        parts = [found[name] for _, name in PARTS]
        cells = (found["all"], *parts, found["all"] - sum(parts))
        rate = f"{1e6 / found['all']:,.0f}"
        table.add_row(f"{n:,}", rate, *(f"{one:.1f}" for one in cells))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

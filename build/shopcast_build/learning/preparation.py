"""From a clean log to the examples of each part of the split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from shopcast_build.data.errors import DataError
from shopcast_build.data.log import CleanLog
from shopcast_build.data.people import People
from shopcast_build.data.spilling import spilled_frame
from shopcast_build.learning.catalogue import build_catalogue
from shopcast_build.learning.checkpoints import digest
from shopcast_build.learning.examples import Examples, build_examples
from shopcast_build.learning.exposures import Split, check_enough, cut_exposures, part
from shopcast_build.learning.reporter import Reporter
from shopcast_build.learning.settings import BuildSettings, ExposureSettings
from shopcast_build.learning.timeline import Timeline
from shopcast_domain.events import Outcome

_MOST_KNOWN = 100_000


@dataclass(frozen=True, slots=True)
class Parts:
    """The examples of the parts of the split. refit: all those whose outcome was known before the
    test began; None where nothing is to be fitted again."""

    train: Examples
    validation: Examples
    test: Examples
    refit: Examples | None = None

    def known(self) -> Examples:
        """Those on which what is judged on the test is to be right on average: of all that it was
        fitted to, with outcomes of the training part, as many as that takes, evenly over time, or
        all where these would lack an outcome; validation where nothing is fitted again."""
        if self.refit is None:
            return self.validation
        rows = np.flatnonzero(np.isin(self.refit.outcome, self.train.outcome))
        evenly = np.linspace(0, len(rows) - 1, min(len(rows), _MOST_KNOWN)).astype(np.int64)
        outcome = self.refit.outcome[rows]
        whole = np.isin(outcome, outcome[evenly]).all()
        return self.refit.take(rows[evenly] if whole else rows)

    def each(self, change: Callable[[Examples], Examples]) -> "Parts":
        """The parts, each of them changed."""
        parts = (getattr(self, name) for name in self.__slots__)
        return Parts(*(examples and change(examples) for examples in parts))

    def sizes(self) -> dict[str, int]:
        """Exposures by part."""
        parts = {name: getattr(self, name) for name in self.__slots__}
        return {name: len(examples) for name, examples in parts.items() if examples is not None}


def make_timeline(
    log: CleanLog, people: People, settings: BuildSettings
) -> tuple[Timeline, pl.DataFrame, tuple[str, ...]]:
    """The timeline, the exposures, and the names of the platforms.

    Raises DataError when no item has a text.
    """
    catalogue = build_catalogue(log.items)
    if not any(catalogue.texts):
        raise DataError(
            "no item of the log has a title, a brand or a category, which the encoder reads: map"
            " one of them with --mapping (`platform data inspect` proposes a mapping), or add it to"
            " the log"
        )
    person = pl.Series("person", people.person).gather(log.events["account"])
    events = log.events.with_columns(person)
    timeline = Timeline(events, catalogue)
    return timeline, cut_exposures(events, log.browsed, settings.exposures), log.platforms


_ROWS = 1_000_000

Frames = dict[str, pl.DataFrame]
"""Exposures by part: training, validation, test, and where models are fitted again, all earlier."""


def part_frames(
    exposures: pl.DataFrame, split: Split, settings: ExposureSettings, ends: Sequence[datetime]
) -> Frames:
    """The exposures of every part, as many as are kept. Raises DataError when one is too small, or
    an outcome occurs only among what is not kept.

    ends: of the log of each platform, by code. An exposure whose outcome window was still open then
    is in no part.
    """
    known_by = {
        "training": split.train,
        "validation": split.validation,
        "test": split.test,
        # Between training and validation too: by the time of the test these outcomes are known.
        "all earlier": (split.train[0], split.validation[1]),
    }
    frames = {
        name: _closed(part(exposures, span), ends, split.gap) for name, span in known_by.items()
    }
    check_enough(frames["training"], frames["validation"], frames["test"])
    if not settings.refit:
        del frames["all earlier"]
    for name, frame in frames.items():
        if name in ("validation", "test"):
            frames[name] = _of_some_people(frame, settings.max_judged)
            _check_kept(name, frame, frames[name], "exposures.max_judged")
        else:
            frames[name] = frame.tail(settings.max_training)
            _check_kept(name, frame, frames[name], "exposures.max_training")
    return frames


def _check_kept(name: str, frame: pl.DataFrame, kept: pl.DataFrame, setting: str) -> None:
    """Raise DataError when an outcome occurs only among exposures that are not kept."""
    lost = sorted(set(frame["outcome"].unique()) - set(kept["outcome"].unique()))
    if lost:
        raise DataError(
            f"of the {frame.height:,} {name} exposures {setting} keeps {kept.height:,}, and none of"
            f" them ended in '{Outcome(lost[0]).name.lower()}': set it higher"
        )


def _closed(frame: pl.DataFrame, ends: Sequence[datetime], gap: timedelta) -> pl.DataFrame:
    """The exposures with an outcome window of `gap` that closed before their platform's end."""
    past = [pl.lit(False)]
    for code, end in enumerate(ends):
        if len(frame) and frame["time"][-1] > end - gap:
            past.append((pl.col("platform") == code) & (pl.col("time") > end - gap))
    if len(past) == 1:
        return frame
    return spilled_frame(rows.filter(~pl.any_horizontal(past)) for rows in frame.iter_slices(_ROWS))


def _of_some_people(frame: pl.DataFrame, most: int) -> pl.DataFrame:
    """About `most` exposures: all those of people drawn at random, the same ones every time."""
    if frame.height <= most:
        return frame
    people = frame["person"].unique().sort()
    drawn = np.random.default_rng(0).random(len(people)) < most / frame.height
    return frame.filter(pl.col("person").is_in(people.filter(pl.Series(drawn)).implode()))


def make_parts(
    timeline: Timeline, frames: Frames, settings: BuildSettings, reporter: Reporter
) -> Parts:
    """The examples of every part."""
    built = []
    for name, frame in frames.items():
        with reporter.stage(f"features of {frame.height:,} {name} exposures") as progress:
            built.append(
                build_examples(
                    timeline,
                    frame,
                    feature_events=settings.history.feature_events,
                    history_events=settings.history.events,
                    progress=progress,
                )
            )
    return Parts(*built)


def fingerprint(timeline: Timeline, parts: Parts) -> str:
    """sha256 of all that a model is made from and judged on: events, exposures, item texts."""
    each = (getattr(parts, name) for name in parts.__slots__)
    exposures = (
        getattr(examples, name)
        for examples in each
        if examples is not None
        for name in Examples.__slots__
    )
    catalogue = timeline.catalogue
    return digest([*timeline.columns(), *catalogue.arrays(), *exposures], catalogue.texts)

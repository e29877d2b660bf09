"""What a study is made on: the log, its split, and the examples of each part."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shopcast_build.data.cleaning import clean
from shopcast_build.data.mapping import Mapping
from shopcast_build.data.people import check_links
from shopcast_build.data.telling_links import TELLING_LINKS, find_people
from shopcast_build.learning.exposures import Split, split_by_time
from shopcast_build.learning.giveaways import giveaways
from shopcast_build.learning.preparation import Parts, make_parts, make_timeline, part_frames
from shopcast_build.learning.reporter import Reporter
from shopcast_build.learning.settings import BuildSettings
from shopcast_build.learning.timeline import Timeline
from shopcast_build.study.assessment import Test
from shopcast_build.study.identities import Accounts, find_accounts
from shopcast_build.study.schema import Data
from shopcast_build.study.verdicts import COLD_ITEMS, NEW_HERE, SEVERAL
from shopcast_domain.events import Outcome
from shopcast_domain.features import Floats

PARTS = ("train", "validation", "test")
NO_HISTORY_AT_ALL = "no history"


@dataclass(frozen=True, slots=True)
class Material:
    """frames: the exposures of the three parts, in the order of their examples. doubts: as in
    Data."""

    timeline: Timeline = field(repr=False)
    accounts: Accounts = field(repr=False)
    parts: Parts = field(repr=False)
    frames: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame] = field(repr=False)
    split: Split
    platforms: tuple[str, ...]
    people: int
    log_span: tuple[datetime, datetime]
    settings: BuildSettings
    doubts: tuple[str, ...] = ()

    def test(self) -> Test:
        """The test exposures with their slices."""
        examples = self.parts.test
        return Test(examples.outcome, examples.person, _slices(self), ~examples.at_orders)

    def data(self) -> Data:
        """What the report says of the data."""
        test, several = self.parts.test, self.test().rows(SEVERAL)
        outcomes = {
            platform: {
                kind.name.lower(): int(((test.platform == code) & (test.outcome == kind)).sum())
                for kind in Outcome
            }
            for code, platform in enumerate(self.platforms)
        }
        return Data(
            log_start=self.log_span[0],
            log_end=self.log_span[1],
            train=self.split.train,
            validation=self.split.validation,
            test=self.split.test,
            gap_days=self.split.gap.total_seconds() / 86_400,
            exposures={name: len(getattr(self.parts, name)) for name in PARTS},
            people=self.people,
            test_people=len(np.unique(test.person)),
            multi_platform_people=len(np.unique(test.person[several])),
            items=len(self.timeline.catalogue.text),
            outcomes=outcomes,
            doubts=self.doubts,
        )


def read_material(
    events: Sequence[Path],
    *,
    links: Path | None,
    mapping: Mapping,
    settings: BuildSettings,
    max_bad_share: float | None,
    reporter: Reporter,
) -> Material:
    """Clean, resolve people and split as a build does. Raises DataError."""
    with reporter.stage("clean the log") as progress:
        log = clean(
            events,
            mapping,
            max_bad_share=max_bad_share,
            purchase_horizon=settings.exposures.purchase_horizon,
            progress=progress,
        )
        people, cleaning = find_people(log, links)
        check_links(people.report)
    timeline, exposures, platforms = make_timeline(log, people, settings)
    split = split_by_time(exposures, log.events["time"][-1], settings.exposures)
    frames = part_frames(exposures, split, settings.exposures, log.ends)
    parts = make_parts(timeline, frames, settings, reporter)
    of_links = [one for one in cleaning.suspicious if one.name == TELLING_LINKS]
    doubts = (*of_links, *giveaways(parts.train, platforms))
    training, validation, test = (frames[name] for name in ("training", "validation", "test"))
    return Material(
        timeline=timeline,
        accounts=find_accounts(timeline),
        parts=parts,
        frames=tuple(_in_order(frame) for frame in (training, validation, test)),  # type: ignore[arg-type]
        split=split,
        platforms=platforms,
        people=people.count,
        log_span=(log.events["time"][0], log.events["time"][-1]),
        settings=settings,
        doubts=tuple(one.sentence for one in doubts),
    )


def _in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """The order of build_examples."""
    return frame.sort("time", "person", "platform", "item")


def _slices(material: Material) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    timeline, accounts, test = material.timeline, material.accounts, material.parts.test
    account = accounts.of(test.person, test.platform)
    by_account = timeline.regrouped(accounts.rows, accounts.start)
    here = by_account.position(account, test.at_s) - accounts.start[account]
    anywhere = test.position - timeline.person_start[test.person]
    item = material.frames[2]["item"].cast(pl.Int64).to_numpy()
    refitted = material.parts.refit is not None
    learned = material.split.validation if refitted else material.split.train
    cold = _first_met(timeline)[item] >= learned[1].timestamp()
    found = {
        SEVERAL: ("people with accounts on several platforms", accounts.several[account]),
        NO_HISTORY_AT_ALL: ("people nothing is known of", anywhere == 0),
        NEW_HERE: ("people known from other platforms only", (here == 0) & (anywhere > 0)),
        COLD_ITEMS: ("items nobody had met before the training ended", cold),
    }
    for code, platform in enumerate(material.platforms):
        found[f"platform {platform}"] = (f"on {platform}", test.platform == code)
    for kind in Outcome:
        name = kind.name.lower()
        found[f"outcome {name}"] = (f"exposures that ended in '{name}'", test.outcome == kind)
    return {key: (name, rows) for key, (name, rows) in found.items() if rows.any()}


def _first_met(timeline: Timeline) -> Floats:
    """When each item's first event was, in seconds since the epoch: (I,)."""
    first = np.full(len(timeline.catalogue.text), np.inf)
    np.minimum.at(first, timeline.item, timeline.time_s)
    return first

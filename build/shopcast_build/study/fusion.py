"""The three arms, trained: is a person's past on other platforms worth anything?"""

from itertools import pairwise

import numpy as np
import polars as pl

from shopcast_build.learning.examples import Examples
from shopcast_build.learning.preparation import Parts
from shopcast_build.learning.reporter import Reporter
from shopcast_build.learning.timeline import Timeline
from shopcast_build.study.contenders import Contender, contender
from shopcast_build.study.heads import Heads
from shopcast_build.study.identities import (
    ARMS,
    arm_examples,
    foreign_of,
    overflow_share,
    strangers,
)
from shopcast_build.study.material import Material
from shopcast_build.study.schema import Fusion

TRAINING = 60_000
"""The newest training exposures that an arm learns from."""


def train_arms(
    material: Material, heads: Heads, seeds: int, reporter: Reporter
) -> tuple[list[Contender], Fusion]:
    """A scorer for each arm and seed, on frozen vectors; arms share seeds, exposures and labels.

    No arms where nobody has accounts on several platforms.
    """
    settings, accounts = material.settings, material.accounts
    if not accounts.several.any():
        return [], Fusion(own_first_share=0.0, replaced=0, without_stranger=0)
    found = []
    for arm in ARMS:
        with reporter.stage(f"{arm} histories") as progress:
            timeline, parts = arm_parts(material, arm)
            runs = []
            for seed in range(seeds):
                runs.append(heads.scorer(timeline, parts, settings.seed + seed))
                progress(seed + 1, seeds)
        found.append(contender(arm, runs, parts.validation.outcome))
    stranger = strangers(accounts, seed=settings.seed)[accounts.several]
    overflow = overflow_share(
        material.timeline, accounts, material.frames[2], settings.history.events
    )
    return found, Fusion(
        own_first_share=round(overflow, 6),
        replaced=int((stranger >= 0).sum()),
        without_stranger=int((stranger < 0).sum()),
    )


def arm_parts(material: Material, arm: str) -> tuple[Timeline, Parts]:
    """The exposures of a study as one arm sees them, with the timeline of their histories.

    Raises RuntimeError if they are not those of the study, row by row.
    """
    settings, accounts = material.settings, material.accounts
    frames = (material.frames[0].tail(TRAINING), *material.frames[1:])
    timeline, examples = arm_examples(
        material.timeline,
        accounts,
        foreign_of(accounts, arm, seed=settings.seed),
        pl.concat(frames),
        feature_events=settings.history.feature_events,
        history_events=settings.history.events,
    )
    # The parts follow each other in time, so they do in the examples.
    ends = np.cumsum([0, *(frame.height for frame in frames)])
    parts = Parts(*(examples.take(np.arange(a, b)) for a, b in pairwise(ends)))
    _check_same(parts.validation, material.parts.validation)
    _check_same(parts.test, material.parts.test)
    return timeline, parts


def _check_same(found: Examples, meant: Examples) -> None:
    if not all(
        np.array_equal(getattr(found, name), getattr(meant, name))
        for name in ("outcome", "text", "platform", "at_s")
    ):
        raise RuntimeError("the arms of the study are not about the same exposures")

"""The same exposures with a fused, a single-platform and a shuffled past.

What a person did on the platform of the exposure is their *own* past there; what they did on other
platforms is foreign to it. All three arms see the same own events; they differ in the foreign ones:

single    none.
fused     those of the same person.
placebo   those of strangers: each other account is replaced by one of the same platform with about
          as many events, the same stranger at every exposure.

A window holds a limited number of events. Own events come first and foreign ones take the room that
is left, newest first; otherwise foreign events would push out own ones, and an arm with foreign
events could lose by what it no longer sees. Labels, exposures and everybody's tallies are those of
the log in every arm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shopcast_build.learning.examples import Examples, Progress, build_examples
from shopcast_build.learning.timeline import Timeline
from shopcast_domain.features import Ints

FUSED, SINGLE, PLACEBO = ARMS = ("fused", "single", "placebo")
_ALIKE = 8
"""Accounts of about as many events that trade places with each other."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """A person's events on one platform, as one account; accounts are in the order of
    (person, platform).

    rows: (E,) indices into the timeline's events, by account, then time. start: (A + 1,) into rows.
    person, platform: (A,). several: bool (A,), the person has accounts on several platforms.
    """

    rows: Ints = field(repr=False)
    start: Ints = field(repr=False)
    person: Ints = field(repr=False)
    platform: Ints = field(repr=False)
    several: NDArray[np.bool_] = field(repr=False)

    def __len__(self) -> int:
        return len(self.person)

    def of(self, person: Ints, platform: Ints) -> Ints:
        """The accounts of exposures: (n,)."""
        span = int(self.platform.max()) + 1
        return np.searchsorted(self.person * span + self.platform, person * span + platform)


def find_accounts(timeline: Timeline) -> Accounts:
    """The accounts behind a timeline's events."""
    sizes = np.diff(timeline.person_start)
    person = np.repeat(np.arange(len(sizes)), sizes)
    span = int(timeline.platform.max()) + 1
    code = person * span + timeline.platform
    rows = np.argsort(code, kind="stable")
    pairs, first = np.unique(code[rows], return_index=True)
    whose = pairs // span
    return Accounts(
        rows=rows,
        start=np.append(first, len(rows)),
        person=whose,
        platform=pairs % span,
        several=np.bincount(whose)[whose] > 1,
    )


def foreign_of(accounts: Accounts, arm: str, *, seed: int) -> list[list[int]]:
    """The accounts whose events are foreign to an account, by account."""
    foreign: list[list[int]] = [[] for _ in range(len(accounts))]
    if arm == SINGLE:
        return foreign
    stands_for = np.arange(len(accounts)) if arm == FUSED else strangers(accounts, seed=seed)
    for account in np.flatnonzero(accounts.several).tolist():
        low, high = np.searchsorted(accounts.person, accounts.person[account] + np.array([0, 1]))
        others = [int(stands_for[o]) for o in range(low, high) if o != account]
        foreign[account] = [other for other in others if other >= 0]
    return foreign


def strangers(accounts: Accounts, *, seed: int) -> Ints:
    """For each account one of another person on the same platform, with about as many events; -1
    where the platform has no other: (A,).

    Accounts of people on several platforms trade places among themselves, so that strangers are as
    active as those they stand for.
    """
    rng = np.random.default_rng(seed)
    events = np.diff(accounts.start)
    stranger = np.full(len(accounts), -1)
    for platform in np.unique(accounts.platform):
        there = accounts.platform == platform
        wanted = np.flatnonzero(there & accounts.several)
        pool = wanted if len(wanted) > 1 else np.flatnonzero(there)
        if len(pool) < 2:
            continue
        order = pool[np.lexsort((rng.random(len(pool)), events[pool]))]
        for block in np.array_split(order, max(1, len(order) // _ALIKE)):
            turn = int(rng.integers(1, len(block)))
            stranger[block] = np.roll(block, turn)
    return stranger


def lay_out(
    timeline: Timeline,
    accounts: Accounts,
    foreign: Sequence[Sequence[int]],
    exposures: pl.DataFrame,
    limit: int,
) -> tuple[Timeline, pl.DataFrame]:
    """A timeline in which an exposure's newest `limit` events are its own, then its foreign ones.

    Returns it with the exposures, whose `person` is now one of its people: an account, or where its
    events are more than fit, an account at one moment. Their order is that of (account, moment).
    """
    person, platform = (exposures[c].cast(pl.Int64).to_numpy() for c in ("person", "platform"))
    account = accounts.of(person, platform)
    at_s = exposures["time"].dt.epoch("us").to_numpy() / 1e6
    order = np.lexsort((at_s, account))
    pasts: list[Ints] = []
    stands_for = np.empty(len(order), dtype=np.int64)
    for group in np.split(order, np.flatnonzero(np.diff(account[order])) + 1):
        own = _rows(accounts, int(account[group[0]]))
        others = [_rows(accounts, other) for other in foreign[account[group[0]]]]
        away = _by_time(timeline, np.concatenate(others)) if others else own[:0]
        if not len(away) or len(own) + len(away) <= limit:
            pasts.append(_by_time(timeline, np.concatenate((own, away))))
            stands_for[group] = len(pasts) - 1
            continue
        for moment in np.split(group, np.flatnonzero(np.diff(at_s[group])) + 1):
            before = own[: np.searchsorted(timeline.time_s[own], at_s[moment[0]])][-limit:]
            room = limit - len(before)
            else_where = away[: np.searchsorted(timeline.time_s[away], at_s[moment[0]])]
            fits = else_where[max(0, len(else_where) - room) :]
            pasts.append(_by_time(timeline, np.concatenate((before, fits))))
            stands_for[moment] = len(pasts) - 1
    start = np.cumsum([0, *map(len, pasts)])
    laid = timeline.regrouped(np.concatenate(pasts), start)
    return laid, exposures.with_columns(pl.Series("person", stands_for))


def _rows(accounts: Accounts, account: int) -> Ints:
    return accounts.rows[accounts.start[account] : accounts.start[account + 1]]


def _by_time(timeline: Timeline, rows: Ints) -> Ints:
    return rows[np.lexsort((rows, timeline.time_s[rows]))]


def arm_examples(
    timeline: Timeline,
    accounts: Accounts,
    foreign: Sequence[Sequence[int]],
    exposures: pl.DataFrame,
    *,
    feature_events: int,
    history_events: int,
    progress: Progress = lambda done, total: None,
) -> tuple[Timeline, Examples]:
    """Exposures as one arm sees them, in the order of build_examples, with the timeline that their
    histories are read from. Features and history each have a window of their own."""
    wide, told = lay_out(timeline, accounts, foreign, exposures, feature_events)
    made = build_examples(
        wide, told, feature_events=feature_events, history_events=1, progress=progress
    )
    narrow, told = lay_out(timeline, accounts, foreign, exposures, history_events)
    person = told.sort("time", "person", "platform", "item")["person"].to_numpy()
    position = narrow.position(person, made.at_s)
    first = np.maximum(narrow.person_start[person], position - history_events)
    return narrow, replace(made, person=person, position=position, first=first)


def overflow_share(
    timeline: Timeline, accounts: Accounts, exposures: pl.DataFrame, limit: int
) -> float:
    """Share of the exposures of people on several platforms with more than `limit` events before
    them, counting those of every platform: there the fused arm is not what is served."""
    person, platform = (exposures[c].cast(pl.Int64).to_numpy() for c in ("person", "platform"))
    several = accounts.several[accounts.of(person, platform)]
    if not several.any():
        return 0.0
    at_s = exposures["time"].dt.epoch("us").to_numpy() / 1e6
    before = timeline.position(person, at_s) - timeline.person_start[person]
    return float((before[several] > limit).mean())

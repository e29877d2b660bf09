"""A version on trial: whom it answers, what it is compared by, and that it harms nobody."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from scipy import stats

from shopcast_domain.events import Account, Item, Outcome
from shopcast_gateway.core.protocol import (
    Evidence,
    ItemPrediction,
    Level,
    Prediction,
    PredictQuery,
)
from shopcast_gateway.core.stages import SPENT, Spent
from shopcast_gateway.core.trial import Comparison, Trial, lot, spearman
from shopcast_gateway.engine import Switch
from shopcast_gateway.errors import ContractMismatch, DeadlineExpired, Unavailable
from shopcast_gateway.metrics import TrialCollector


def query(user: str, items: int = 1) -> PredictQuery:
    return PredictQuery(Account("web", user), tuple(Item(f"i{n}") for n in range(items)))


def answer(version: str, *rows: tuple[float, float, float]) -> Prediction:
    evidence = Evidence("a" * 32, version, "3", tuple(Outcome), True, (), 0, None, 0)
    return Prediction(
        tuple(ItemPrediction(f"i{n}", row, True, False) for n, row in enumerate(rows)), evidence
    )


class Version:
    """Answers, or fails, with its name."""

    def __init__(self, name: str, *rows: tuple[float, float, float]) -> None:
        self.name, self.rows, self.asked = name, rows or ((0.5, 0.3, 0.2),), 0
        self.level = Level.FULL
        self.lowest: set[Level] = set()
        self.timeout_s = 0.0
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        self.asked += 1
        self.lowest.add(query.lowest_level)
        self.timeout_s = timeout_s
        await self.gate.wait()
        if self.failure:
            raise self.failure
        made = answer(self.name, *self.rows)
        return replace(made, evidence=replace(made.evidence, level=self.level))


@dataclass
class Person:
    person_id: str


class Directory:
    """Two accounts of a person end alike."""

    failure: Exception | None = None

    async def resolve(self, account: Account) -> Person | None:
        if self.failure:
            raise self.failure
        return None if account.user_id == "new" else Person(account.user_id[-3:])


def switch(serving: Version, other: Version, directory: Any = None, **shares: float) -> Switch:
    made: Any = Switch()
    made.engine = serving
    shares = {"share": 0.0, "shadow": 0.0} | shares
    made.trial = Trial(2, other, directory or Directory(), **shares)
    chosen: Switch = made
    return chosen


async def by(made: Switch, user: str) -> str:
    return (await made.predict(query(user), timeout_s=5.0)).evidence.model_version


async def test_a_share_of_the_people_always_meets_the_version_on_trial() -> None:
    made = switch(Version("1"), Version("2"), share=0.3)
    first = {n: await by(made, f"web-{n:03}") for n in range(400)}
    again = {n: await by(made, f"app-{n:03}") for n in range(400)}
    assert first == again, "whatever account they come with"
    assert 0.2 < list(first.values()).count("2") / 400 < 0.4
    assert made.trial is not None
    assert made.trial.answered == 2 * list(first.values()).count("2")


@given(st.integers(1, 10**6), st.text())
def test_a_lot_is_a_share_and_no_chance(version: int, person: str) -> None:
    assert 0 <= lot(version, person) < 1
    assert lot(version, person) == lot(version, person)


@pytest.mark.parametrize("failure", [Unavailable("away"), ContractMismatch("no")])
async def test_where_the_version_on_trial_fails_the_one_that_serves_answers(
    failure: Exception,
) -> None:
    other = Version("2")
    other.failure = failure
    made = switch(Version("1"), other, share=1.0)
    assert await by(made, "a") == "1"
    assert other.asked == 1


async def test_less_than_everything_is_left_to_the_one_that_serves_and_time_for_it() -> None:
    serving, other = Version("1"), Version("2")
    other.failure = DeadlineExpired("hangs")
    made = switch(serving, other, share=1.0)
    found = await made.predict(replace(query("a"), lowest_level=Level.PRIOR), timeout_s=1.0)
    assert found.evidence.model_version == "1"
    assert (serving.lowest, other.lowest) == ({Level.PRIOR}, {Level.FULL})
    assert other.timeout_s < 0.51


async def test_who_is_new_meets_the_version_that_serves() -> None:
    made = switch(Version("1"), Version("2"), share=1.0)
    assert await by(made, "new") == "1", "and does after their first event, if it is not theirs"
    assert await by(made, "a") == "2"


async def test_an_engine_that_is_replaced_meanwhile_is_not_asked() -> None:
    first, second, other = Version("1"), Version("3"), Version("2")
    other.failure = Unavailable("away")
    other.gate.clear()
    made = switch(first, other, share=1.0)
    asking = asyncio.create_task(by(made, "a"))
    await asyncio.sleep(0.01)
    made.engine = second  # type: ignore[assignment]
    other.gate.set()
    assert await asking == "3"


async def test_answers_that_rest_on_something_else_are_not_compared() -> None:
    serving, other = Version("1"), Version("2")
    made = switch(serving, other, shadow=1.0)
    for serving.level, other.level in (
        (Level.PRIOR, Level.FULL),
        (Level.FULL, Level.STALE),
        (Level.FULL, Level.FULL),
    ):
        await by(made, "a")
        await asyncio.sleep(0.01)
    assert made.trial is not None
    assert (made.trial.comparison.skipped, made.trial.comparison.compared) == (2, 1)


async def test_what_a_shadow_spends_is_not_the_calls() -> None:
    made = switch(Version("1"), other := Version("2"), shadow=1.0)
    seen: list[Any] = []

    async def predict(query: PredictQuery, *, timeout_s: float) -> Prediction:
        seen.append(SPENT.get())
        return answer("2", *other.rows)

    other.predict = predict  # type: ignore[method-assign]
    SPENT.set(Spent(None))
    await by(made, "a")
    await asyncio.sleep(0.01)
    assert seen == [None]


async def test_where_the_person_cannot_be_found_out_the_one_that_serves_answers() -> None:
    directory, other = Directory(), Version("2")
    directory.failure = Unavailable("away")
    made = switch(Version("1"), other, directory, share=1.0)
    assert await by(made, "a") == "1"
    assert other.asked == 0


async def test_nobody_waits_for_a_shadow() -> None:
    serving, other = Version("1"), Version("2")
    other.gate.clear()
    made = switch(serving, other, shadow=1.0)
    assert [await by(made, "a") for _ in range(5)] == ["1"] * 5
    await asyncio.sleep(0)
    assert made.trial is not None
    assert other.asked == 2, "no more at once"
    assert made.trial.comparison.skipped == 3
    other.gate.set()
    await asyncio.sleep(0.01)
    assert made.trial.comparison.compared == 2
    other.failure = RuntimeError("whatever")
    await by(made, "a")
    await asyncio.sleep(0.01)
    assert made.trial.comparison.failed == 1
    other.gate.clear()
    await by(made, "a")
    await made.put_on_trial(None, None)
    assert await by(made, "a") == "1"


def test_what_is_compared() -> None:
    found = Comparison()
    one = answer("1", (0.5, 0.3, 0.2), (0.2, 0.7, 0.1), (0.1, 0.1, 0.8))
    found.add(one, one)
    other = answer("2", (0.3, 0.5, 0.2), (0.2, 0.7, 0.1), (0.1, 0.1, 0.8))
    found.add(one, other)
    assert (found.compared, found.items, found.flips, found.correlations) == (2, 6, 1, 2)
    assert found.rank_correlation == 2
    np.testing.assert_allclose(found.trial - found.serving, [-0.2, 0.2, 0], atol=1e-12)
    assert "flip_rate=0.1667 buy_difference=+0.03333" in found.sentence


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    found = spearman(one, other)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-9)


async def test_the_metrics_are_those_of_the_trial_there_is() -> None:
    made, registry = Switch(), CollectorRegistry()
    registry.register(TrialCollector(lambda: made.trial))
    assert registry.get_sample_value("shopcast_trial_version") is None
    made = switch(Version("1"), Version("2"), share=1.0)
    await by(made, "a")
    assert registry.get_sample_value("shopcast_trial_version") == 2
    assert registry.get_sample_value("shopcast_trial_answers_total") == 1
    assert (
        registry.get_sample_value("shopcast_shadow_predictions_total", {"result": "compared"}) == 0
    )

"""Base rates in place of a model: while there is no engine, and after it."""

import pytest

from shopcast_domain.events import Account, Item
from shopcast_domain.manifest import Manifest
from shopcast_gateway.core.histories import Histories
from shopcast_gateway.core.prior import PriorPredictor
from shopcast_gateway.core.protocol import Level, Prediction, PredictQuery, Reason
from shopcast_gateway.core.reader import Reader
from shopcast_gateway.directory.reading import unread
from shopcast_gateway.directory.types import Reading
from shopcast_gateway.engine import Switch
from shopcast_gateway.errors import Unavailable


class Directory:
    async def read(self, account: Account, items: list[Item], **_: object) -> Reading:
        return unread(items)


class Engine:
    """Answers nothing: what it is asked is lost."""

    def __init__(self, prior: PriorPredictor) -> None:
        self.prior, self.closed = prior, False

    async def predict(self, query: PredictQuery, *, timeout_s: float) -> Prediction:
        raise AssertionError

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def histories() -> Histories:
    return Histories()


@pytest.fixture
def prior(manifest: Manifest, histories: Histories) -> PriorPredictor:
    reader = Reader(Directory(), histories, limit=4, clock=lambda: 0.0)  # type: ignore[arg-type]
    return PriorPredictor(manifest, reader)


def query(lowest: Level = Level.PRIOR, platform: str = "web") -> PredictQuery:
    items = (Item("a", category=" SHOES "), Item("b", category="hats"))
    return PredictQuery(Account(platform, "anna"), items, lowest_level=lowest)


async def test_a_platform_without_rates_gets_those_of_all(prior: PriorPredictor) -> None:
    answer = await prior.predict(query(), timeout_s=1.0)
    assert [one.probabilities for one in answer.predictions] == [(0.5, 0.25, 0.25), (0.6, 0.3, 0.1)]
    answer = await prior.predict(query(platform="app"), timeout_s=1.0)
    assert {one.probabilities for one in answer.predictions} == {(0.7, 0.2, 0.1)}


async def test_base_rates_are_told_while_the_engine_is_off_and_when_it_is_gone(
    prior: PriorPredictor, histories: Histories
) -> None:
    switch = Switch()
    switch.histories = histories
    with pytest.raises(Unavailable):  # no manifest is known yet
        await switch.predict(query(), timeout_s=1.0)
    engine = switch.engine = Engine(prior)  # type: ignore[assignment]
    switch.off = True
    for _ in range(2):
        answer = await switch.predict(query(), timeout_s=1.0)
        assert (answer.evidence.level, answer.evidence.reason) == (Level.PRIOR, Reason.MODEL_AWAY)
        for lowest in set(Level) - {Level.PRIOR}:
            with pytest.raises(Unavailable):
                await switch.predict(query(lowest), timeout_s=1.0)
        assert len(histories) == 1
        switch.forget()
        assert len(histories) == 0, "with and without an engine"
        await switch.close()
    assert engine.closed

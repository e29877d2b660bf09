"""How fast work gets done, by a clock that is set."""

import math
from types import SimpleNamespace

import pytest

from shopcast_gateway.core import pace as paces
from shopcast_gateway.core.pace import Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=50.0)
    monkeypatch.setattr(paces, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def run(clock: SimpleNamespace, pace: Pace, *ends: tuple[float, float]) -> None:
    """Work that ends one after the other: how long it took, and how much it was."""
    for took_s, units in ends:
        clock.now += took_s
        pace.ended(units, more=True)


def test_before_anything_was_seen_everything_could_be_done() -> None:
    assert Pace().units(0.001) == math.inf


def test_it_is_what_was_done_by_the_time_it_took(clock: SimpleNamespace) -> None:
    pace = Pace()
    run(clock, pace, (0.0, 5), (0.1, 10), (0.1, 10), (0.3, 30))
    assert pace.units(2.0) == pytest.approx(200)


def test_what_ends_in_bursts_is_seen_as_a_whole(clock: SimpleNamespace) -> None:
    pace = Pace()
    run(clock, pace, (0.0, 5), *(((0.4, 1), *[(0.0, 1)] * 3) * 50))
    assert pace.units(1.0) == pytest.approx(10, rel=0.1)


def test_time_without_work_does_not_count(clock: SimpleNamespace) -> None:
    pace = Pace()
    run(clock, pace, (0.0, 5), (0.1, 10))
    pace.ended(1, more=False)
    run(clock, pace, (100.0, 10), (0.1, 10))
    assert pace.units(1.0) == pytest.approx(100, rel=0.1)


def test_time_without_work_does_not_count_where_the_last_of_it_failed(
    clock: SimpleNamespace,
) -> None:
    pace = Pace()
    run(clock, pace, (0.0, 5), (0.1, 10), (0.5, 0))
    pace.ended(0, more=False)
    run(clock, pace, (36_000.0, 10), (0.1, 10))
    assert pace.units(1.0) == pytest.approx(100, rel=0.1)


def test_what_fails_in_between_does_not_make_it_look_fast(clock: SimpleNamespace) -> None:
    pace = Pace()
    run(clock, pace, (0.0, 5), *[(0.05, 0), (0.05, 10)] * 20)
    assert pace.units(1.0) == pytest.approx(100, rel=0.1)


def test_what_hung_for_long_is_soon_made_up_for(clock: SimpleNamespace) -> None:
    pace = Pace()
    run(clock, pace, (0.0, 5), *[(0.1, 10)] * 20, *[(1.0, 0)] * 600, *[(0.1, 10)] * 40)
    assert pace.units(1.0) > 50


def test_it_follows_a_change(clock: SimpleNamespace) -> None:
    pace = Pace()
    run(clock, pace, (0.0, 5), *[(0.1, 10)] * 100, *[(0.4, 10)] * 100)
    assert pace.units(1.0) == pytest.approx(25, rel=0.1)

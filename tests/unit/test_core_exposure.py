"""People whose features are computed together have those they have alone, to the bit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shopcast_domain.features import KINDS, Candidates, Window
from shopcast_gateway.core.exposure import Exposure, scenes

DIM = 3
AT_S = 1_750_000_000.0


def exposure(seed: int, events: int, candidates: int, attended: int, *, order: bool) -> Exposure:
    random = np.random.default_rng(seed)

    def codes(count: int) -> np.ndarray:
        return random.integers(-1, 3, count)

    def prices(count: int) -> np.ndarray:
        return np.where(random.random(count) < 0.3, np.nan, random.random(count) * 100)

    window = Window(
        time_s=AT_S - np.sort(random.integers(0, 10**6, events)).astype(np.float64),
        kind=random.integers(0, KINDS, events),
        platform=random.integers(0, 2, events),
        item=codes(events),
        category=codes(events),
        brand=codes(events),
        price=prices(events),
        quantity=random.integers(1, 4, events).astype(np.float64),
    )
    met = Candidates(
        platform=int(random.integers(0, 2)),
        item=codes(candidates),
        category=codes(candidates),
        brand=codes(candidates),
        price=prices(candidates),
        quantity=random.integers(1, 4, candidates) * (1.0 if order else np.nan),
        item_tally=random.integers(0, 9, (candidates, KINDS)).astype(np.float64),
        item_habit=random.integers(0, 10**7, (candidates, 3)),
        category_tally=random.integers(0, 99, (candidates, KINDS)).astype(np.float64),
        platform_tally=random.integers(0, 999, KINDS).astype(np.float64),
    )
    vectors = random.normal(size=(candidates + events, DIM)).astype(np.float32)
    held = min(attended, events)
    return Exposure(AT_S + seed, window, met, vectors[candidates:][:held], vectors[:candidates])


people = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(1, 6), st.booleans())


@given(st.lists(people, min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 9))
def test_together_as_alone(
    asked: list[tuple[int, int, int, bool]], attended: int, feature_events: int
) -> None:
    exposures = [
        exposure(seed, events, candidates, attended, order=order)
        for seed, events, candidates, order in asked
    ]
    together = scenes(exposures, feature_events)
    assert len(together) == len(exposures)
    for one, found in zip(exposures, together, strict=True):
        (alone,) = scenes([one], feature_events)
        np.testing.assert_array_equal(found.features, alone.features)
        np.testing.assert_array_equal(found.history.numbers, alone.history.numbers)
        np.testing.assert_array_equal(found.history.kind, one.window.kind[:attended])
        assert found.history.vectors is one.history_vectors
        assert found.vectors is one.vectors
        assert found.size > 0

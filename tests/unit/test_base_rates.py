"""Base rates: observed shares, drawn towards those of the parent."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shopcast_build.learning.catalogue import build_catalogue
from shopcast_build.release.base_rates import MIN_EXPOSURES, base_rates, shrunk, strength
from shopcast_domain.base_rates import MAX_CATEGORY_CHARS, BaseRates, PlatformRates
from shopcast_domain.events import Outcome

NAMES = ["Shoes", "SHOES", "Hats", None, "Rare", "x" * (MAX_CATEGORY_CHARS + 1)]
CATALOGUE = build_catalogue(
    pl.DataFrame(
        {"title": ["a"] * 6, "brand": ["b"] * 6, "category": NAMES, "price": [1.0] * 6},
        schema={"title": str, "brand": str, "category": str, "price": float},
    )
)


def exposures(*rows: tuple[int, int, Outcome, int]) -> pl.DataFrame:
    """Platform, item, outcome and how many of them."""
    columns = zip(*((p, i, int(o)) for p, i, o, n in rows for _ in range(n)), strict=True)
    met = pl.DataFrame(dict(zip(("platform", "item", "outcome"), columns, strict=True)))
    return met.with_columns(time=pl.datetime(2026, 1, 1, time_zone="UTC"))


def test_rates_are_observed_shares_where_there_is_much_to_observe() -> None:
    found = base_rates(
        exposures(
            (0, 0, Outcome.VIEW, 3000), (0, 1, Outcome.BUY, 1000),  # one category in two spellings
            (0, 2, Outcome.VIEW, 5000), (0, 2, Outcome.RETURN, 3000),
            (1, 2, Outcome.VIEW, 900), (1, 3, Outcome.BUY, 100),
            (0, 4, Outcome.BUY, MIN_EXPOSURES - 1), (0, 5, Outcome.BUY, 60),
        ),
        CATALOGUE, ("web", "app", "new"),
    )  # fmt: skip
    assert found.exposures == 13_109
    assert found.rates == pytest.approx((8900 / 13109, 1209 / 13109, 3000 / 13109))
    web, app, new = (found.platforms[name] for name in ("web", "app", "new"))
    assert (web.exposures, app.exposures, new.exposures) == (12_109, 1_000, 0)
    assert web.rates == pytest.approx((8000 / 12109, 1109 / 12109, 3000 / 12109), abs=0.01)
    assert web.categories.keys() == {"shoes", "hats"}
    assert web.categories["shoes"] == pytest.approx((0.75, 0.25, 0.0), abs=0.01)
    assert app.categories.keys() == {"hats"}
    assert new.rates == pytest.approx(found.rates), "of which nothing was seen"
    assert found.of("web", "shoes") == web.categories["shoes"]
    assert found.of("web", "scarves") == found.of("web", "") == web.rates
    assert found.of("elsewhere", "shoes") == found.rates


def test_an_outcome_that_was_never_seen_has_no_chance_anywhere() -> None:
    found = base_rates(
        exposures((0, 0, Outcome.VIEW, 90), (0, 2, Outcome.BUY, 60)), CATALOGUE, ("web",)
    )
    assert found.of("web", "hats")[Outcome.RETURN] == 0.0
    assert found.rates[Outcome.RETURN] == 0.0


def test_children_that_differ_by_chance_alone_are_drawn_closer_than_those_that_do_differ() -> None:
    random = np.random.default_rng(0)
    parent = np.array([0.8, 0.15, 0.05])
    parents = np.broadcast_to(parent, (200, 3))
    same = random.multinomial(100, parent, size=200).astype(float)
    assert strength(same, parents) > 1_000
    shares = random.dirichlet(20 * parent, size=200)
    apart = np.array([random.multinomial(100, one) for one in shares], dtype=float)
    assert 10 < strength(apart, parents) < 40
    # And that is worth it: the shares are met better than by counting alone.
    counted = apart / apart.sum(axis=1, keepdims=True)
    drawn = shrunk(apart, parents, strength(apart, parents))
    assert np.square(drawn - shares).sum() < 0.95 * np.square(counted - shares).sum()


@given(
    st.lists(st.integers(0, 10**6), min_size=3, max_size=3).filter(any),
    st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda shares: sum(shares) > 1e-3),
    st.floats(1, 1e5),
)
def test_drawn_rates_sum_to_one_and_lie_between_what_was_seen_and_the_parent(
    counts: list[int], shares: list[float], pull: float
) -> None:
    seen = np.array(counts, dtype=float)
    parent = np.array(shares) / sum(shares)
    drawn, observed = shrunk(seen, parent, pull), seen / seen.sum()
    assert drawn.sum() == pytest.approx(1.0, abs=1e-9)
    assert (drawn >= np.minimum(observed, parent) - 1e-12).all()
    assert (drawn <= np.maximum(observed, parent) + 1e-12).all()


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.sampled_from(Outcome)), min_size=1),
    st.sampled_from(["web", "app", "elsewhere"]),
    st.sampled_from(["shoes", "hats", "rare", ""]),
)
def test_any_log_gives_rates_that_sum_to_one(
    rows: list[tuple[int, int, Outcome]], platform: str, category: str
) -> None:
    found = base_rates(exposures(*((*row, 60) for row in rows)), CATALOGUE, ("web", "app"))
    told = found.of(platform, category)
    assert sum(told) == pytest.approx(1.0, abs=1e-9)
    assert all(0 <= one <= 1 for one in told)
    assert BaseRates.model_validate_json(found.model_dump_json()) == found


def test_rates_that_are_no_shares_are_refused() -> None:
    with pytest.raises(ValidationError, match="sum to 1"):
        PlatformRates(exposures=1, rates=(0.5, 0.4, 0.2), categories={})
    with pytest.raises(ValidationError):
        PlatformRates(
            exposures=1, rates=(1, 0, 0), categories={str(n): (1, 0, 0) for n in range(1001)}
        )

"""Base rates of a log: counts of outcomes, drawn towards those of more exposures.

Empirical Bayes with Dirichlet priors: the shares p of a child are Dirichlet(s m) around its
parent's m, so that of n exposures with counts c the mean is (c + s m) / (n + s). The strength s is
the one under which the counts of all children together are most likely (Minka, Estimating a
Dirichlet distribution, 2000).
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.special import gammaln

from shopcast_build.learning.catalogue import Catalogue
from shopcast_domain.base_rates import (
    MAX_CATEGORIES,
    MAX_CATEGORY_CHARS,
    BaseRates,
    PlatformRates,
)
from shopcast_domain.events import Outcome
from shopcast_domain.features import Floats

MIN_EXPOSURES = 50
"""Below which a category has no rates of its own."""
_STRENGTHS = np.geomspace(1, 1e5, 101)


def base_rates(
    exposures: pl.DataFrame, catalogue: Catalogue, platforms: Sequence[str]
) -> BaseRates:
    """exposures: of the training, one or more; columns platform, item (codes), time, outcome.
    platforms: names by code."""
    platform, item, outcome = (
        exposures[name].cast(pl.Int64).to_numpy() for name in ("platform", "item", "outcome")
    )
    at_s = exposures["time"].dt.epoch("us").to_numpy() / 1e6
    category = catalogue.category_at(item, at_s)
    names = len(catalogue.categories)
    counts = np.zeros((len(platforms), names + 1, len(Outcome)))  # the last: without a category
    np.add.at(counts, (platform, category, outcome), 1)  # MISSING is -1
    of_platform = counts.sum(axis=1)
    overall = of_platform.sum(axis=0) / len(exposures)
    platform_strength = strength(of_platform, np.broadcast_to(overall, of_platform.shape))
    rates = shrunk(of_platform, overall, platform_strength)
    named = counts[:, :names]
    parents = np.broadcast_to(rates[:, None], named.shape)
    category_strength = strength(named, parents)
    finer = shrunk(named, parents, category_strength)

    def chosen(code: int) -> dict[str, tuple[float, ...]]:
        """The categories of a platform with most exposures, by name."""
        seen = named[code].sum(axis=1)
        rows = [
            row
            for row in np.argsort(-seen, kind="stable").tolist()
            if seen[row] >= MIN_EXPOSURES and len(catalogue.categories[row]) <= MAX_CATEGORY_CHARS
        ][:MAX_CATEGORIES]
        return {
            catalogue.categories[row]: tuple(finer[code, row].tolist())
            for row in sorted(rows, key=catalogue.categories.__getitem__)
        }

    return BaseRates(
        exposures=len(exposures),
        rates=overall.tolist(),
        platform_strength=platform_strength,
        category_strength=category_strength,
        platforms={
            name: PlatformRates(
                exposures=int(of_platform[code].sum()),
                rates=rates[code].tolist(),
                categories=chosen(code),
            )
            for code, name in enumerate(platforms)
        },
    )


def shrunk(counts: Floats, parent: Floats, pull: float) -> Floats:
    """Means of the shares given counts (..., 3), and as many parents of which `pull` exposures
    count."""
    return (counts + pull * parent) / (counts.sum(axis=-1, keepdims=True) + pull)


def strength(counts: Floats, parents: Floats) -> float:
    """For how many exposures a parent should count. counts, parents: (..., 3).

    Children that differ no more than chance has it give the largest that is tried, 100,000.
    """
    children = counts.reshape(-1, counts.shape[-1])
    seen = children.sum(axis=1) > 0
    children, means = children[seen], parents.reshape(-1, counts.shape[-1])[seen]
    # An outcome the parent never had its child has not had either.
    never = means == 0
    total = children.sum(axis=1)

    def likelihood(pull: float) -> float:
        prior = np.where(never, 1.0, pull * means)
        terms = np.where(never, 0.0, gammaln(prior + children) - gammaln(prior))
        whole = gammaln(pull) - gammaln(pull + total)
        return float(terms.sum() + whole.sum())

    return float(max(_STRENGTHS, key=likelihood))

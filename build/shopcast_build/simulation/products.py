"""Latent products: what is sold, before any platform names or prices it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shopcast_build.simulation.vocabulary import (
    BRAND_ENDS,
    BRAND_STARTS,
    CATEGORIES,
    COLOURS,
    DEPARTMENT_OF,
    DEPARTMENTS,
    STYLES,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BRANDS_PER_DEPARTMENT = 16
SHARED_SHARE = 0.35  # of a platform's items, drawn from products that other platforms know too


@dataclass(frozen=True, slots=True)
class Products:
    """Arrays (products,). brand indexes `brand_names`, material and fit the department's lists.

    quality: -2 to 2. markup: log of the price over the category's middling price.
    appeal, fault: effects on the buy and the return logit that no word tells.
    """

    brand_names: tuple[str, ...]
    category: Ints
    brand: Ints
    quality: Ints
    material: Ints
    colour: Ints
    style: Ints
    fit: Ints
    markup: Floats
    appeal: Floats
    fault: Floats


def draw_categories(rng: np.random.Generator, n: int) -> Ints:
    """n categories: each one once while they last, then by how often they are needed."""
    weights = np.array([c.weight for c in CATEGORIES])
    drawn = rng.choice(len(CATEGORIES), size=n, p=weights / weights.sum())
    covered = min(n, len(CATEGORIES))
    drawn[:covered] = np.arange(covered)
    return drawn


def make_products(rng: np.random.Generator, category: Ints) -> Products:
    """A product for each entry of `category`, of made-up brands that keep to one department."""
    names = [(start + end).capitalize() for start in BRAND_STARTS for end in BRAND_ENDS]
    brands = BRANDS_PER_DEPARTMENT * len(DEPARTMENTS)
    chosen = rng.permutation(len(names))[:brands]
    tier = rng.choice([-1.0, 0.0, 1.0], size=brands, p=[0.35, 0.4, 0.25])

    n = len(category)
    department = np.array(DEPARTMENT_OF)[category]
    materials = np.array([len(d.materials) for d in DEPARTMENTS])[department]
    fits = np.array([len(d.fits) for d in DEPARTMENTS])[department]
    brand = department * BRANDS_PER_DEPARTMENT + rng.integers(BRANDS_PER_DEPARTMENT, size=n)
    quality = np.clip(np.rint(rng.normal(0.7 * tier[brand], 1.1)), -2, 2)
    return Products(
        brand_names=tuple(names[i] for i in chosen),
        category=category,
        brand=brand,
        quality=quality.astype(np.int64),
        material=rng.integers(materials),
        colour=rng.integers(len(COLOURS), size=n),
        style=rng.integers(len(STYLES), size=n),
        fit=rng.integers(fits),
        markup=0.2 * quality + 0.25 * tier[brand] + rng.normal(0, 0.25, n),
        appeal=rng.normal(0, 0.4, n),
        fault=rng.normal(0, 0.4, n),
    )


def assort(
    rng: np.random.Generator, platforms: int, items_per_platform: int
) -> tuple[Products, Ints, Ints]:
    """Products, and which platform sells which of them.

    Returns the products, and product and platform of each item, (items,), sorted by platform,
    then category. Every platform has every category and no product twice.
    """
    shared = min(int(SHARED_SHARE * items_per_platform), items_per_platform - len(CATEGORIES))
    own = items_per_platform - shared
    pool = 2 * shared  # so a shared product is on half of the platforms
    category = [draw_categories(rng, n) for n in (pool, *[own] * platforms)]
    products = make_products(rng, np.concatenate(category))
    product = np.concatenate(
        [
            np.concatenate([rng.permutation(pool)[:shared], np.arange(own) + pool + at * own])
            for at in range(platforms)
        ]
    )
    platform = np.repeat(np.arange(platforms), items_per_platform)
    order = np.lexsort((product, products.category[product], platform))
    return products, product[order], platform[order]

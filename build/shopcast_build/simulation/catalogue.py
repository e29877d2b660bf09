"""What is for sale: the items under which platforms name, price and launch products."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from shopcast_build.simulation.platforms import PLATFORMS
from shopcast_build.simulation.products import Floats, Ints, Products, assort
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.vocabulary import (
    CATEGORIES,
    COLOURS,
    DEPARTMENT_OF,
    DEPARTMENTS,
    QUALITIES,
    STYLES,
)

LAUNCH_SHARE = 0.13  # of items, launched during the period
DAY_S = 86_400
_CATALOGUE_STREAM = 1


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items of all platforms, sorted by platform, then category; arrays are (items,).

    look: (items, 3), where the words lie on the axes natural, bold and modern. quality: -2 to 2.
    price_position: log of the price over its category's middling price. disappoints: what
    material and fit promise badly, 0 to 2. appeal, fault: as of the product. launch_s: seconds
    after the start of the period. popularity: running sum of weights.
    first, last: (platforms, categories), half-open ranges of items; `first` is always for sale.
    table: one row an item, with its names and its truth.
    """

    platform: Ints
    category: Ints
    look: Floats
    quality: Floats
    price_position: Floats
    disappoints: Floats
    appeal: Floats
    fault: Floats
    launch_s: Floats
    popularity: Floats
    first: Ints
    last: Ints
    table: pl.DataFrame


def build_catalogue(settings: MarketSettings) -> Catalogue:
    """The catalogue of a market; depends on the settings' seed, platforms, items and days."""
    rng = np.random.default_rng([settings.seed, _CATALOGUE_STREAM])
    products, product, platform = assort(rng, settings.platforms, settings.items_per_platform)
    n, category = len(product), products.category[product]

    base = np.array([c.price for c in CATEGORIES])[category]
    level = np.array([p.price_level for p in PLATFORMS])[platform]
    asked = base * level * np.exp(products.markup[product] + rng.normal(0, 0.05, n))
    price = np.maximum(np.rint(asked), 1.0) - 0.01

    group = platform * len(CATEGORIES) + category
    groups = np.arange(settings.platforms * len(CATEGORIES))
    first, last = np.searchsorted(group, groups), np.searchsorted(group, groups, side="right")
    launches = rng.random(n) < LAUNCH_SHARE
    launches[first] = False
    launch_day = np.floor(rng.uniform(0.1, 0.95, n) * settings.days)
    launch_s = np.where(launches, launch_day * DAY_S, 0.0)
    weight = rng.lognormal(0, 1.2, n)

    names, look, disappoints = _name(products, product, platform, rng.permutation(10 * n)[:n])
    quality = products.quality[product].astype(np.float64)
    appeal, fault = products.appeal[product], products.fault[product]
    truth = {
        "price": price, "product": product, "quality": quality, "disappoints": disappoints,
        "appeal": appeal, "fault": fault, "launch_s": launch_s, "popularity": weight,
    }  # fmt: skip
    shape = (settings.platforms, len(CATEGORIES))
    return Catalogue(
        platform=platform,
        category=category,
        look=look,
        quality=quality,
        price_position=np.log(price / base),
        disappoints=disappoints,
        appeal=appeal,
        fault=fault,
        launch_s=launch_s,
        popularity=np.cumsum(weight),
        first=first.reshape(shape),
        last=last.reshape(shape),
        table=names.with_columns(pl.Series(column, truth[column]) for column in truth),
    )


def _name(
    products: Products, product: Ints, platform: Ints, number: Ints
) -> tuple[pl.DataFrame, Floats, Floats]:
    """Names of the items in their platform's manner, with `look` and `disappoints` of the words.

    number: (items,), distinct; what the item ids are made of.
    """
    rows: list[dict[str, str]] = []
    look = np.empty((len(product), 3))
    disappoints = np.empty(len(product))
    for item, (made, at) in enumerate(zip(product.tolist(), platform.tolist(), strict=True)):
        seller = PLATFORMS[at]
        category = int(products.category[made])
        department = DEPARTMENTS[DEPARTMENT_OF[category]]
        nouns = CATEGORIES[category].nouns
        material = department.materials[products.material[made]]
        colour = COLOURS[products.colour[made]]
        style = STYLES[products.style[made]]
        fit = department.fits[products.fit[made]]
        look[item] = material.axis, colour.axis, style.axis
        disappoints[item] = material.disappoints + fit.disappoints
        brand = products.brand_names[products.brand[made]]
        title = seller.write_title(
            brand=brand,
            quality=QUALITIES[products.quality[made] + 2][seller.wording],
            material=material.words[seller.wording],
            colour=colour.words[seller.wording],
            style=style.words[seller.wording],
            fit=fit.words[seller.wording],
            noun=nouns[seller.wording],
        )
        rows.append(
            {
                "platform": seller.name,
                "item_id": seller.item_ids.format(int(number[item])),
                "title": title,
                "brand": brand,
                "category": seller.write_label(
                    department.names[seller.wording], nouns[seller.wording]
                ),
                "need": nouns[0],
                "department": department.names[0],
                "material": material.words[0],
                "colour": colour.words[0],
                "style": style.words[0],
                "fit": fit.words[0],
            }
        )
    return pl.DataFrame(rows), look, disappoints

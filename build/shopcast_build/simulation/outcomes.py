"""The truth about buying and returning: logits of what comes of an exposure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shopcast_build.simulation.catalogue import Catalogue
from shopcast_build.simulation.people import TASTE_SD, Accounts
from shopcast_build.simulation.products import Floats, Ints
from shopcast_build.simulation.vocabulary import DEPARTMENT_OF, DEPARTMENTS

BUY_BASE = -2.9
RETURN_BASE = -2.4
_RETURNS_OF_CATEGORY = np.array([DEPARTMENTS[d].returns for d in DEPARTMENT_OF])


def sigmoid(logit: Floats) -> Floats:
    """The probability of a logit."""
    return 1.0 / (1.0 + np.exp(-logit))


@dataclass(frozen=True, slots=True)
class Meetings:
    """Accounts meeting items in pursuit of a need; arrays are (n,).

    wish: (n, 3) liked look and price_wish: log price level, as the need asks for them.
    needed: the item is of the need's category. earlier: meetings of the need before this one, on
    any platform. seen, carted: whether the item was, earlier in the need.
    """

    account: Ints
    item: Ints
    wish: Floats
    price_wish: Floats
    needed: NDArray[np.bool_]
    earlier: int
    seen: NDArray[np.bool_]
    carted: NDArray[np.bool_]


def buy_logit(catalogue: Catalogue, accounts: Accounts, met: Meetings) -> Floats:
    """Logit of buying the item met: (n,)."""
    item = met.item
    taste = accounts.taste[met.account, catalogue.category[item]] / TASTE_SD
    gap = catalogue.price_position[item] - met.price_wish
    return (
        BUY_BASE
        + accounts.keenness[met.account]
        + 0.5 * np.clip(taste, -2.0, 2.0)
        + 0.9 * (met.wish * catalogue.look[item]).sum(axis=1)
        + 0.45 * catalogue.quality[item]
        - 2.5 * np.maximum(gap, 0.0)
        - 0.7 * np.maximum(-gap, 0.0)
        + catalogue.appeal[item]
        - 1.2 * ~met.needed
        + 0.45 * min(met.earlier, 4)
        + 0.9 * met.seen
        + 1.6 * met.carted
    )


def cart_logit(logit: Floats) -> Floats:
    """Logit of putting an item into the cart without buying it yet, from the buy logit."""
    return 0.7 * logit - 0.3


def return_logit(catalogue: Catalogue, accounts: Accounts, met: Meetings) -> Floats:
    """Logit of sending the item met back, once bought: (n,)."""
    item = met.item
    gap = catalogue.price_position[item] - met.price_wish
    value = 0.4 * catalogue.quality[item] - catalogue.price_position[item]
    return (
        RETURN_BASE
        + accounts.return_proneness[met.account]
        + 1.3 * catalogue.disappoints[item]
        + _RETURNS_OF_CATEGORY[catalogue.category[item]]
        + 1.5 * np.maximum(gap, 0.0)
        - 0.6 * value
        + catalogue.fault[item]
    )

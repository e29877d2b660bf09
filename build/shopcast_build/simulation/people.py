"""Who shops: the people of one block, their accounts and their traits."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shopcast_build.simulation.platforms import PLATFORMS
from shopcast_build.simulation.products import Floats, Ints
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.vocabulary import CATEGORIES, DEPARTMENT_OF, DEPARTMENTS

BLOCK_PEOPLE = 2000
_PEOPLE_STREAM = 2

ACTIVITY_SD = 0.9
RETURN_SD = 1.3
BUY_SD = 1.0
BUDGET_SD = 0.45
TASTE_SD = 2.2
HABIT_H, HABIT_SD_H = 18.0, 4.0
_TRAITS = len(DEPARTMENTS) + len(CATEGORIES) + 3 + 5


@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts of one block, by person, then platform; arrays are (accounts,).

    person: index within the block. of: (people, platforms), index of the account or -1.
    user_id: what the platform calls the account. activity: mean 1.
    taste: (accounts, categories) logits. wish: (accounts, 3), what look is liked.
    budget: log of the price level. habit_h: hour of day, UTC. keenness, return_proneness: effects
    on the buy and the return logit. cools_everywhere: a buy on one platform settles the need on
    all.
    """

    person: Ints
    platform: Ints
    of: Ints
    user_id: list[str]
    activity: Floats
    taste: Floats
    wish: Floats
    budget: Floats
    habit_h: Floats
    keenness: Floats
    return_proneness: Floats
    cools_everywhere: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.person)


def account_shares(platforms: int) -> Floats:
    """Shares of people with 1, 2, ... accounts: (platforms,). Beyond two, it is all platforms."""
    shares = np.zeros(platforms)
    shares[0] = 0.35
    if platforms > 1:
        shares[1] = 0.35
    if platforms > 2:
        shares[-1] += 0.30
    return shares / shares.sum()


def user_id(seed: int, platform: str, person: int) -> str:
    """What a platform calls a person; nothing in it tells who they are elsewhere."""
    return hashlib.blake2b(f"{seed}/{platform}/{person}".encode(), digest_size=9).hexdigest()


def open_accounts(settings: MarketSettings, block: int, people: int) -> Accounts:
    """The accounts of a block of so many people.

    Every trait of an account is sqrt(e) * the person's + sqrt(1 - e) * its own, both standard
    normal, with e the cross-platform effect.
    """
    rng = np.random.default_rng([settings.seed, _PEOPLE_STREAM, block])
    first_person = block * BLOCK_PEOPLE
    platforms = settings.platforms
    effect = settings.cross_platform_effect

    wanted = 1 + rng.choice(platforms, size=people, p=account_shares(platforms))
    rank = rng.random((people, platforms)).argsort(axis=1).argsort(axis=1)
    has = rank < wanted[:, None]  # (people, platforms)
    person, platform = np.nonzero(has)
    n = len(person)
    of = np.full((people, platforms), -1)
    of[person, platform] = np.arange(n)

    own = rng.standard_normal((n, _TRAITS))
    shared = rng.standard_normal((people, _TRAITS))[person]
    traits = np.sqrt(effect) * shared + np.sqrt(1 - effect) * own  # (n, _TRAITS)
    d, c = len(DEPARTMENTS), len(CATEGORIES)
    by_department = traits[:, :d][:, np.array(DEPARTMENT_OF)]
    by_category = traits[:, d : d + c]
    budget, returning, keenness, habit, activity = traits[:, d + c + 3 :].T
    return Accounts(
        person=person,
        platform=platform,
        of=of,
        user_id=[
            user_id(settings.seed, PLATFORMS[at].name, first_person + who)
            for who, at in zip(person.tolist(), platform.tolist(), strict=True)
        ],
        activity=np.exp(ACTIVITY_SD * activity - ACTIVITY_SD**2 / 2),
        taste=TASTE_SD * (np.sqrt(0.3) * by_department + np.sqrt(0.7) * by_category),
        wish=traits[:, d + c : d + c + 3],
        budget=BUDGET_SD * budget,
        habit_h=HABIT_H + HABIT_SD_H * habit,
        keenness=BUY_SD * keenness,
        return_proneness=RETURN_SD * returning,
        cools_everywhere=(rng.random(people) < effect)[person],
    )

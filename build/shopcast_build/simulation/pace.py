"""How many needs arise, so that people leave as many events as the settings ask for."""

import numpy as np

from shopcast_build.simulation.catalogue import DAY_S, Catalogue
from shopcast_build.simulation.people import account_shares, open_accounts
from shopcast_build.simulation.settings import MarketSettings
from shopcast_build.simulation.shopping import Exposures, shop

_PILOT_PEOPLE = 1000
_PILOT_BLOCK = 2**40  # a random stream that no block of the market reaches
_EVENTS_PER_NEED = 4.0  # where the search starts
_STEPS = 4


def count_events(settings: MarketSettings, exposures: Exposures) -> int:
    """Events of the exposures that fall within the period."""
    end_s = settings.days * DAY_S
    following = (
        (exposures.carted, exposures.cart_s),
        (exposures.bought, exposures.buy_s),
        (exposures.sent_back, exposures.return_s),
    )
    return len(exposures.item) + sum(int((did & (at < end_s)).sum()) for did, at in following)


def needs_per_account(settings: MarketSettings, catalogue: Catalogue) -> float:
    """Needs that arise on an account of mean activity over the period.

    Buying, cooling down and the period's end cut needs short in ways that no formula gives, so a
    pilot of other people tells. The mean over people comes out within some percent.
    """
    accounts = open_accounts(settings, _PILOT_BLOCK, _PILOT_PEOPLE)
    per_person = float(account_shares(settings.platforms) @ np.arange(1, settings.platforms + 1))
    per_account = settings.events_per_person / per_person
    target = per_account * float(accounts.activity.sum())
    needs = per_account / _EVENTS_PER_NEED
    for _ in range(_STEPS):
        exposures = shop(settings, catalogue, accounts, _PILOT_BLOCK, needs)
        needs *= min(target / max(count_events(settings, exposures), 1), 2.0)
    return needs

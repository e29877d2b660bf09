"""Which identifiers accounts register: mostly the person's own, sometimes none or another's."""

import hashlib
from dataclasses import dataclass

import numpy as np

from shopcast_build.simulation.people import BLOCK_PEOPLE, Accounts
from shopcast_build.simulation.settings import MarketSettings

_LINK_STREAM = 3
PHONE_SHARE = 0.4  # of the accounts that give their person's own e-mail


@dataclass(frozen=True, slots=True)
class Links:
    """Identifiers of a block's accounts.

    account, kind, digest: one entry a registered identifier; kind is email or phone, digest the
    SHA-256 of the address in hex. truth: for each account own, wrong, unshared or none.
    """

    account: list[int]
    kind: list[str]
    digest: list[str]
    truth: list[str]


def _digest(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()


def register(settings: MarketSettings, block: int, accounts: Accounts) -> Links:
    """The identifiers a block's accounts register; the addresses themselves are made up."""
    rng = np.random.default_rng([settings.seed, _LINK_STREAM, block])
    n = len(accounts)
    person = block * BLOCK_PEOPLE + accounts.person
    fate = rng.random(n)
    other = (person + rng.integers(1, settings.people, n)) % settings.people
    missing_below = settings.wrong_links + settings.missing_links
    truth = np.select(
        [
            fate < settings.wrong_links,
            fate < settings.wrong_links + settings.missing_links / 2,
            fate < missing_below,
        ],
        ["wrong", "unshared", "none"],
        default="own",
    ).tolist()
    phones = (rng.random(n) < PHONE_SHARE).tolist()

    links = Links(account=[], kind=[], digest=[], truth=truth)

    def add(account: int, kind: str, address: str) -> None:
        links.account.append(account)
        links.kind.append(kind)
        links.digest.append(_digest(address))

    for account, (who, whose) in enumerate(zip(person.tolist(), other.tolist(), strict=True)):
        match truth[account]:
            case "own":
                add(account, "email", f"shopper-{settings.seed}-{who}@shop.invalid")
                if phones[account]:
                    add(account, "phone", f"+999 {settings.seed} {who:09d}")
            case "wrong":
                add(account, "email", f"shopper-{settings.seed}-{whose}@shop.invalid")
            case "unshared":
                add(account, "email", f"{accounts.user_id[account]}@alias.invalid")
    return links

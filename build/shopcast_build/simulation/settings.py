"""What a simulated market is made of: the one input of a simulation."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal, get_args

from shopcast_build.simulation.platforms import PLATFORMS

Format = Literal["csv", "parquet"]
MIN_PEOPLE = 10
FIRST_DAY = date(2000, 1, 1)
MIN_ITEMS = 50  # every category keeps at least one item on every platform


@dataclass(frozen=True, slots=True)
class MarketSettings:
    """Size and truth of a market. The same settings give the same bytes.

    platforms: how many of the eight known ones. days: length of the period from `start`, UTC.
    events_per_person: mean over people; how often one person shops is heavy-tailed.
    cross_platform_effect: share of a person's traits and needs, 0 to 1, that their accounts have
    in common; at 0 an account tells nothing about the same person's other accounts.
    missing_links, wrong_links: shares of accounts, 0 to below 1, whose identifier is absent or
    used nowhere else, or belongs to another person.
    Raises ValueError with one sentence naming the setting.
    """

    people: int = 2000
    platforms: int = 3
    items_per_platform: int = 800
    days: int = 180
    start: date = date(2026, 1, 1)
    events_per_person: float = 30.0
    cross_platform_effect: float = 0.8
    missing_links: float = 0.1
    wrong_links: float = 0.01
    seed: int = 7
    format: Format = "csv"

    @property
    def end(self) -> date:
        """The first day after the period."""
        return self.start + timedelta(days=self.days)

    def __post_init__(self) -> None:
        checks = (
            (self.people >= MIN_PEOPLE, f"people must be at least {MIN_PEOPLE}"),
            (
                1 <= self.platforms <= len(PLATFORMS),
                f"platforms must be from 1 to {len(PLATFORMS)}",
            ),
            (
                self.items_per_platform >= MIN_ITEMS,
                f"items_per_platform must be at least {MIN_ITEMS}",
            ),
            (1 <= self.days <= 3650, "days must be from 1 to 3650"),
            (
                self.start >= FIRST_DAY,
                f"start must be {FIRST_DAY} or later, as no build takes earlier events",
            ),
            (
                0 < self.events_per_person <= 500,
                "events_per_person must be above 0 and at most 500",
            ),
            (0 <= self.cross_platform_effect <= 1, "cross_platform_effect must be from 0 to 1"),
            (0 <= self.missing_links < 1, "missing_links must be at least 0 and below 1"),
            (0 <= self.wrong_links < 1, "wrong_links must be at least 0 and below 1"),
            (
                self.missing_links + self.wrong_links <= 1,
                "missing_links and wrong_links must not exceed 1 together",
            ),
            (0 <= self.seed < 2**63, "seed must be at least 0 and below 2**63"),
            (self.format in get_args(Format), "format must be csv or parquet"),
        )
        for holds, problem in checks:
            if not holds:
                raise ValueError(f"{problem}.")

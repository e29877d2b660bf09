"""Estimates with intervals, and the rule of what may be claimed from them.

The interval of a metric or a difference is the middle 95 % over resampled people of its mean over
seeds, widened for the chance of training: its distances from the mean are scaled until their
variance is that of the people plus the variance over seeds divided by the number of seeds.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from shopcast_domain.features import Floats

_DIGITS = 6
LOWER_IS_BETTER = frozenset({"log_loss", "ece", "ece_beyond_chance"})


class Estimate(BaseModel):
    """A value with its 95 % interval. seeds: the value of each training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @property
    def spread(self) -> float:
        """Standard deviation over trainings; 0 for a single one."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else 0.0


def estimate(draws: Sequence[Floats]) -> Estimate | None:
    """draws: one array per seed, its first number the value and the others those of the draws.

    None where the sample has no value.
    """
    every = np.stack(draws)
    seeds = every[:, 0]
    mean = every.mean(axis=0)
    value, drawn = float(mean[0]), mean[1:]
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(value) or not drawn.size:
        return None
    low, high = np.quantile(drawn, (0.025, 0.975))
    by_people = drawn.var()
    by_seed = seeds.var(ddof=1) / len(seeds) if len(seeds) > 1 else 0.0
    wider = np.sqrt(1.0 + by_seed / by_people) if by_people > 0 else 1.0
    return Estimate(
        value=_rounded(value),
        low=_rounded(value + (low - value) * wider),
        high=_rounded(value + (high - value) * wider),
        seeds=tuple(_rounded(seed) for seed in seeds),
    )


def _rounded(number: float) -> float:
    return round(float(number), _DIGITS)


def gain(metric: str, of: Sequence[Floats], against: Sequence[Floats]) -> Estimate | None:
    """How much better `of` is than `against` by a metric; above zero is better, whatever its sense.

    Both are draws per seed of the same people; seeds are compared one by one, and one training is
    compared with each of several.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    count = max(len(of), len(against))
    of, against = (list(side) * count if len(side) == 1 else list(side) for side in (of, against))
    return estimate([sign * (a - b) for a, b in zip(of, against, strict=True)])


def is_gain(difference: Estimate) -> bool:
    """Whether a difference may be claimed: its interval is above zero, and so is every seed."""
    return difference.low > 0 and all(seed > 0 for seed in difference.seeds)


def is_loss(difference: Estimate) -> bool:
    """The same in the other direction."""
    return difference.high < 0 and all(seed < 0 for seed in difference.seeds)

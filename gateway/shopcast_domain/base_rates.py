"""How often what comes of an exposure: what can be said without a model."""

import math
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_CATEGORIES = 1_000
"""Of one platform."""
MAX_CATEGORY_CHARS = 200

Share = Annotated[float, Field(ge=0, le=1)]


def _whole(rates: tuple[float, float, float]) -> tuple[float, float, float]:
    if not math.isclose(sum(rates), 1.0, abs_tol=1e-6):
        raise ValueError("rates of outcomes must sum to 1")
    return rates


Rates = Annotated[tuple[Share, Share, Share], AfterValidator(_whole)]
"""Of view, buy and return, the indices of Outcome."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlatformRates(_Part):
    """Of one platform. categories: by match_name, those with exposures enough to tell."""

    exposures: Annotated[int, Field(ge=0)]
    rates: Rates
    categories: dict[str, Rates] = Field(max_length=MAX_CATEGORIES)


class BaseRates(_Part):
    """Shares of the outcomes among the training exposures.

    A platform's are drawn towards `rates`, a category's towards its platform's, the more the fewer
    exposures there are: as if so many more had been seen with the rates of the parent.
    """

    exposures: Annotated[int, Field(ge=1)]
    rates: Rates
    platform_strength: Annotated[float, Field(gt=0)]
    category_strength: Annotated[float, Field(gt=0)]
    platforms: dict[str, PlatformRates]

    def of(self, platform: str, category: str) -> tuple[float, float, float]:
        """The narrowest there are. category: by match_name, '' where unknown."""
        here = self.platforms.get(platform)
        if here is None:
            return self.rates
        return here.categories.get(category, here.rates)

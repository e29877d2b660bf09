"""The library's settings, with probabilities that learning cannot drive to 0 or 1.

Where one person's accounts always agree, expectation maximisation comes so close that floating
point knows no difference, and the library ends with an error. It has no setting against that, so
the objects that hold what it learns are given bounds.
"""

from typing import Any

from splink import SettingsCreator
from splink.internals.comparison_level import ComparisonLevel
from splink.internals.settings import CoreModelSettings, Settings

# Forty bits of evidence: more than any doubt, and less than what floating point cannot hold.
_LEAST = 1e-12


class BoundedSettings(SettingsCreator):
    """As SettingsCreator; m of each level and the share of matches stay between 0 and 1."""

    def get_settings(self, sql_dialect_str: str) -> Settings:
        """The settings as the library's models hold them."""
        settings = super().get_settings(sql_dialect_str)
        settings.core_model_settings.__class__ = _Model
        for comparison in settings.comparisons:
            for level in comparison.comparison_levels:
                level.__class__ = _Level
        return settings


class _Model(CoreModelSettings):
    def __setattr__(self, name: str, value: Any) -> None:
        matches = name == "probability_two_random_records_match"
        super().__setattr__(name, _bounded(value) if matches else value)


class _Level(ComparisonLevel):
    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _bounded(value) if name == "m_probability" else value)


def _bounded(value: Any) -> Any:
    """A probability inside the bounds; what is none, as it is."""
    return min(max(value, _LEAST), 1 - _LEAST) if isinstance(value, float) else value

"""How alike two accounts are, attribute by attribute: levels from equal to unlike.

The levels are the library's usual ones and fit no data set in particular. Attributes that say the
same thing again share one comparison, because evidence is added up as if it were independent.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import splink.comparison_level_library as levels
from splink.comparison_library import CustomComparison

if TYPE_CHECKING:
    from splink.internals.comparison_level_creator import ComparisonLevelCreator as Level

_SIMILAR = (0.92, 0.88, 0.7)  # Jaro-Winkler
_SIMILAR_STREETS = (0.92, 0.8)
_SWAPPED = (
    "given_name_l <> given_name_r"
    f" and jaro_winkler_similarity(given_name_l, surname_r) >= {_SIMILAR[0]}"
    f" and jaro_winkler_similarity(surname_l, given_name_r) >= {_SIMILAR[0]}"
)
_DAY_AND_MONTH_SWAPPED = (
    "left(date_of_birth_l, 4) = left(date_of_birth_r, 4)"
    " and substr(date_of_birth_l, 5, 2) = substr(date_of_birth_r, 7, 2)"
    " and substr(date_of_birth_l, 7, 2) = substr(date_of_birth_r, 5, 2)"
)
_PLACE = ("postcode", "city", "state")


def make_comparisons(known: Collection[str]) -> dict[str, CustomComparison]:
    """Comparisons by name, of the attributes that are known."""
    made = {}
    for name in ("given_name", "surname"):
        if name in known:
            made[name] = _name(name, swaps={"given_name", "surname"} <= set(known))
    if "date_of_birth" in known:
        made["date_of_birth"] = _comparison(
            "date_of_birth",
            levels.Or(
                levels.DamerauLevenshteinLevel("date_of_birth", 1),
                levels.CustomLevel(_DAY_AND_MONTH_SWAPPED),
            ),
            levels.DamerauLevenshteinLevel("date_of_birth", 2),
        )
    if "street" in known:
        made["street"] = _comparison(
            "street", *(levels.JaroWinklerLevel("street", at) for at in _SIMILAR_STREETS)
        )
    if "street_number" in known:
        made["street_number"] = _comparison(
            "street_number", levels.DamerauLevenshteinLevel("street_number", 1)
        )
    if set(_PLACE) & set(known):
        made["place"] = _place([name for name in _PLACE if name in known])
    if "email" in known:
        made["email"] = _comparison(
            "email",
            levels.CustomLevel("split_part(email_l, '@', 1) = split_part(email_r, '@', 1)"),
            levels.DamerauLevenshteinLevel("email", 2),
        )
    if "phone" in known:
        made["phone"] = _comparison("phone", levels.DamerauLevenshteinLevel("phone", 1))
    return made


def household(names: Collection[str]) -> str:
    """SQL: nothing that is one person's own agrees, whatever else does.

    Relatives share surname, address and often phone; names or dates of birth tell them apart. An
    e-mail counts where neither is known. A level of 2 or more is a clear agreement.
    """
    own = [f"gamma_{name}" for name in ("given_name", "date_of_birth") if name in names]
    agrees = [f"{gamma} >= 2" for gamma in own]
    if "email" in names:
        agrees.append(" and ".join([*(f"{gamma} = -1" for gamma in own), "gamma_email >= 2"]))
    return f"not ({' or '.join(f'({one})' for one in agrees)})"


def _comparison(column: str, *similar: "Level") -> CustomComparison:
    return CustomComparison(
        output_column_name=column,
        comparison_levels=[
            levels.NullLevel(column),
            _exact(column),
            *similar,
            levels.ElseLevel(),
        ],
    )


def _name(column: str, *, swaps: bool) -> CustomComparison:
    """A swap counts once: as evidence of the given name, and nothing known of the surname."""
    nothing: Level = levels.NullLevel(column)
    swapped = []
    if swaps and column == "surname":
        nothing = levels.Or(nothing, levels.CustomLevel(_SWAPPED)).configure(is_null_level=True)
    elif swaps:
        swapped = [levels.CustomLevel(_SWAPPED)]
    return CustomComparison(
        output_column_name=column,
        comparison_levels=[
            nothing,
            _exact(column),
            *swapped,
            *(levels.JaroWinklerLevel(column, at) for at in _SIMILAR),
            levels.ElseLevel(),
        ],
    )


def _place(known: list[str]) -> CustomComparison:
    """Postcode, city and state are one piece of evidence: one nearly follows from another."""
    typo = levels.DamerauLevenshteinLevel("postcode", 1)
    alike = levels.JaroWinklerLevel("city", _SIMILAR[0])
    found: list[Level] = [levels.And(*(levels.NullLevel(name) for name in known))]
    if {"postcode", "city"} <= set(known):
        both = levels.And(levels.ExactMatchLevel("postcode"), levels.ExactMatchLevel("city"))
        found.append(_with_frequency(both, "postcode"))
    found += [_exact(name) for name in known if name != "state"]
    if {"postcode", "city"} <= set(known):
        found.append(levels.And(typo, alike))
    found += [level for name, level in (("postcode", typo), ("city", alike)) if name in known]
    if "state" in known:
        found.append(_exact("state"))
    return CustomComparison(
        output_column_name="place", comparison_levels=[*found, levels.ElseLevel()]
    )


def _exact(column: str) -> "Level":
    """Equal; the rarer the value, the more that says."""
    return _with_frequency(levels.ExactMatchLevel(column), column)


def _with_frequency(level: "Level", column: str) -> "Level":
    return level.configure(tf_adjustment_column=column)

"""Which pairs of accounts are looked at: those that share a key."""

from collections.abc import Collection

import polars as pl

from shopcast_build.data.coding import SEPARATOR

MAX_BLOCK = 1_000
"""Accounts that may share a key: beyond, it tells too little for the pairs it costs."""

# Each key survives errors in what the others are made of.
_KEYS = (
    ("email",),
    ("phone",),
    ("both_names",),
    ("date_of_birth", "given_initial"),
    ("date_of_birth", "surname_initial"),
    ("date_of_birth", "postcode"),
    ("surname", "postcode"),
    ("given_name", "postcode"),
    ("surname", "street"),
    ("given_name", "street"),
    ("street", "street_number", "postcode"),
    ("surname", "given_initial", "city"),
    ("given_name", "surname_initial", "city"),
)

# To learn how often attributes of one person agree: on which accounts agree while the others are
# studied. The first ones hold for one person, the later ones rather for a household.
_LESSONS = (
    ("date_of_birth",),
    ("given_name", "surname"),
    ("email",),
    ("phone",),
    ("surname", "postcode"),
    ("given_name", "postcode"),
    ("surname", "street"),
    ("given_name", "street"),
    ("surname", "city"),
    ("given_name", "city"),
    ("postcode",),
    ("street",),
    ("city",),
)

# Agreeing on one of these, two accounts are almost certainly one person's.
_SURE = (
    ("email",),
    ("given_name", "surname", "date_of_birth"),
    ("given_name", "surname", "postcode"),
    ("given_name", "surname", "street"),
    ("given_name", "surname", "phone"),
    ("surname", "date_of_birth", "postcode"),
    ("given_name", "date_of_birth", "postcode"),
    ("date_of_birth", "phone"),
    ("date_of_birth", "street"),
    ("given_name", "phone"),
    ("given_name", "surname", "city"),
)


def block_keys(values: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Columns block_0, block_1, ... of UInt64 keys, null where unknown or shared by too many.

    Returns them with the number of keys that more than MAX_BLOCK accounts share.
    """
    parts = _parts(values)
    keys = parts.select(
        pl.concat_str(names, separator=SEPARATOR).alias(f"block_{n}")
        for n, names in enumerate(names for names in _KEYS if set(names) <= set(parts.columns))
    )
    crowded = sum(
        keys[name].drop_nulls().value_counts().filter(pl.col("count") > MAX_BLOCK).height
        for name in keys.columns
    )
    kept = keys.select(
        pl.when(pl.len().over(name) <= MAX_BLOCK).then(pl.col(name).hash()).alias(name)
        for name in keys.columns
    )
    return kept, crowded


def lessons(known: Collection[str]) -> list[tuple[str, ...]]:
    """Columns to agree on while the model learns of the others, the best lessons first."""
    return [names for names in _LESSONS if set(names) <= set(known)]


def sure_rules(known: Collection[str]) -> list[tuple[str, ...]]:
    """Columns whose agreement is almost certain to mean one person."""
    return [names for names in _SURE if set(names) <= set(known)]


def _parts(values: pl.DataFrame) -> pl.DataFrame:
    """The values, and what keys are made of beside them."""
    made = {
        f"{name}_initial".replace("given_name", "given"): pl.col(name).str.head(1)
        for name in ("given_name", "surname")
        if name in values.columns
    }
    if {"given_name", "surname"} <= set(values.columns):
        # In one order whichever is which, as they come swapped.
        made["both_names"] = (
            pl.concat_list("given_name", "surname")
            .list.sort()
            .list.join(SEPARATOR, ignore_nulls=False)
        )
    return values.with_columns(**made)

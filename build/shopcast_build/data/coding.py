"""Texts as small numbers, so that a log of any size fits in memory."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

SEPARATOR = "\x1f"
"""Between the platform and the rest of a text that is scoped to a platform; sorts before both."""

Codes = NDArray[np.int32]


class Interner:
    """Gives every distinct text a code, 0, 1, ..., in no particular order; nulls have none.

    The texts stay in memory: they may be personal.
    """

    def __init__(self) -> None:
        self._categories = pl.Categories.random()
        self._type = pl.Categorical(self._categories)
        # The library forgets categories that no series holds.
        self._held = pl.Series([], dtype=self._type)

    def codes(self, texts: pl.Series) -> pl.Series:
        """UInt32, null where the text is."""
        return texts.cast(self._type).to_physical()

    def ranked(self) -> "Ranked":
        """The texts so far in their own order, which no order of rows can change."""
        texts = self._categories.to_series()
        order = texts.arg_sort()
        rank = np.empty(len(texts), np.int32)
        rank[order.to_numpy()] = np.arange(len(texts), dtype=np.int32)
        return Ranked(texts.gather(order), pl.Series(rank))


@dataclass(frozen=True, slots=True)
class Ranked:
    """texts: sorted, each once. rank: Int32, from an interner's code to the place in `texts`."""

    texts: pl.Series
    rank: pl.Series

    def of(self, codes: pl.Series) -> pl.Series:
        """Int32 places of codes, null where the code is."""
        return self.rank.gather(codes).alias(codes.name)

    def scoped(self, name: str) -> pl.DataFrame:
        """Texts of the form platform, SEPARATOR, rest as columns platform and `name`, in order."""
        parts = self.texts.str.splitn(SEPARATOR, 2).struct.unnest()
        parts.columns = ["platform", name]
        return parts

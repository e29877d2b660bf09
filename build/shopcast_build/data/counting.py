"""Counts of large frames, without holding the rows of each group."""

import polars as pl


def counted(rows: pl.DataFrame, *by: str | pl.Expr) -> pl.DataFrame:
    """How many rows there are of each combination: the columns of `by`, then len."""
    return rows.lazy().group_by(*by).len().collect(engine="streaming")

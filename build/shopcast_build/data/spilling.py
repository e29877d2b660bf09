"""What is too large for memory, in files that are mapped into it as they are read.

The files lie in TMPDIR and have no name: they go with the last array or frame that reads them, or
with the process, however it ends. Where TMPDIR takes no more, DataError says so.
"""

import tempfile
from collections.abc import Iterable
from typing import IO, Any

import numpy as np
import polars as pl
from numpy.typing import DTypeLike, NDArray

from shopcast_build.data.disk import writing


def spilled(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, read-only, its content in a file."""
    with writing(), tempfile.TemporaryFile(prefix="shopcast-") as file:
        file.write(np.ascontiguousarray(array).data)
        return _mapped(file, array.dtype).reshape(array.shape)


def spilled_frame(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Frames of one schema, one below the other, their numbers in files.

    There has to be one. Columns that have nulls stay in memory, and so do those of an Enum, a byte
    a row. What a file holds is numbers: a column of texts raises TypeError.
    """
    columns: dict[str, _Column] = {}
    try:
        for part in parts:
            for series in part:
                if series.name not in columns:
                    columns[series.name] = _Column(series)
                columns[series.name].append(series)
        return pl.DataFrame([column.series() for column in columns.values()])
    finally:
        for column in columns.values():
            with writing():
                column.file.close()


class _Column:
    """One column on its way into a file."""

    def __init__(self, first: pl.Series) -> None:
        self._empty = first.clear()
        self._dtype = self._empty.to_physical().to_numpy().dtype
        if self._dtype.kind not in "iuf":
            raise TypeError(f"{first.name} is of type {first.dtype}, which is no number")
        self._known: list[pl.Series] = []
        with writing():
            self.file: IO[bytes] = tempfile.TemporaryFile(prefix="shopcast-")  # noqa: SIM115

    def append(self, series: pl.Series) -> None:
        self._known.append(series.is_not_null())
        numbers = series.to_physical().fill_null(0).to_numpy()
        with writing():
            self.file.write(np.ascontiguousarray(numbers).data)

    def series(self) -> pl.Series:
        name, dtype = self._empty.name, self._empty.dtype
        with writing():
            numbers = pl.Series(name, _mapped(self.file, self._dtype))
        typed = numbers.cat.to(dtype) if isinstance(dtype, pl.Enum) else numbers.cast(dtype)
        known = pl.concat(self._known)
        if known.all():
            return typed
        return typed.to_frame().select(pl.when(known).then(name)).to_series()


def _mapped(file: IO[bytes], dtype: DTypeLike) -> NDArray[Any]:
    """A file of numbers: (n,). The mapping keeps the file after it is closed."""
    file.flush()
    if not file.tell():
        return np.empty(0, dtype)  # nothing cannot be mapped
    return np.asarray(np.memmap(file, dtype, mode="r"))

"""Sizes that tensors are padded to, so that few shapes are ever run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def padded_size(size: int, sizes: Sequence[int]) -> int:
    """The smallest of the sizes, in rising order, that holds `size`; itself where none does.

    >>> padded_size(9, (8, 16)), padded_size(9, ()), padded_size(20, (8, 16))
    (16, 9, 20)
    """
    return next((one for one in sizes if one >= size), size)


def pad_axis(array: NDArray[Any], axis: int, size: int, value: int = 0) -> NDArray[Any]:
    """The array with an axis of at least `size`, filled up at its end."""
    missing = size - array.shape[axis]
    if missing <= 0:
        return array
    around = [(0, 0)] * array.ndim
    around[axis] = (0, missing)
    return np.pad(array, around, constant_values=value)

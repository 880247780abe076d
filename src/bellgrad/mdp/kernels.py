"""Compiled loops over the outcomes of an MDP. Each visits the rows of its arrays in parallel where there are enough of them."""

import numba
import numpy as np


@numba.njit(cache=True, parallel=True)
def row_dot(offset, left, right):
    """The sum of `left * right` over each row: `[len(offset) - 1]` float64."""
    rows = len(offset) - 1
    total = np.zeros(rows)
    for row in numba.prange(rows):
        for k in range(offset[row], offset[row + 1]):
            total[row] += left[k] * right[k]
    return total


@numba.njit(cache=True, parallel=True)
def row_sum(offset, values):
    """The sum of each row: `[len(offset) - 1]` float64."""
    rows = len(offset) - 1
    total = np.zeros(rows)
    for row in numba.prange(rows):
        for k in range(offset[row], offset[row + 1]):
            total[row] += values[k]
    return total

# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel video distance: the squared maximum mean discrepancy of two feature sets.

Kernel (x y / d + 1)^3, unbiased (Binkowski et al. 2018; as KVD Unterthiner et al. 2018).
Unlike that of a Frechet distance its mean does not depend on the number of clips, and no Gaussian
is assumed. Where the two distributions are equal it is negative about half of the time.
"""

import numpy as np

from nbp.metrics.estimates import Estimate, check_features
from nbp.shapes import Array, Float

OFFSET = 1.0
CHUNK = 1024  # rows of a kernel matrix at a time: 80 MiB against 10,000 columns


def kernel_distance(first: Float[Array, "n d"], second: Float[Array, "m d"]) -> Estimate:
    """Over all pairs of the two sets, n and m >= 3, as TATS computes it; and its jackknife error.

    The error is the two-sample delete-one jackknife. Memory is linear in n and m.
    """
    x, y = check_features(first, second, least=3, statistic="a kernel distance")
    n, m = len(x), len(y)
    within_x, within_y = _sum_rows(x, x, itself=True), _sum_rows(y, y, itself=True)
    x_to_y, y_to_x = _sum_rows(x, y), _sum_rows(y, x)
    total_x, total_y, across = within_x.sum(), within_y.sum(), x_to_y.sum()

    def combine(sum_x: Array, sum_y: Array, cross: Array, *, n: int, m: int) -> Array:
        return sum_x / (n * (n - 1)) + sum_y / (m * (m - 1)) - 2 * cross / (n * m)

    value = combine(total_x, total_y, across, n=n, m=m)
    without_x = combine(total_x - 2 * within_x, total_y, across - x_to_y, n=n - 1, m=m)
    without_y = combine(total_x, total_y - 2 * within_y, across - y_to_x, n=n, m=m - 1)
    variance = sum((len(left) - 1) * np.var(left) for left in (without_x, without_y))
    return Estimate(float(value), float(np.sqrt(variance)))


def _sum_rows(x: np.ndarray, y: np.ndarray, *, itself: bool = False) -> np.ndarray:
    """For each row of x the kernel summed over the rows of y; `itself`: but not over its own."""
    width = x.shape[1]
    sums = np.empty(len(x))
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        sums[rows] = _cube(x[rows] @ y.T / width + OFFSET).sum(axis=1)
    if itself:
        sums -= _cube(np.sum(x * x, axis=1) / width + OFFSET)
    return sums


def _cube(x: np.ndarray) -> np.ndarray:
    """The kernel's degree as products: a power of floats takes several times as long."""
    return x * x * x

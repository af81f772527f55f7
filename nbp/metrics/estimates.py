# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A score and how far it may be off."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nbp.errors import NonFiniteError
from nbp.shapes import Array, Float


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error; the function that made it says how that was found."""

    value: float
    error: float


@dataclass(frozen=True)
class Repeats:
    """Several runs of one evaluation: mean, their standard deviation, how many."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float], *, ddof: int = 1) -> "Repeats":
        """Of one value or more, the deviation with the divisor n - `ddof`: that of a single value
        is not known (NaN).
        """
        if not len(values):
            raise ValueError("no repeats to summarize")
        deviation = float(np.std(values, ddof=ddof)) if len(values) > 1 else math.nan
        return cls(float(np.mean(values)), deviation, len(values))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(self.count)


def check_features(*sets: Array, least: int, statistic: str) -> list[Float[np.ndarray, "_n d"]]:
    """Sets of vectors [n d] as float64; what the statistics of feature sets have in common.

    Raises ValueError where their widths differ or one has fewer than `least` vectors, and
    NonFiniteError where a feature is NaN or infinite.
    """
    checked = [np.asarray(features, np.float64) for features in sets]
    widths = {features.shape[1] for features in checked}
    if len(widths) > 1:
        raise ValueError(
            f"{statistic}: features of {' and '.join(map(str, sorted(widths)))} dimensions cannot "
            "be compared; extract both with the same network"
        )
    for features in checked:
        if len(features) < least:
            raise ValueError(
                f"{statistic} needs at least {least} vectors of each set, got {len(features)}"
            )
        if not np.isfinite(features).all():
            raise NonFiniteError(f"{statistic}: a feature is not finite; check clips and weights")
    return checked

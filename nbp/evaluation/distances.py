# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How far single clips are from a reference set: to find the best, the worst and weak classes."""

from dataclasses import dataclass

import numpy as np

from nbp.evaluation.frechet import Moments
from nbp.shapes import Array, Float

# Smaller variances, relative to the largest, count as this: a set of fewer clips than dimensions
# has directions without any variance, along which every other clip would be infinitely far.
LEAST_VARIANCE = 1e-3
NO_VARIANCE = 1e-12  # of a set of equal clips


@dataclass(frozen=True, eq=False)
class FeatureMetric:
    """Distances from the mean of a set, in the metric of its covariance (Mahalanobis).

    The distance of the set's own vectors is about the root of the dimensions where they have full
    rank. It ranks clips; it is no score of a model.
    """

    mean: Float[np.ndarray, "d"]
    axes: Float[np.ndarray, "d d"]

    @classmethod
    def of(cls, reference: Moments) -> "FeatureMetric":
        """Raises ValueError below two vectors."""
        values, vectors = np.linalg.eigh(reference.covariance)
        floor = max(LEAST_VARIANCE * float(values[-1]), NO_VARIANCE)
        return cls(reference.mean, vectors / np.sqrt(np.maximum(values, floor)))

    def __call__(self, features: Float[Array, "n d"]) -> Float[np.ndarray, "n"]:
        return np.linalg.norm((np.asarray(features, np.float64) - self.mean) @ self.axes, axis=1)

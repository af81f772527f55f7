# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Precision and recall of features: is each generated clip like a real one, and the reverse.

A set's manifold is the union of balls around its vectors, each reaching to the vector's k-th
neighbour in its own set (Kynkaanniemi et al. 2019). Density and coverage count balls instead of
asking for any (Naeem et al. 2020), so a single outlier's large ball moves them less.
"""

from dataclasses import dataclass

import numpy as np

from nbp.metrics.estimates import check_features
from nbp.shapes import Array, Float

CHUNK = 1024  # rows of a distance matrix at a time: 80 MiB against 10,000 columns
# Squared distances below this share of the squared lengths are rounding: equal vectors.
ROUNDING = 1e-13


@dataclass(frozen=True)
class ManifoldScores:
    """precision: share of generated vectors in the real manifold. recall: of real ones in the
    generated manifold. density: real balls around a generated vector, over k; may exceed 1.
    coverage: share of real balls that hold a generated vector.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(
    real: Float[Array, "n d"], made: Float[Array, "m d"], *, neighbours: int = 3
) -> ManifoldScores:
    """Scores of two sets of more than `neighbours` vectors each.

    All depend on n, m and k: compare at equal ones. A vector on the rim of a ball is inside. Takes
    (n + m)^2 d products and memory for 1024 rows of distances.
    """
    x, y = check_features(real, made, least=neighbours + 1, statistic="precision and recall")
    centre = x.mean(axis=0)  # distances lose fewer digits near zero
    x, y = x - centre, y - centre
    radii_x, radii_y = (_find_radii(rows, neighbours) for rows in (x, y))
    in_real = np.zeros(len(y), np.int64)
    in_made = np.zeros(len(x), bool)
    covered = np.zeros(len(x), bool)
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        distances = _square_distances(x[rows], y)
        in_ball = distances <= radii_x[rows, None]
        in_real += in_ball.sum(axis=0)
        covered[rows] = in_ball.any(axis=1)
        in_made[rows] = (distances <= radii_y).any(axis=1)
    return ManifoldScores(
        precision=float(np.mean(in_real > 0)),
        recall=float(in_made.mean()),
        density=float(in_real.mean() / neighbours),
        coverage=float(covered.mean()),
    )


def _find_radii(x: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distance of each row to its k-th neighbour among the others."""
    radii = np.empty(len(x))
    for start in range(0, len(x), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(x)))
        distances = _square_distances(x[rows], x)
        distances[np.arange(len(rows)), rows] = np.inf
        distances.partition(neighbours - 1, axis=1)
        radii[rows] = distances[:, neighbours - 1]
    return radii


def _square_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[rows of x, rows of y]; exactly 0 for equal rows."""
    lengths = np.sum(x * x, axis=1)[:, None] + np.sum(y * y, axis=1)
    distances = lengths - 2.0 * (x @ y.T)
    distances[distances < ROUNDING * lengths] = 0.0
    return distances

# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Mean, covariance and Frechet distance of feature sets, in float64 on the host."""

from dataclasses import dataclass

import numpy as np

from nbp.errors import NonFiniteError
from nbp.metrics.estimates import Estimate, check_features
from nbp.shapes import Array, Float


@dataclass(frozen=True, eq=False)
class Moments:
    """What a Frechet distance needs of a set of feature vectors; small, mergeable, float64.

    count: vectors seen. mean: [d]. scatter: sum of (x - mean)(x - mean)^T, [d d]. Batches and
    shards may come in any order and grouping: results agree to rounding, about 1e-13 relative
    (Chan, Golub and LeVeque 1983). Values never change: `add` and `merge` return new moments.
    """

    count: int
    mean: Float[np.ndarray, "d"]
    scatter: Float[np.ndarray, "d d"]

    @classmethod
    def empty(cls, dimensions: int) -> "Moments":
        """Of no vectors yet."""
        return cls(0, np.zeros(dimensions), np.zeros((dimensions, dimensions)))

    @classmethod
    def of(cls, features: Float[Array, "n d"]) -> "Moments":
        """Of one batch, n >= 0. Raises NonFiniteError if a feature is NaN or infinite."""
        x = np.asarray(features, np.float64)
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if bad.size:
            raise NonFiniteError(
                f"{bad.size} of {len(x)} feature vectors are not finite, first number {bad[0]}. "
                "Check the clips and the weights that they were computed from."
            )
        if not len(x):
            return cls.empty(x.shape[1])
        mean = x.mean(axis=0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def add(self, features: Float[Array, "n d"]) -> "Moments":
        """These and one more batch."""
        return self.merge(Moments.of(features))

    def merge(self, other: "Moments") -> "Moments":
        """Of both sets together. Raises ValueError if their dimensions differ."""
        _check_dimensions(self, other)
        count = self.count + other.count
        if not count:
            return self
        step = other.mean - self.mean
        share = other.count / count
        mean = self.mean + share * step
        scatter = self.scatter + other.scatter + self.count * share * np.outer(step, step)
        return Moments(count, mean, scatter)

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Unbiased (n - 1). Raises ValueError below two vectors."""
        return self.covariance_of(1)

    def covariance_of(self, ddof: int) -> Float[np.ndarray, "d d"]:
        """With the divisor n - `ddof`. Raises ValueError below two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 feature vectors, not {self.count}")
        return self.scatter / (self.count - ddof)


def frechet_distance(first: Moments, second: Moments, *, ddof: int = 1) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), at least 0 (Dowson and Landau 1982).

    With S = A A^T the trace of the root is the sum of the singular values of A1^T A2, which takes
    no root of a rounding error, so covariances of any rank are fine. A set of n <= d vectors has
    such a covariance: the distance is then that of the degenerate Gaussians, exact to about 1e-9
    relative and without a regularising term. It is finite but far above its limit for large n;
    compare such numbers only at equal n. (The official float64 code takes a matrix root of the
    product instead: equal to 1e-9 relative at full rank, off in the 8th digit below.)

    ddof: of both covariances; 1 is unbiased, LARP's code has 0.

    Raises ValueError if the dimensions differ or a set has fewer than two vectors.
    """
    _check_dimensions(first, second)
    difference = first.mean - second.mean
    s1, s2 = first.covariance_of(ddof), second.covariance_of(ddof)
    singular = np.linalg.svd(_root(s1).T @ _root(s2), compute_uv=False)
    distance = difference @ difference + np.trace(s1) + np.trace(s2) - 2 * singular.sum()
    return max(float(distance), 0.0)


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d r"]:
    """A with A A^T = covariance, r its numerical rank."""
    values, vectors = np.linalg.eigh(covariance)
    # Below this an eigenvalue is rounding; its root would not be.
    floor = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    kept = values > floor
    return vectors[:, kept] * np.sqrt(values[kept])


def _check_dimensions(first: Moments, second: Moments) -> None:
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"feature sets of {first.mean.size} and {second.mean.size} dimensions cannot be "
            "compared; extract both with the same network"
        )


# The fit begins at a tenth of the clips, as 5,000 of 50,000 in the paper, but not below this many
# per dimension: a covariance of less than full rank does not follow the law.
LEAST_SHARE = 0.1
LEAST_PER_DIMENSION = 2


@dataclass(frozen=True)
class Extrapolation:
    """value: the distance at n = infinity, and the standard error of the fit there (of the points
    about the line: subsets overlap, so it says how straight the line is, not what another sample
    would give). slope: the distance of n clips is about value + slope / n. sizes, distances: the
    points.
    """

    value: float
    error: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def extrapolate_frechet(
    made: Float[Array, "n d"],
    reference: Moments,
    *,
    points: int = 15,
    least: int | None = None,
    seed: int = 0,
    ddof: int = 1,
) -> Extrapolation:
    """Fits a line in 1 / size to the distances of random subsets of `made`, as FID-infinity does.

    points: subsets, of sizes in even steps from `least` to n. least: the smallest, by default the
    larger of n / 10 and 2 d. Only `made` is extrapolated: the reference stays the finite set that
    it is, as in the paper. ddof: see `frechet_distance`. Raises ValueError where n is below twice
    `least`.
    """
    (rows,) = check_features(made, least=4, statistic="FVD-infinity")
    count, width = rows.shape
    chosen = max(round(LEAST_SHARE * count), LEAST_PER_DIMENSION * width)
    first = chosen if least is None else least
    if points < 3 or not 2 <= first <= count // 2:
        raise ValueError(
            f"FVD-infinity of {count} clips from {first} clips on with {points} points: it needs "
            "3 points and twice the smallest subset. Score more clips, or name a smaller `least`."
        )
    rng = np.random.default_rng(seed)
    sizes = np.linspace(first, count, points).round().astype(int)
    distances = [
        frechet_distance(Moments.of(rows[rng.permutation(count)[:size]]), reference, ddof=ddof)
        for size in sizes
    ]
    line = np.stack([np.ones(points), 1.0 / sizes], axis=1)
    (value, slope), *_ = np.linalg.lstsq(line, np.array(distances), rcond=None)
    rest = np.array(distances) - line @ (value, slope)
    variance = np.linalg.inv(line.T @ line)[0, 0] * (rest @ rest) / (points - 2)
    return Extrapolation(
        value=float(value),
        error=float(np.sqrt(variance)),
        slope=float(slope),
        sizes=tuple(sizes.tolist()),
        distances=tuple(distances),
    )


def bootstrap_frechet(
    made: Float[Array, "n d"],
    reference: Float[Array, "m d"] | Moments,
    *,
    draws: int = 20,
    seed: int = 0,
    ddof: int = 1,
) -> Estimate:
    """The distance, and its bootstrap standard error: the deviation over sets drawn from each set
    with replacement.

    A reference given as moments is not drawn again: the error is then that of the generated clips
    alone, what another seed of sampling would change. The mean over draws is above the distance (a
    drawn set has fewer different clips) and is not used. One draw takes as long as one distance.
    """
    (rows,) = check_features(made, least=2, statistic="a bootstrap")
    drawn: np.ndarray | None = None
    fixed = reference
    if not isinstance(reference, Moments):
        (drawn,) = check_features(reference, least=2, statistic="a bootstrap")
        fixed = Moments.of(drawn)
    assert isinstance(fixed, Moments)
    if draws < 2:
        raise ValueError(f"a bootstrap needs at least 2 draws, not {draws}")
    rng = np.random.default_rng(seed)

    def draw(x: np.ndarray) -> Moments:
        return Moments.of(x[rng.integers(len(x), size=len(x))])

    values = [
        frechet_distance(draw(rows), fixed if drawn is None else draw(drawn), ddof=ddof)
        for _ in range(draws)
    ]
    value = frechet_distance(Moments.of(rows), fixed, ddof=ddof)
    return Estimate(value, float(np.std(values, ddof=1)))


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

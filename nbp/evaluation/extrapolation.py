# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How far off a Frechet distance is: by chance (bootstrap), by the number of clips (FVD-infinity).

The distance of n clips is above its limit by about a constant over n, which differs from model to
model: at small n a better model can get a worse number (Chong and Forsyth 2020).
"""

from dataclasses import dataclass

import numpy as np

from nbp.evaluation.estimates import Estimate, check_features
from nbp.evaluation.frechet import Moments, frechet_distance
from nbp.shapes import Array, Float

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

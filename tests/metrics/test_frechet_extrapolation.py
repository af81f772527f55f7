# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""FVD-infinity and bootstrap errors against sets whose distance is known."""

import numpy as np
import pytest

from nbp.metrics.frechet import Moments, bootstrap_frechet, extrapolate_frechet, frechet_distance


def draw(seed: int, n: int, d: int, *, shift: float = 0.0):
    return np.random.default_rng(seed).standard_normal((n, d)) + shift


def exact(d: int) -> Moments:
    """The moments of the distribution itself."""
    return Moments(10**6, np.zeros(d), np.eye(d) * (10**6 - 1))


def test_extrapolation_comes_near_the_known_distance():
    """Two Gaussians with means 0.1 apart in each of 20 dimensions: 20 x 0.01."""
    want, found, plain = 0.2, [], []
    for seed in range(8):
        made = draw(seed, 2000, 20, shift=0.1)
        found.append(extrapolate_frechet(made, exact(20), seed=seed).value)
        plain.append(frechet_distance(Moments.of(made[:500]), exact(20)))
    assert np.mean(plain) > 1.5 * want  # what 500 clips give
    assert np.mean(found) == pytest.approx(want, rel=0.08)


def test_fit_is_the_straight_line_through_its_points():
    result = extrapolate_frechet(draw(0, 600, 8, shift=0.2), exact(8), points=6, least=100)
    assert result.sizes == (100, 200, 300, 400, 500, 600)
    inverse = 1 / np.array(result.sizes)
    (slope, value), covariance = np.polyfit(inverse, result.distances, 1, cov=True)
    assert result.value == pytest.approx(value, rel=1e-9)
    assert result.slope == pytest.approx(slope, rel=1e-9)
    assert result.error == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-9)
    whole = frechet_distance(Moments.of(draw(0, 600, 8, shift=0.2)), exact(8))
    assert result.distances[-1] == pytest.approx(whole, rel=1e-9)


def test_subsets_are_of_full_rank_unless_asked():
    made = draw(0, 200, 40)
    assert extrapolate_frechet(made, exact(40)).sizes[0] == 80
    with pytest.raises(ValueError, match=r"of 150 clips from 80 clips on .* Score more clips"):
        extrapolate_frechet(made[:150], exact(40))
    assert extrapolate_frechet(made[:150], exact(40), least=30).sizes[0] == 30


def test_bootstrap_error_is_the_spread_over_new_sets():
    made = [draw(seed, 300, 6, shift=0.3) for seed in range(60)]
    real = [draw(1000 + seed, 200, 6) for seed in range(60)]
    one_sided = np.std([frechet_distance(Moments.of(x), exact(6)) for x in made], ddof=1)
    both = np.std(
        [frechet_distance(Moments.of(x), Moments.of(y)) for x, y in zip(made, real, strict=True)],
        ddof=1,
    )
    guesses = [bootstrap_frechet(x, exact(6), seed=i).error for i, x in enumerate(made[:20])]
    assert np.mean(guesses) == pytest.approx(one_sided, rel=0.3)
    pairs = zip(made[:20], real[:20], strict=True)
    guesses = [bootstrap_frechet(x, y, seed=i).error for i, (x, y) in enumerate(pairs)]
    assert np.mean(guesses) == pytest.approx(both, rel=0.3)
    assert both > 1.2 * one_sided


def test_bootstrap_leaves_the_distance_as_it_is():
    x, y = draw(0, 60, 5), draw(1, 50, 5, shift=0.4)
    found = bootstrap_frechet(x, y, draws=4)
    assert found.value == frechet_distance(Moments.of(x), Moments.of(y))
    assert found == bootstrap_frechet(x, y, draws=4)
    assert found.error != bootstrap_frechet(x, y, draws=4, seed=1).error
    with pytest.raises(ValueError, match="at least 2 draws"):
        bootstrap_frechet(x, y, draws=1)

# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Frechet distance and streaming moments against closed forms, numpy and scipy."""

from functools import reduce

import numpy as np
import pytest
import scipy.linalg

from nbp.errors import NonFiniteError
from nbp.metrics.frechet import Moments, frechet_distance
from tests.metrics.features import frechet


def draw(seed: int, n: int, d: int, *, scale: float = 1.0, shift: float = 0.0):
    """Correlated features with a spread of variances."""
    rng = np.random.default_rng(seed)
    spread = np.exp(0.5 * np.random.default_rng(0).standard_normal(d))
    x = rng.standard_normal((n, d))
    return (x + 0.5 * np.roll(x, 1, axis=1)) * spread * scale + shift


def gaussian(mean, covariance, count=1000):
    return Moments(count, np.array(mean, float), np.array(covariance, float) * (count - 1))


def sqrtm_distance(x, y):
    """The official formula, literally."""
    m1, m2 = x.mean(axis=0), y.mean(axis=0)
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2)
    return np.square(m1 - m2).sum() + np.real(np.trace(s1 + s2 - 2 * root))


def test_closed_form_of_isotropic_gaussians():
    d = 5
    first, second = gaussian(np.zeros(d), 4 * np.eye(d)), gaussian(np.full(d, 2.0), 9 * np.eye(d))
    assert frechet_distance(first, second) == pytest.approx(4 * d + d * (3 - 2) ** 2, rel=1e-12)


def test_closed_form_of_commuting_covariances():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    a, b = rng.uniform(0.1, 3, 6), rng.uniform(0.1, 3, 6)
    first = gaussian(np.zeros(6), basis @ np.diag(a) @ basis.T)
    second = gaussian(np.zeros(6), basis @ np.diag(b) @ basis.T)
    want = np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert frechet_distance(first, second) == pytest.approx(want, rel=1e-10)


def test_agrees_with_matrix_square_root():
    x, y = draw(1, 400, 32), draw(2, 300, 32, scale=1.3, shift=0.2)
    assert frechet(x, y) == pytest.approx(sqrtm_distance(x, y), rel=1e-9)


@pytest.mark.parametrize("n", [20, 500])
def test_identical_sets_are_at_zero(n):
    x = draw(3, n, 100, shift=5.0)
    assert 0 <= frechet(x, x[::-1]) < 1e-3


def test_symmetric():
    x, y = draw(4, 50, 64), draw(5, 300, 64, scale=2.0)
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-12)


def test_rank_deficient_sets_have_the_exact_distance():
    """With fewer vectors than dimensions: the trace is the nuclear norm of centred X Y^T."""
    x, y = draw(6, 24, 200), draw(7, 40, 200, scale=1.5, shift=0.3)
    a, b = ((z - z.mean(axis=0)) / np.sqrt(len(z) - 1) for z in (x, y))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    want = np.square(x.mean(0) - y.mean(0)).sum() + (a**2).sum() + (b**2).sum() - 2 * root
    assert frechet(x, y) == pytest.approx(want, rel=1e-11)


def test_constant_features_leave_the_distance_of_the_means():
    x, y = np.ones((10, 4)), np.full((7, 4), 3.0)
    assert frechet(x, y) == pytest.approx(16.0, rel=1e-12)


def test_moments_are_those_of_numpy():
    x = draw(8, 57, 12, shift=100.0)
    moments = Moments.of(x)
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance, np.cov(x, rowvar=False), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_order_and_grouping_do_not_matter(seed):
    x, y = draw(9, 301, 40, shift=50.0).astype(np.float32), draw(10, 200, 40)
    rng = np.random.default_rng(seed)
    shards = [Moments.empty(40) for _ in range(1 + seed)]
    cuts = np.sort(rng.integers(0, len(x), 9))
    for number, rows in enumerate(np.split(x[rng.permutation(len(x))], cuts)):
        shards[number % len(shards)] = shards[number % len(shards)].add(rows)
    rng.shuffle(shards)
    whole, merged = Moments.of(x), reduce(Moments.merge, shards)
    assert merged.count == len(x)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-9, atol=1e-9)
    other = Moments.of(y)
    assert frechet_distance(merged, other) == pytest.approx(
        frechet_distance(whole, other), rel=1e-9
    )


def test_float32_input_far_from_zero_is_summed_in_float64():
    x = (draw(11, 4000, 3) + 1e4).astype(np.float32)
    want = np.cov(x.astype(np.float64), rowvar=False)
    streamed = reduce(Moments.add, np.split(x, 40), Moments.empty(3))
    np.testing.assert_allclose(streamed.covariance, want, rtol=1e-9)


def test_bad_input_is_refused():
    good = Moments.of(draw(13, 8, 4))
    with pytest.raises(ValueError, match="4 and 5 dimensions"):
        frechet_distance(good, Moments.of(draw(13, 8, 5)))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(good, Moments.of(draw(13, 1, 4)))
    rows = draw(13, 8, 4)
    rows[5, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"1 of 8 .* number 5"):
        good.add(rows)


def test_the_divisor_of_the_covariances_is_a_choice():
    """LARP's code divides by n: against scipy's root of its own covariances."""
    first, second = draw(20, 40, 5), draw(21, 30, 5) * 1.3 + 0.2
    covariances = [np.cov(x, rowvar=False, ddof=0) for x in (first, second)]
    difference = first.mean(axis=0) - second.mean(axis=0)
    root = np.real(scipy.linalg.sqrtm(covariances[0] @ covariances[1]))
    want = difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root)
    moments = Moments.of(first), Moments.of(second)
    assert frechet_distance(*moments, ddof=0) == pytest.approx(want, rel=1e-9)
    assert frechet_distance(*moments) != pytest.approx(want, rel=1e-3)

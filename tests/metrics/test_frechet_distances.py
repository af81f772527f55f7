# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Distances of single clips from a reference set."""

import numpy as np

from nbp.metrics.frechet import LEAST_VARIANCE, FeatureMetric, Moments


def test_the_distance_is_mahalanobis() -> None:
    rng = np.random.default_rng(0)
    mixing = np.eye(6) + rng.uniform(-0.2, 0.2, (6, 6))
    real = rng.standard_normal((500, 6)) @ mixing + 3.0
    made = rng.standard_normal((9, 6))
    found = FeatureMetric.of(Moments.of(real))(made)
    difference = made - real.mean(axis=0)
    inverse = np.linalg.inv(np.cov(real, rowvar=False))
    want = np.sqrt(np.einsum("nd,de,ne->n", difference, inverse, difference))
    np.testing.assert_allclose(found, want, rtol=1e-9)
    own = FeatureMetric.of(Moments.of(real))(real)
    np.testing.assert_allclose(np.sqrt(np.mean(own**2)), np.sqrt(6), rtol=0.01)


def test_few_clips_give_finite_distances() -> None:
    real = np.zeros((3, 4))
    real[0, 0], real[1, 0] = 2.0, -2.0
    metric = FeatureMetric.of(Moments.of(real))
    far = metric(np.array([[0.0, 1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(far, 1 / np.sqrt(LEAST_VARIANCE * 4.0))
    assert np.isfinite(FeatureMetric.of(Moments.of(np.ones((3, 4))))(real)).all()

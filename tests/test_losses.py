# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Losses against float64 numpy and finite differences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp import losses


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(size=shape).astype(np.float32), rng.uniform(size=shape).astype(np.float32)


def reference_cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    total = 0.0
    for row, target in zip(logits.astype(np.float64).reshape(-1, 7), targets.ravel(), strict=True):
        share = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        total -= math.log(share[target])
    return total / targets.size


def finite_difference(function, x: np.ndarray, *, step: float = 1e-6) -> np.ndarray:
    """Central differences of a float64 numpy function."""
    x = x.astype(np.float64)
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient


def test_cross_entropy_and_its_gradient():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 3, 7), scale=3).astype(np.float32)
    targets = rng.integers(0, 7, (2, 3))
    loss, gradient = jax.value_and_grad(losses.cross_entropy)(jnp.asarray(logits), targets)
    np.testing.assert_allclose(loss, reference_cross_entropy(logits, targets), rtol=1e-6)
    expected = finite_difference(lambda x: reference_cross_entropy(x, targets), logits)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_cross_entropy_of_large_and_of_narrow_logits():
    targets = np.zeros((1, 1), np.int32)
    assert losses.cross_entropy(jnp.asarray([[[1e4, 0.0, 0.0]]]), targets) == 0.0
    np.testing.assert_allclose(
        losses.cross_entropy(jnp.asarray([[[0.0, 1e4, 0.0]]]), targets), 1e4, rtol=1e-6
    )
    narrow = jnp.zeros((1, 1, 64000), jnp.bfloat16)  # summed in float32, not in the logits' type
    loss = losses.cross_entropy(narrow, targets)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, math.log(64000), rtol=1e-5)


def test_top_accuracy_counts_ranks():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(4, 9, 11)).astype(np.float32)
    targets = rng.integers(0, 11, (4, 9))
    for top in (1, 2, 5, 11):
        best = np.argsort(-logits, axis=-1)[..., :top]
        expected = np.mean(
            [t in row for t, row in zip(targets.ravel(), best.reshape(-1, top), strict=True)]
        )
        np.testing.assert_allclose(losses.top_accuracy(logits, targets, top=top), expected)
    tied = np.zeros((1, 1, 4), np.float32)
    assert losses.top_accuracy(tied, np.array([[3]])) == 1.0


def test_pixel_losses():
    a, b = pair((2, 3, 4, 5, 3))
    x, y = a.astype(np.float64), b.astype(np.float64)
    np.testing.assert_allclose(losses.l1(a, b), np.abs(x - y).mean(), rtol=1e-5)
    np.testing.assert_allclose(losses.l2(a, b), ((x - y) ** 2).mean(), rtol=1e-5)
    expected = np.mean(np.sqrt((x - y) ** 2 + 1e-6) - 1e-3)
    np.testing.assert_allclose(losses.charbonnier(a, b), expected, rtol=1e-5)
    wide = np.mean(np.hypot(x - y, 0.5) - 0.5)
    np.testing.assert_allclose(losses.charbonnier(a, b, eps=0.5), wide, rtol=1e-5)


def test_charbonnier_is_smooth_where_l1_is_not():
    a, b = pair((3, 4), seed=3)
    a[0] = b[0]  # equal pixels: |x| has no derivative there
    gradient = jax.grad(lambda x: losses.charbonnier(x, jnp.asarray(b), eps=0.05))(jnp.asarray(a))

    def reference(x: np.ndarray) -> float:
        return float(np.mean(np.hypot(x - b.astype(np.float64), 0.05) - 0.05))

    np.testing.assert_allclose(gradient, finite_difference(reference, a), atol=1e-6)
    np.testing.assert_array_equal(gradient[0], 0.0)
    assert losses.charbonnier(b, b) == pytest.approx(0.0, abs=1e-9)


def test_psnr():
    a = np.full((1, 2, 2, 2, 3), 0.5, np.float32)
    np.testing.assert_allclose(losses.psnr(a, a + 0.1), 20.0, rtol=1e-5)
    np.testing.assert_allclose(losses.psnr(a, a), 100.0, rtol=1e-5)  # identical: finite


def test_code_histogram_and_perplexity():
    codes = np.random.default_rng(4).integers(0, 6, (3, 2, 4, 4))
    histogram = losses.code_histogram(codes, 8)
    np.testing.assert_array_equal(histogram, [(codes == i).sum() for i in range(8)])
    counts = np.bincount(codes.ravel())
    share = counts / counts.sum()
    np.testing.assert_allclose(losses.perplexity(histogram), np.prod(share**-share), rtol=1e-5)
    np.testing.assert_allclose(losses.perplexity(jnp.full(16, 3.0)), 16.0, rtol=1e-5)
    np.testing.assert_allclose(losses.perplexity(jnp.array([0.0, 9.0, 0.0])), 1.0)

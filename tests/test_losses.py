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
    histogram = jax.jit(losses.code_histogram, static_argnums=1)(codes, 8)
    np.testing.assert_array_equal(histogram, [(codes == i).sum() for i in range(8)])
    counts = np.bincount(codes.ravel())
    share = counts / counts.sum()
    np.testing.assert_allclose(losses.perplexity(histogram), np.prod(share**-share), rtol=1e-5)
    np.testing.assert_allclose(losses.perplexity(jnp.full(16, 3.0)), 16.0, rtol=1e-5)
    np.testing.assert_allclose(losses.perplexity(jnp.array([0.0, 9.0, 0.0])), 1.0)


# Gradients ---------------------------------------------------------------------------------------


def check_gradients(function, *arrays: np.ndarray, step: float = 1e-6) -> None:
    """Every partial derivative of a scalar function against central differences, in float64."""
    with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) for x in arrays]

        @jax.jit
        def run(*wide):
            """The gradients, and the differences that they should be: one program for all."""
            slopes = []
            for place, array in enumerate(wide):

                def difference(move, place=place):
                    up, down = (
                        function(*wide[:place], wide[place] + sign * move, *wide[place + 1 :])
                        for sign in (1, -1)
                    )
                    return (up - down) / (2 * step)

                moves = step * jnp.eye(array.size).reshape(array.size, *array.shape)
                slopes.append(jax.vmap(difference)(moves).reshape(array.shape))
            return jax.grad(function, argnums=tuple(range(len(wide))))(*wide), slopes

        for gradient, expected in zip(*run(*wide), strict=True):
            assert gradient.dtype == jnp.float64
            assert np.abs(expected).max() > 0
            np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-9)


def logits(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(scale=1.5, size=shape) for shape in shapes]


@pytest.mark.parametrize("loss", [losses.l1, losses.l2, losses.charbonnier])
def test_gradients_of_pixel_losses(loss):
    check_gradients(loss, *pair((1, 2, 3, 2, 3)))


def test_gradients_of_structure():
    check_gradients(losses.structure, *pair((1, 1, 17, 16, 1)))


@pytest.mark.parametrize("objective", [losses.HINGE, losses.NON_SATURATING])
def test_gradients_of_adversarial_terms(objective):
    real, fake = logits((2, 1, 3, 3), (2, 2, 2, 3))
    check_gradients(objective.discriminator, real, fake)
    check_gradients(objective.generator, fake)


def test_gradients_of_lecam():
    averages = {"real": 0.4, "fake": -0.3}
    check_gradients(lambda real, fake: losses.lecam(real, fake, averages), *logits((7,), (5,)))


def test_gradients_of_r1():
    """By the parameters of the discriminator: a derivative of a derivative."""
    clips, _ = pair((2, 1, 2, 2, 3))

    def penalty(weights):
        def verdict(x):
            return jnp.mean(jnp.tanh(jnp.square(x) @ weights), axis=(1, 2, 3, 4))

        return losses.r1(verdict, jnp.asarray(clips, weights.dtype))

    check_gradients(penalty, *logits((3, 2)))


# A perceptual distance without weights -----------------------------------------------------------


STRUCTURE = jax.jit(losses.structure)


def reference_structure(a: np.ndarray, b: np.ndarray) -> float:
    """`losses.structure` of clips in float64, one window at a time."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    scales = []
    while min(a.shape[2:4]) >= 8 and len(scales) < 4:
        windows_a, windows_b = (
            np.lib.stride_tricks.sliding_window_view(x, (7, 7), axis=(2, 3)) for x in (a, b)
        )
        mean_a, mean_b = windows_a.mean((-2, -1)), windows_b.mean((-2, -1))
        centred = (windows_a - mean_a[..., None, None]) * (windows_b - mean_b[..., None, None])
        ssim = (2 * mean_a * mean_b + 1e-4) * (2 * centred.mean((-2, -1)) + 9e-4)
        ssim /= mean_a**2 + mean_b**2 + 1e-4
        ssim /= windows_a.var((-2, -1)) + windows_b.var((-2, -1)) + 9e-4
        edges = sum(np.abs(np.diff(a, axis=axis) - np.diff(b, axis=axis)).mean() for axis in (2, 3))
        scales.append(edges + 1 - ssim.mean())
        h, w = (size // 2 * 2 for size in a.shape[2:4])
        a, b = (
            np.mean([x[:, :, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)], axis=0) for x in (a, b)
        )
    return float(np.mean(scales))


@pytest.mark.parametrize("shape", [(2, 2, 8, 15, 3), (1, 2, 19, 16, 3), (1, 1, 140, 130, 1)])
def test_structure_equals_a_numpy_version(shape):
    """One scale, two with an odd row, and no more than four."""
    a, b = pair(shape)
    a = 1.5 * a - 0.2  # outputs leave [0, 1]
    np.testing.assert_allclose(STRUCTURE(a, b), reference_structure(a, b), rtol=1e-5)


def test_structure_sees_blur_that_l2_hardly_does():
    """Of two outputs with the same squared error, the blurred one is further away."""
    clip = np.kron(np.random.default_rng(5).random((2, 2, 2, 4, 3)), np.ones((1, 1, 4, 4, 1)))
    clip = clip.astype(np.float32)
    blurred = np.mean([np.roll(clip, i, axis=2) for i in (-1, 0, 1)], axis=0)
    lighter = clip + np.float32(np.sqrt(np.mean((blurred - clip) ** 2)))
    np.testing.assert_allclose(losses.l2(blurred, clip), losses.l2(lighter, clip), rtol=1e-4)
    assert STRUCTURE(blurred, clip) > 2 * STRUCTURE(lighter, clip)
    assert STRUCTURE(clip, clip) == pytest.approx(0, abs=1e-6)


def test_structure_refuses_small_frames():
    with pytest.raises(ValueError, match="at least 8 px, got 8x7"):
        losses.structure(np.zeros((1, 1, 8, 7, 3)), np.zeros((1, 1, 8, 7, 3)))


# Adversarial terms -------------------------------------------------------------------------------


def test_adversarial_terms():
    real, fake = logits((2, 3, 4), (2, 3, 4), seed=6)
    np.testing.assert_allclose(
        losses.HINGE.discriminator(real, fake),
        (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()) / 2,
        rtol=1e-5,
    )
    np.testing.assert_allclose(losses.HINGE.generator(fake), -fake.mean(), rtol=1e-5)
    chance_real, chance_fake = (1 / (1 + np.exp(-x)) for x in (real, fake))
    np.testing.assert_allclose(
        losses.NON_SATURATING.discriminator(real, fake),
        -(np.log(chance_real).mean() + np.log(1 - chance_fake).mean()) / 2,
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        losses.NON_SATURATING.generator(fake), -np.log(chance_fake).mean(), rtol=1e-5
    )
    zero = np.zeros(3, np.float32)
    assert losses.HINGE.discriminator(zero, zero) == 1
    assert losses.NON_SATURATING.discriminator(zero, zero) == pytest.approx(math.log(2))


def test_terms_of_narrow_logits_are_float32():
    narrow = jnp.ones((2, 3), jnp.bfloat16)
    averages = {"real": jnp.zeros(()), "fake": jnp.zeros(())}
    for value in (
        losses.HINGE.discriminator(narrow, narrow),
        losses.HINGE.generator(narrow),
        losses.NON_SATURATING.discriminator(narrow, narrow),
        losses.NON_SATURATING.generator(narrow),
        losses.lecam(narrow, narrow, averages),
        losses.adaptive_weight({"kernel": narrow}, {"kernel": narrow}),
        losses.l1(narrow, 0 * narrow),
    ):
        assert value.dtype == jnp.float32


def test_lecam_and_its_averages():
    real, fake = logits((2, 3, 4), (2, 3, 4), seed=7)
    averages = {"real": np.float32(0.5), "fake": np.float32(-0.25)}
    expected = np.mean(np.maximum(0, real + 0.25) ** 2) + np.mean(np.maximum(0, 0.5 - fake) ** 2)
    np.testing.assert_allclose(losses.lecam(real, fake, averages), expected, rtol=1e-5)
    means = {"real": np.float32(1.0), "fake": np.float32(-1.0)}
    moved = losses.update_lecam(averages, means)
    np.testing.assert_allclose(moved["real"], 0.99 * 0.5 + 0.01, rtol=1e-6)
    np.testing.assert_allclose(moved["fake"], -0.99 * 0.25 - 0.01, rtol=1e-6)


def test_r1_is_half_the_squared_length_of_a_clips_gradient():
    clips, weights = pair((3, 1, 2, 2, 3), seed=8)

    def verdict(x):
        return jnp.sum(weights * jnp.square(x), axis=(1, 2, 3, 4))

    lengths = np.sum((2 * weights.astype(np.float64) * clips) ** 2, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(losses.r1(verdict, clips), 0.5 * lengths.mean(), rtol=1e-5)


def test_adaptive_weight_is_a_bounded_ratio_and_a_constant():
    first, second = ({"kernel": a, "bias": b} for a, b in (pair((2, 3), s) for s in (9, 10)))
    lengths = [
        np.sqrt(sum(np.sum(np.square(leaf.astype(np.float64))) for leaf in tree.values()))
        for tree in (first, second)
    ]
    np.testing.assert_allclose(
        losses.adaptive_weight(first, second), lengths[0] / (lengths[1] + 1e-6), rtol=1e-5
    )
    nothing = jax.tree.map(np.zeros_like, second)
    assert losses.adaptive_weight(first, nothing) == 1e4
    slopes = jax.grad(losses.adaptive_weight, argnums=(0, 1))(first, second)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(slopes))


def test_discriminator_accuracy_counts_both_kinds_alike():
    real = np.array([[1.0, 2.0, -1.0, 0.0]])  # two right
    fake = np.array([[-1.0, 0.0]])  # one right
    assert losses.discriminator_accuracy(real, fake) == 0.5
    assert losses.discriminator_accuracy(real[:, :2], fake[:, :1]) == 1.0
    assert losses.discriminator_accuracy(fake[:, :1], real[:, :2]) == 0.0

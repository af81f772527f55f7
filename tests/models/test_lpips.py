# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""LPIPS against a plain numpy version, at random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.models.lpips import EPSILON, SCALE, SHIFT, LpipsNetwork

# As many layers as VGG-16 has, and few channels.
NETWORK = LpipsNetwork(((4, 4), (6, 6), (8, 8, 8), (8, 8, 8), (8, 8, 8)))
PARAMS = NETWORK.init(jax.random.key(0))
DISTANCE = jax.jit(NETWORK.distance)


def numpy_conv(x, kernel, bias):
    """3x3 convolution, one output position at a time, and ReLU, of one image [h w c]."""
    h, w, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    patches = np.stack([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=2)
    flat = patches.reshape(h * w, -1) @ kernel.reshape(-1, kernel.shape[-1])
    return np.maximum(flat.reshape(h, w, -1) + bias, 0)


def numpy_lpips(params, first, second):
    images = [(2.0 * image.astype(np.float64) - 1.0 - SHIFT) / SCALE for image in (first, second)]
    total = 0.0
    for stage in range(5):
        if stage:
            h, w = (side // 2 for side in images[0].shape[:2])
            images = [
                np.max([x[i : 2 * h : 2, j : 2 * w : 2] for i in (0, 1) for j in (0, 1)], axis=0)
                for x in images
            ]
        for conv in params["stages"][stage].values():
            kernel, bias = np.float64(conv["kernel"]), np.float64(conv["bias"])
            images = [numpy_conv(x, kernel, bias) for x in images]
        a, b = (x / (np.sqrt((x**2).sum(-1, keepdims=True)) + EPSILON) for x in images)
        total += np.mean(((a - b) ** 2) @ np.float64(params["heads"][stage]))
    return total


def test_equals_a_numpy_version():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 2, 16, 19, 3), np.float32)
    params = jax.tree.map(lambda leaf: leaf + 0.01 * rng.random(leaf.shape, np.float32), PARAMS)
    found = jax.jit(lambda p, *pair: NETWORK.bind(p)(*pair))(params, first, second)
    expected = [numpy_lpips(params, a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_of_an_image_with_itself_is_zero_and_grows_with_noise():
    rng = np.random.default_rng(1)
    clip = jnp.asarray(rng.random((1, 2, 16, 16, 3), np.float32))
    noise = jnp.asarray(rng.normal(size=clip.shape), jnp.float32)
    distances = [float(DISTANCE(PARAMS, clip, clip + s * noise)[0]) for s in (0, 0.02, 0.1)]
    assert distances[0] == 0
    assert 0 < distances[1] < distances[2]


def test_gradients_are_finite_where_features_vanish():
    flat = jnp.zeros((1, 16, 16, 3))
    dead = jax.tree.map(lambda leaf: leaf * 0, PARAMS)
    differentiate = jax.jit(jax.grad(lambda x, params: NETWORK.bind(params)(x, flat + 0.5).sum()))
    gradient = differentiate(flat, dead)
    assert np.isfinite(np.asarray(gradient)).all()


@pytest.mark.parametrize("shape", [(1, 8, 16, 3), (1, 16, 15, 3)])
def test_images_below_16_px_are_refused(shape):
    with pytest.raises(ValueError, match="at least 16 px"):
        NETWORK.bind(PARAMS)(jnp.zeros(shape), jnp.zeros(shape))

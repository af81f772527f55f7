# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""C3D against a plain numpy version that works as PyTorch does: channels first, -inf as padding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.models.c3d import C3dNetwork, C3dSpec
from nbp.nn.conv3d import taps_conv

MEAN = (9.0, 8.0, 7.0)
# 48 px: three positions are left before the last, padded pool, which makes two of them.
SPEC = C3dSpec(
    classes=5, widths=(2, 3, 2, 3, 4), hidden=6, frames=32, size=48, mean=(9.0, 8.0, 7.0)
)
NETWORK = C3dNetwork(SPEC, taps_conv)


def draw_params():
    rng = np.random.default_rng(0)
    template = jax.eval_shape(NETWORK.init, jax.random.key(0))

    def draw(leaf):
        scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if len(leaf.shape) > 1 else 0.3
        return (rng.standard_normal(leaf.shape) * scale).astype(np.float32)

    return jax.tree.map(draw, template)


def numpy_conv(x, layer):
    """[c t h w] with zeros around it, one tap at a time, and ReLU."""
    kernel = np.asarray(layer["kernel"], np.float64)
    _, t, h, w = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1)))
    bias = np.asarray(layer["bias"], np.float64)
    total = np.zeros((len(bias), t, h, w)) + bias[:, None, None, None]
    for i, j, k in np.ndindex(3, 3, 3):
        window = padded[:, i : i + t, j : j + h, k : k + w]
        total += np.einsum("cthw,co->othw", window, kernel[i, j, k])
    return np.maximum(total, 0)


def numpy_pool(x, window, padding=0):
    p = padding
    x = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), constant_values=-np.inf)
    t, h, w = (size // part for size, part in zip(x.shape[1:], window, strict=True))
    out = np.empty((len(x), t, h, w))
    a, b, c = window
    for i, j, k in np.ndindex(t, h, w):
        part = x[:, i * a : i * a + a, j * b : j * b + b, k * c : k * c + c]
        out[:, i, j, k] = part.max(axis=(1, 2, 3))
    return out


def numpy_maps(params, clip):
    """The layers one after the other, as the ports write them; input [t h w c], ready."""
    convs, two = params["convs"], (2, 2, 2)
    x = numpy_pool(numpy_conv(np.moveaxis(clip, -1, 0), convs["conv1"]), (1, 2, 2))
    x = numpy_pool(numpy_conv(x, convs["conv2"]), two)
    for stage in "345":
        x = numpy_conv(numpy_conv(x, convs[f"conv{stage}a"]), convs[f"conv{stage}b"])
        x = numpy_pool(x, two, padding=int(stage == "5"))
    return x


def numpy_logits(params, maps):
    x = maps.reshape(-1)
    for name in ("fc6", "fc7", "fc8"):
        x = x @ np.float64(params[name]["kernel"]) + np.float64(params[name]["bias"])
        x = x if name == "fc8" else np.maximum(x, 0)
    return x


def test_equals_a_numpy_version():
    params = draw_params()
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 48, 48, 3)).astype(np.float32)
    # RGB is turned round, then the mean of blue, green and red goes off.
    ready = np.stack([pixels[..., 2] - 9, pixels[..., 1] - 8, pixels[..., 0] - 7], axis=-1)
    expected = [numpy_maps(params, clip) for clip in ready.astype(np.float64)]
    assert expected[0].shape == (4, 2, 2, 2)
    maps = jax.jit(lambda p, x: NETWORK.bind(p).maps(x))(params, ready)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.moveaxis(maps, -1, 1), expected, atol=1e-5 * scale)
    small = {**params, "fc8": jax.tree.map(lambda leaf: leaf * 0.05, params["fc8"])}  # undecided
    found = np.asarray(jax.jit(NETWORK.probabilities)(small, pixels))
    logits = np.stack([numpy_logits(small, maps) for maps in expected])
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert weights.sum(axis=1).min() > 1.001
    np.testing.assert_allclose(found, weights / weights.sum(axis=1, keepdims=True), atol=1e-3)


def test_the_published_sizes():
    """8192 numbers reach the first linear layer, and there are 78.4 M parameters with 101 classes.

    The sum is that of the ports' layers, written out.
    """
    assert C3dSpec().flat == 8192
    template = jax.eval_shape(C3dNetwork(C3dSpec(), taps_conv).init, jax.random.key(0))
    widths = (3, 64, 128, 256, 256, 512, 512, 512, 512)
    convs = sum(27 * i * o + o for i, o in itertools.pairwise(widths))
    linear = 8193 * 4096 + 4097 * 4096 + 4097 * 101
    assert sum(leaf.size for leaf in jax.tree.leaves(template)) == convs + linear


def test_other_clips_are_refused():
    with pytest.raises(ValueError, match="32 frames of 48 px"):
        NETWORK.bind(draw_params())(jnp.zeros((1, 16, 48, 48, 3)))
    with pytest.raises(ValueError, match="multiples of 16"):
        C3dSpec(frames=8)
